package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

// Results of a check, and of a whole report.
const (
	Pass    = "pass"
	Fail    = "fail"
	Skipped = "skipped"

	ResultVerified = "verified" // everything holds and the verdict grants
	ResultDenied   = "denied"   // everything holds and the verdict denies
	ResultInvalid  = "invalid"  // something does not hold
	ResultPartial  = "partial"  // nothing fails, but something could not be checked
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// Report is the outcome of checking a bundle.
type Report struct {
	Result  string   `json:"result"`
	Checks  []Check  `json:"checks"`
	Steps   []Check  `json:"steps,omitempty"` // of the appraisal, where asked for; see [Report.Explain]
	Verdict *Summary `json:"verdict"`
}

// Summary is the part of a verdict that people and scripts read.
type Summary struct {
	Decision string              `json:"decision"`
	Tier     string              `json:"tier"`
	Vector   appraisal.Vector    `json:"vector"`
	Until    string              `json:"until"` // RFC 3339
	Binding  string              `json:"binding"`
	Findings []appraisal.Finding `json:"findings"`
}

func (r *Report) check(name string, err error, detail string, args ...any) {
	c := Check{name, Pass, fmt.Sprintf(detail, args...)}
	if err != nil {
		c.Result, c.Detail = Fail, err.Error()
	}
	r.Checks = append(r.Checks, c)
}

// Explain adds the steps of the appraisal of in, which the report is about: each
// check with what went into it. What the reference set itself leaves out is
// skipped there and says why; it changes no result.
func (r *Report) Explain(in *appraisal.Input) {
	_, steps := appraisal.Explain(in)
	r.Steps = nil
	for _, s := range steps {
		r.Steps = append(r.Steps, Check(s))
	}
}

func (r *Report) skip(name, why string) {
	r.Checks = append(r.Checks, Check{name, Skipped, why})
}

func (r *Report) failed() bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Result == Fail })
}

// Verify checks everything a bundle claims against a trust file. The token is
// checked as of the second it was issued: a bundle proves what was decided, not
// that the node is legitimate now.
func Verify(b *Bundle, t *Trust) *Report {
	r := new(Report)
	v := appraisal.Appraise(b.Input)
	r.summarize(&v)
	r.domain(b, t)
	r.references(b, t)
	r.roots("ek-roots", b.Input.References.EKRoots, t.EKRoots)
	if b.Input.Prior.IAK != nil || len(b.Input.References.IAKRoots) > 0 {
		r.roots("iak-roots", b.Input.References.IAKRoots, t.IAKRoots)
	}
	r.verdict(b, &v)
	if len(b.Entry) == 0 && b.Receipt == "" && b.Token == "" {
		r.skip("history", "the bundle holds no log entry: it was collected offline, not decided by a verifier")
	} else {
		entry := r.history(b, t)
		r.witnesses(b, t)
		r.enrolment(b, t, entry)
		r.entry(b, &v, entry)
		r.token(b, t, &v, entry)
	}
	r.conclude(v.Granted())
	return r
}

func (r *Report) summarize(v *appraisal.Verdict) {
	findings := v.Findings
	if findings == nil {
		findings = []appraisal.Finding{}
	}
	r.Verdict = &Summary{Decision: v.Decision, Tier: v.Tier, Vector: v.Vector, Until: time.Unix(v.Until, 0).UTC().Format(time.RFC3339), Binding: v.Binding, Findings: findings}
}

func (r *Report) conclude(granted bool) {
	skipped := slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Result == Skipped })
	switch {
	case r.failed():
		r.Result = ResultInvalid
	case !granted:
		r.Result = ResultDenied
	case skipped:
		r.Result = ResultPartial
	default:
		r.Result = ResultVerified
	}
}

func (r *Report) domain(b *Bundle, t *Trust) {
	var err error
	if b.Input.Challenge.Domain != t.Domain {
		err = fmt.Errorf("expected domain %s, found %q; use the trust file of that domain", t.Domain, b.Input.Challenge.Domain)
	}
	r.check("domain", err, "%s, node %s", b.Input.Challenge.Domain, b.Input.Challenge.Node)
}

func (r *Report) references(b *Bundle, t *Trust) {
	set := b.Input.References.Set
	if set == nil {
		r.skip("references", "the decision was made without a reference set")
		return
	}
	keys, err := t.references()
	if err == nil {
		err = set.Verify(keys, max(t.Threshold, 1))
	}
	r.check("references", err, "%s generation %d, SHA-256 %x, signed by %d of the trust file's %d keys or more", set.Name, set.Generation, set.Digest(), max(t.Threshold, 1), len(keys))
}

func (r *Report) roots(name string, used [][]byte, trust []string) {
	trusted, err := roots(trust)
	for _, root := range used {
		if err == nil && !slices.ContainsFunc(trusted, func(t []byte) bool { return bytes.Equal(t, root) }) {
			err = fmt.Errorf("the decision relied on a root (SHA-256 %x) that the trust file does not hold", sha256.Sum256(root))
		}
	}
	r.check(name, err, "%d roots, all trusted", len(used))
}

