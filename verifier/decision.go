package verifier

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/internal/jsonform"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

// decision is what is stored of one decision beside its log entry: enough to
// make its Input, its verdict and its token again.
type decision struct {
	Input   string        `json:"input,omitempty"`   // blob: storedInput
	Verdict string        `json:"verdict,omitempty"` // SHA-256 of the verdict's bytes
	Within  bool          `json:"within,omitempty"`  // the verdict is in the input's blob; else it is one of its own
	Claims  *token.Claims `json:"claims,omitempty"`  // nil: denied
	KID     string        `json:"kid,omitempty"`     // of the key that was to sign them
	Key     string        `json:"key,omitempty"`     // thumbprint of the keeper's
	Base    uint64        `json:"base,omitempty"`    // index of the decision a further token rests on
}

// marshal writes the row as encoding/json does.
func (d decision) marshal() []byte {
	o := jsonform.In(make([]byte, 0, 1<<11))
	o.Filled("input", d.Input)
	o.Filled("verdict", d.Verdict)
	if d.Within {
		o.Raw("within", []byte("true"))
	}
	if d.Claims != nil {
		o.B = d.Claims.AppendJSON(o.Name("claims").B)
	}
	o.Filled("kid", d.KID)
	o.Filled("key", d.Key)
	if d.Base != 0 {
		o.Uint("base", d.Base)
	}
	return o.End()
}

// blobs are the blobs that are of this decision alone.
func (d *decision) blobs() (sums []ledger.Hash) {
	names := []string{d.Input, d.Verdict}
	if d.Within {
		names = names[:1]
	}
	for _, name := range names {
		if h, ok := digest(name); ok {
			sums = append(sums, h)
		}
	}
	return sums
}

// verdict is the verdict of a decision.
func (s *Service) verdict(ctx context.Context, d *decision) ([]byte, error) {
	if !d.Within {
		return s.blob(ctx, d.Verdict)
	}
	raw, err := s.blob(ctx, d.Input)
	if err != nil {
		return nil, err
	}
	return verdictIn(raw, d.Verdict)
}

// verdictIn is the verdict, by its digest, in a blob that holds an input and it.
func verdictIn(blob []byte, sum string) ([]byte, error) {
	var in storedInput
	if err := json.Unmarshal(blob, &in); err != nil {
		return nil, fmt.Errorf("reading the input that verdict %s is in: %w", sum, err)
	}
	if found := hexSum(in.Verdict); found != sum {
		return nil, fmt.Errorf("%w: the verdict in the input has the hash %s, the decision names %s", ledger.ErrCorrupt, found, sum)
	}
	return in.Verdict, nil
}

// storedInput is an appraisal.Input with its bulk by digest, and the verdict on it.
type storedInput struct {
	Evidence  json.RawMessage     `json:"evidence"`          // the collection without its logs; once it was in base64
	Verdict   json.RawMessage     `json:"verdict,omitempty"` // absent: in a blob of its own
	UEFILog   string              `json:"uefi_log,omitempty"`
	IMALog    []string            `json:"ima_log,omitempty"` // chunks
	Challenge appraisal.Challenge `json:"challenge"`
	Enrolment string              `json:"enrolment"`          // blob: the Prior without its Boot
	Enrolled  uint64              `json:"enrolled,omitempty"` // index of the entry that says so; 0: stored before it was kept
	Boot      *appraisal.Boot     `json:"boot,omitempty"`
	Set       string              `json:"set,omitempty"`     // blob: the reference set's envelope
	Layers    []string            `json:"layers,omitempty"`  // blobs: those of the sets it builds on
	Lacking   bool                `json:"lacking,omitempty"` // the set named what was not in force
	EKRoots   []string            `json:"ek_roots"`          // blobs
	IAKRoots  []string            `json:"iak_roots,omitempty"`
	Rules     int                 `json:"rules"`
	At        int64               `json:"at"`
}

