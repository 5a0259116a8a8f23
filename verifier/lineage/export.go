package lineage

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/blake2b"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
)

// statement is an in-toto Statement v1 whose predicate is a SLSA Verification
// Summary v1.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     summary    `json:"predicate"`
}

type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

type summary struct {
	Verifier           verifier   `json:"verifier"`
	TimeVerified       string     `json:"timeVerified"`
	ResourceURI        string     `json:"resourceUri"`
	Policy             resource   `json:"policy"`
	InputAttestations  []resource `json:"inputAttestations"`
	VerificationResult string     `json:"verificationResult"`
	VerifiedLevels     []string   `json:"verifiedLevels"`
	SLSAVersion        string     `json:"slsaVersion"`
	Lineage            *Lineage   `json:"urn:writ:lineage:v1"` // extensions have URIs for names
}

type verifier struct {
	ID string `json:"id"`
}

// PayloadType names an in-toto statement inside a DSSE envelope.
const PayloadType = "application/vnd.in-toto+json"

// ErrNoSubject: in-toto statements are about digests.
var ErrNoSubject = errors.New("the execution has no workload digest")

// Native returns the lineage as JSON.
func (l *Lineage) Native() ([]byte, error) { return json.Marshal(l) }

// InToto returns a DSSE envelope, signed with key, of [Lineage.Statement].
func (l *Lineage) InToto(key ed25519.PrivateKey) ([]byte, error) {
	payload, err := l.Statement()
	if err != nil {
		return nil, err
	}
	return envelope(payload, key)
}

// Statement returns an in-toto statement, which nobody has signed: the workload was
// let run on these inputs. [ErrNoSubject] without a workload.
func (l *Lineage) Statement() ([]byte, error) {
	x := &l.Execution
	alg, sum, ok := strings.Cut(x.Workload, ":")
	if !ok {
		return nil, fmt.Errorf("writing an in-toto statement: %w", ErrNoSubject)
	}
	admitted, ok := x.find(Admitted)
	if !ok {
		return nil, errors.New("writing an in-toto statement: the execution was never admitted")
	}
	uri := "urn:writ:" + l.Domain + ":execution:" + x.ID
	s := statement{
		Type:          "https://in-toto.io/Statement/v1",
		Subject:       []resource{{Name: x.ID, Digest: map[string]string{alg: sum}}},
		PredicateType: "https://slsa.dev/verification_summary/v1",
		Predicate: summary{
			Verifier: verifier{"urn:writ:" + l.Domain}, TimeVerified: timestamp(admitted.At), ResourceURI: uri,
			InputAttestations: []resource{}, VerificationResult: "PASSED", VerifiedLevels: []string{"WRIT_LEGITIMATE", "WRIT_" + x.Level}, SLSAVersion: "1.0", Lineage: l,
		},
	}
	if x.Basis == appraisal.BasisMeasured {
		s.Predicate.VerifiedLevels = append(s.Predicate.VerifiedLevels, "WRIT_WORKLOAD_MEASURED")
	}
	if e, ok := x.find(Authorized); ok {
		var d bundle.Decision
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return nil, fmt.Errorf("writing an in-toto statement: entry %d: %w", e.Index, err)
		}
		s.Predicate.Policy = resource{URI: "urn:writ:" + l.Domain + ":references", Digest: map[string]string{"sha256": d.References}}
		s.Predicate.InputAttestations = []resource{{URI: fmt.Sprintf("urn:writ:%s:log:%d", l.Domain, e.Index), Digest: map[string]string{"sha256": d.Evidence}}}
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing an in-toto statement: %w", err)
	}
	return payload, nil
}

// envelope signs a payload: DSSE v1.0.2.
func envelope(payload []byte, key ed25519.PrivateKey) ([]byte, error) {
	signed := append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(PayloadType), PayloadType, len(payload)), payload...)
	id := sha256.Sum256(key.Public().(ed25519.PublicKey))
	type signature struct {
		KeyID string `json:"keyid"`
		Sig   []byte `json:"sig"`
	}
	return json.Marshal(struct {
		Payload     string      `json:"payload"`
		PayloadType string      `json:"payloadType"`
		Signatures  []signature `json:"signatures"`
	}{base64.StdEncoding.EncodeToString(payload), PayloadType, []signature{{hex.EncodeToString(id[:]), ed25519.Sign(key, signed)}}})
}

// egNames are the events' names in RFC-EG-0010.
var egNames = map[string]string{
	Authorized: "authorization.issued",
	Admitted:   "admission.granted",
	Renewed:    "admission.renewed",
	Terminated: "execution.completed",
}

// EG0010 returns the execution as an RFC-EG-0010 document: a chain of events,
// each bound to the one before by SHA3-512 and by BLAKE2b-512.
func (l *Lineage) EG0010() ([]byte, error) {
	x := &l.Execution
	events := []map[string]any{}
	var prev, prevB any // null before the first
	for i, e := range x.Events {
		var data map[string]any
		d := json.NewDecoder(bytes.NewReader(e.Data))
		d.UseNumber() // theirs and ours print floats differently; there are none
		if err := d.Decode(&data); err != nil {
			return nil, fmt.Errorf("writing an RFC-EG-0010 document: entry %d: %w", e.Index, err)
		}
		event := map[string]any{
			"v": "1", "evt": egNames[e.Event], "op_id": x.ID, "seq": i + 1, "ts": timestamp(e.At),
			"producer":  map[string]any{"service": "writ", "instance": l.Domain},
			"payload":   map[string]any{"log_index": e.Index, "actor": e.Actor, "node": x.Node, "parent": x.Parent, "workload": x.Workload, "workload_basis": x.Basis, "keeper": x.Keeper, "keeper_basis": x.KBasis, "image": x.Image, "image_basis": x.IBasis, "data": data},
			"prev_hash": prev, "prev_hash_b": prevB,
		}
		text, err := canonical(event)
		if err != nil {
			return nil, fmt.Errorf("writing an RFC-EG-0010 document: entry %d: %w", e.Index, err)
		}
		a := sha3.Sum512(append(bytes.Clone(text), orGenesis(prev)...))
		b := blake2b.Sum512(append(bytes.Clone(text), orGenesis(prevB)...))
		prev, prevB = "sha3-512:"+hex.EncodeToString(a[:]), "blake2b-512:"+hex.EncodeToString(b[:])
		event["chash"], event["chash_b"] = prev, prevB
		events = append(events, event)
	}
	return canonical(map[string]any{"rfc": "RFC-EG-0010", "version": "1", "operation_id": x.ID, "events": events})
}

func orGenesis(prev any) string {
	if s, ok := prev.(string); ok {
		return s
	}
	return "genesis"
}

// canonical writes JSON with sorted keys and no spaces, as JavaScript would:
// what the two escape differently is refused.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if bytes.Contains(out, []byte(`\u`)) {
		return nil, errors.New("text with control characters or line separators has no common form")
	}
	return out, nil
}