func (r *Report) verdict(b *Bundle, v *appraisal.Verdict) {
	var err error
	if got := v.Marshal(); !bytes.Equal(got, b.Verdict) {
		err = fmt.Errorf("appraising the input again gives another verdict: expected SHA-256 %x, found %x", sha256.Sum256(got), sha256.Sum256(b.Verdict))
	}
	r.check("verdict", err, "appraised again from the input: the same bytes, SHA-256 %x", sha256.Sum256(b.Verdict))
}

// proven is a log entry that the receipt proves.
type proven struct {
	index uint64
	under ledger.Checkpoint
	data  Decision
}

func (r *Report) history(b *Bundle, t *Trust) *proven {
	index, cp, err := t.CheckProof(b.Receipt, b.Entry)
	r.check("receipt", err, "entry %d of %s, leaf SHA-256 %x, under a checkpoint of %d entries signed by the log's key", index, cp.Origin, sha256.Sum256(append([]byte{0}, b.Entry...)), cp.Size)
	if err != nil {
		return nil
	}
	return r.decided(b, t.Domain, &proven{index: index, under: cp})
}

// decided reads the bundle's entry into p: a decision on its node.
func (r *Report) decided(b *Bundle, domain string, p *proven) *proven {
	leaf, err := ledger.ParseLeaf(b.Entry)
	if err == nil && !slices.Contains([]string{Decided, Issued, Renewed}, leaf.Kind) {
		err = fmt.Errorf("the entry is %s, not a decision", leaf.Kind)
	}
	if err == nil && leaf.Subject != Subject(domain, b.Input.Challenge.Node) {
		err = errors.New("the entry is about another node")
	}
	if err == nil {
		err = json.Unmarshal(leaf.Data, &p.data)
	}
	r.check("entry", err, "%s at %s", leaf.Kind, time.Unix(leaf.At, 0).UTC().Format(time.RFC3339))
	if err != nil {
		return nil
	}
	return p
}

// witnesses looks for the cosignatures that the trust file demands. A receipt
// that was given before the next round has none yet: that is not a failure, but
// nothing is verified either.
func (r *Report) witnesses(b *Bundle, t *Trust) {
	notes := [][]byte{}
	receipts := []string{b.Receipt}
	if b.Enrolment != nil {
		receipts = append(receipts, b.Enrolment.Receipt)
	}
	for _, receipt := range receipts {
		p, err := ledger.ParseProof(receipt)
		if err != nil {
			if t.WitnessPolicy != "" {
				r.check("witnesses", err, "")
			}
			return
		}
		notes = append(notes, p.Note)
	}
	r.cosigned(t, notes...)
}

func (r *Report) cosigned(t *Trust, notes ...[]byte) {
	policy, err := ParsePolicy(t.WitnessPolicy)
	if err != nil {
		r.check("witnesses", err, "")
		return
	}
	if !policy.Demands() {
		return
	}
	var who []string
	for _, note := range notes {
		by, ok := policy.Cosigned(note, t.LogKeys(note)...)
		if !ok {
			r.skip("witnesses", fmt.Sprintf("the checkpoint is cosigned by %d witnesses (%s), which is not the quorum that the trust file demands; fetch the bundle again after the next round", len(by), strings.Join(by, ", ")))
			return
		}
		who = by
	}
	r.check("witnesses", nil, "cosigned by %s", strings.Join(who, ", "))
}

func (r *Report) entry(b *Bundle, v *appraisal.Verdict, e *proven) {
	if e == nil {
		r.skip("decision", "no entry was proven")
		return
	}
	var err error
	sum := sha256.Sum256(b.Verdict)
	switch d := &e.data; {
	case d.Verdict != hex.EncodeToString(sum[:]):
		err = fmt.Errorf("the entry records verdict %s, the bundle holds %x", d.Verdict, sum)
	case d.Evidence != v.Inputs.Evidence || d.References != v.Inputs.References || d.Decision != v.Decision || d.At != v.At:
		err = fmt.Errorf("the entry records a %s at %d over other evidence or references", d.Decision, d.At)
	}
	r.check("decision", err, "the entry records this verdict, evidence and reference set")
}

func (r *Report) token(b *Bundle, t *Trust, v *appraisal.Verdict, e *proven) {
	if b.Token == "" {
		var err error
		if v.Granted() || (e != nil && e.data.Token != nil) {
			err = fmt.Errorf("the verdict grants, but the bundle holds no token")
		}
		r.check("token", err, "none, as the verdict denies")
		return
	}
	if e == nil || e.data.Token == nil {
		r.check("token", fmt.Errorf("no proven entry records a token"), "")
		return
	}
	rec := e.data.Token
	want := token.Expect{Issuer: t.IssuerURL(), Audience: rec.Audience, Domain: t.Domain}
	var c *token.Claims
	keys, err := t.keysAt(rec.Issued) // the proven entry's word
	if err == nil {
		c, err = token.Verify(b.Token, keys, want, time.Unix(rec.Issued, 0).UTC())
	}
	if err == nil {
		err = rests(b, t, v, e, c)
	}
	r.check("token", err, "seq %d for %s, SHA-256 of its signing input %x, valid from %s to %s", rec.Seq, rec.Audience, token.Digest(b.Token),
		time.Unix(rec.Issued, 0).UTC().Format(time.RFC3339), time.Unix(rec.Expires, 0).UTC().Format(time.RFC3339))
}