// marshal writes the input as encoding/json does.
func (in *storedInput) marshal() []byte {
	o := jsonform.In(make([]byte, 0, len(in.Evidence)+len(in.Verdict)+1<<11))
	o.Raw("evidence", in.Evidence)
	if len(in.Verdict) > 0 {
		o.Raw("verdict", in.Verdict)
	}
	list := func(name string, values []string) {
		if len(values) > 0 {
			o.Strings(name, values)
		}
	}
	o.Filled("uefi_log", in.UEFILog)
	list("ima_log", in.IMALog)
	o.B = in.Challenge.AppendJSON(o.Name("challenge").B)
	o.String("enrolment", in.Enrolment)
	if in.Enrolled != 0 {
		o.Uint("enrolled", in.Enrolled)
	}
	if in.Boot != nil {
		o.B = in.Boot.AppendJSON(o.Name("boot").B)
	}
	o.Filled("set", in.Set)
	list("layers", in.Layers)
	if in.Lacking {
		o.Raw("lacking", []byte("true"))
	}
	o.Strings("ek_roots", in.EKRoots)
	list("iak_roots", in.IAKRoots)
	o.Int("rules", int64(in.Rules))
	o.Int("at", in.At)
	return o.End()
}

// collection is the evidence without its logs.
func (in *storedInput) collection() (*evidence.Evidence, error) {
	b := []byte(in.Evidence)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(in.Evidence, &b); err != nil {
			return nil, err
		}
	}
	return evidence.Parse(b)
}

// shares are the blobs that an input shares with others.
func (in *storedInput) shares() []string {
	return slices.DeleteFunc(slices.Concat([]string{in.UEFILog, in.Enrolment, in.Set}, in.IMALog, in.Layers, in.EKRoots, in.IAKRoots), func(sum string) bool { return sum == "" })
}

// store returns the input to keep, blobs it names that may not be stored yet, and
// the digests of those among them that are evidence.
func (s *Service) store(a *appraised) (in *storedInput, blobs [][]byte, stored []string, err error) {
	bare := evidence.New(a.sent.Quote)
	for _, l := range []string{evidence.BindKey, evidence.EKCert, evidence.KeyCert, evidence.OSLog, evidence.Ask} {
		bare.Set(l, a.sent.Item(l))
	}
	in = &storedInput{Verdict: a.verdict.Marshal(), Challenge: a.in.Challenge, Boot: a.in.Prior.Boot, Rules: a.in.Rules, At: a.in.At, Enrolled: a.node.Entry}
	if in.Evidence, err = bare.Marshal(); err != nil {
		return nil, nil, nil, err
	}
	enrolment := a.in.Prior
	enrolment.Boot = nil
	blobs = append(blobs, enrolment.AppendJSON(nil))
	in.Enrolment = hexSum(blobs[0])
	if it := a.in.Evidence.Item(evidence.UEFILog); it.Content != nil {
		log, sum := it.Content, it.SHA256()
		in.UEFILog = hex.EncodeToString(sum[:])
		if a.sent.Item(evidence.UEFILog).Digest == nil {
			blobs, stored = append(blobs, log), append(stored, in.UEFILog)
		}
	}
	if list := a.in.Evidence.Item(evidence.IMALog).Content; list != nil {
		var n uint64
		if a.shared {
			in.IMALog, n = slices.Clone(a.node.IMAChunks), a.node.Boot.IMA.Offset
		}
		shared := len(in.IMALog)
		// Proven and unproven bytes are separate blobs, so that the proven one is shared with later decisions.
		if b := a.verdict.Boot; b != nil && b.IMA != nil && b.IMA.Offset > n {
			in.IMALog, blobs = append(in.IMALog, hexSum(list[n:b.IMA.Offset])), append(blobs, list[n:b.IMA.Offset])
			n = b.IMA.Offset
		}
		if n < uint64(len(list)) {
			in.IMALog, blobs = append(in.IMALog, hexSum(list[n:])), append(blobs, list[n:])
		}
		stored = append(stored, in.IMALog[shared:]...)
	}
	if set := a.in.References.Set; set != nil {
		in.Set, in.Lacking = set.EnvelopeDigest(), !set.Whole()
		for _, l := range set.Layers() {
			in.Layers = append(in.Layers, l.EnvelopeDigest())
		}
	}
	in.EKRoots = s.rootSums
	for _, r := range a.in.References.IAKRoots {
		in.IAKRoots = append(in.IAKRoots, hexSum(r))
	}
	return in, blobs, stored, nil
}