// rests tells whether a token is the one that the entry records, follows from the
// verdict and is what the node asked for in its evidence.
func rests(b *Bundle, t *Trust, v *appraisal.Verdict, e *proven, c *token.Claims) error {
	if b.Input.Evidence == nil {
		return errors.New("the bundle holds no evidence that a token could rest on")
	}
	w := &c.Writ
	jkt, keyErr := token.ThumbprintJWK(b.Input.Evidence.Item(evidence.BindKey).Content)
	asked, askErr := b.Input.Evidence.Request()
	rec := e.data.Token // of its members, the two on what digests stand follow from nothing but the list: see measured
	made := Token{ID: c.ID, Audience: c.Audience, Issued: c.IssuedAt, Expires: c.Expires, Seq: w.Seq, Prev: w.Prev, JKT: c.Confirm.JKT, X5T: c.Confirm.X5T,
		Exec: w.Execution, Parent: asked.Parent, Workload: w.Workload, Keeper: asked.Keeper, Key: asked.Key, Image: asked.Image, Argv: asked.Argv, Level: w.Level, Epoch: w.Epoch,
		WorkloadBasis: rec.WorkloadBasis, KeeperBasis: rec.KeeperBasis}
	sum := sha256.Sum256(b.Verdict)
	switch {
	case made != *rec:
		return errors.New("the entry records another token than this one")
	case w.Verdict != base64.RawURLEncoding.EncodeToString(sum[:]) || w.Evidence != Base64(v.Inputs.Evidence) || w.References != Base64(v.Inputs.References):
		return errors.New("the token rests on another verdict, evidence or reference set")
	case uint64(w.Log.Index) != e.index || c.Expires > v.Until:
		return errors.New("the token names another entry, or outlives the verdict")
	case v.Boot == nil || c.BootCount != v.Boot.ResetCount:
		return fmt.Errorf("the token is of boot %d, which is not the one that was judged", c.BootCount)
	case c.Subject != "spiffe://"+t.Domain+"/node/"+b.Input.Challenge.Node:
		return fmt.Errorf("the token is for %s", c.Subject)
	case keyErr != nil || jkt != c.Confirm.JKT:
		return errors.New("the token is bound to another key than the one the quote binds")
	case askErr != nil || asked.Audience != c.Audience || asked.R != c.Nonce || asked.Execution != w.Execution || asked.Workload != w.Workload || asked.Level != w.Level:
		return errors.New("the token is not what the node asked for in its evidence")
	}
	return measured(b, v, rec)
}

// measured finds the digests in the proven part of the IMA list that the entry
// says were measured.
func measured(b *Bundle, v *appraisal.Verdict, t *Token) error {
	var proven []byte
	if v.Boot != nil && v.Boot.IMA != nil {
		proven = b.Input.Evidence.Item(evidence.IMALog).Content[:v.Boot.IMA.Offset]
	}
	for _, d := range []struct{ name, digest, basis string }{{"workload", t.Workload, t.WorkloadBasis}, {"keeper", t.Keeper, t.KeeperBasis}} {
		if d.basis == appraisal.BasisMeasured && appraisal.Basis(proven, d.digest) != d.basis {
			return fmt.Errorf("the entry says that the %s %s was measured, but no proven entry of the IMA list names it", d.name, d.digest)
		}
	}
	return nil
}

// trusted are the roots of a trust file.
func (r *Report) trusted(name string, pems []string) [][]byte {
	out, err := roots(pems)
	r.check(name, err, "%d roots from the trust file", len(out))
	return out
}

// Judge appraises an input by itself: recorded or collected evidence, or a
// bundle's under another reference set. Nothing of a log or a token is looked
// at. Without a trust file, whatever needs one is skipped.
func Judge(in *appraisal.Input, t *Trust) *Report {
	r := new(Report)
	if t == nil {
		r.skip("ek-roots", "no trust file: no TPM maker is trusted")
		in.References.EKRoots, in.References.IAKRoots = nil, nil // not the input's own either
	} else {
		in.References.EKRoots = r.trusted("ek-roots", t.EKRoots)
		in.References.IAKRoots = nil
		if in.Prior.IAK != nil {
			in.References.IAKRoots = r.trusted("iak-roots", t.IAKRoots)
		}
	}
	switch set := in.References.Set; {
	case set == nil:
		r.skip("references", "no reference set was given")
	case t == nil:
		r.skip("references", "no trust file: who signed the set was not checked")
	default:
		r.references(&Bundle{Input: in}, t)
	}
	if in.References.Set != nil && in.Prior.Class == "" {
		in.Prior.Class = in.References.Set.Name
	}
	in.Prior.Boot = nil
	v := appraisal.Appraise(in)
	r.summarize(&v)
	r.skip("history", "the evidence was judged here and now; no log or token was checked")
	r.conclude(v.Granted())
	return r
}
