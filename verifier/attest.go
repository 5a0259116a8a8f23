package verifier

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// attempts bounds how often changed state makes one request appraise again.
const attempts = 4

// Attest judges evidence and answers with a token, or refuses: a denial is
// recorded and answered as a Refusal with its Outcome.
func (s *Service) Attest(ctx context.Context, body []byte) (*protocol.Outcome, error) {
	ev, err := evidence.Parse(body)
	if err != nil {
		return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: err.Error()}
	}
	req, err := ev.Request()
	if err != nil {
		return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: err.Error()}
	}
	digest := hexSum(body)
	for i := range attempts {
		r := &reads{s: s, fresh: i > 0, rows: map[ledger.Key][]byte{}}
		out, err := s.attest(ctx, r, ev, req, digest)
		if errors.Is(err, errStale) {
			continue
		}
		if refused(err) { // and nothing recorded that rests on the rows
			if same, err := r.current(ctx); err == nil && !same {
				continue
			}
		}
		if r.forged {
			s.forgery(ctx)
		}
		return out, err
	}
	return nil, fmt.Errorf("attesting: %w again and again", errStale)
}

// refused reports whether an error is a refusal other than a denial, which is
// recorded.
func refused(err error) bool {
	r := (*protocol.Refusal)(nil)
	return errors.As(err, &r) && r.Denied == nil
}

func (s *Service) attest(ctx context.Context, r *reads, ev *evidence.Evidence, req evidence.Request, digest string) (*protocol.Outcome, error) {
	if err := s.ClockSound(); err != nil {
		return nil, err
	}
	n, ok, err := read[Node](ctx, r, nodeKey(ev.Quote.Node))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, s.notEnrolled(ev.Quote.Node)
	}
	if again, ok := n.recent(req.ID); ok {
		if again.Digest != digest {
			return nil, protocol.Refuse(protocol.RequestReused, "request id %s was used with other evidence", req.ID)
		}
		if !r.fresh { // nothing will hold this answer against what counts now
			return nil, errStale
		}
		return s.repeat(ctx, n, again)
	}
	issued, err := s.checkChallenge(n, ev.Quote.Nonce, s.cfg.Now())
	if err != nil {
		r.forged = true // nobody knows yet who sent it
		return nil, err
	}
	a, err := s.appraise(ctx, r, n, ev, issued)
	if err != nil {
		return nil, err
	}
	if a.verdict.Granted() {
		if err := s.permitted(req); err != nil {
			return nil, err
		}
	}
	a.workload, a.keeper = appraisal.Basis(a.proven(), req.Workload), appraisal.Basis(a.proven(), req.Keeper)
	return s.record(ctx, a, req, digest)
}

// appraised is a verdict and what it rests on, before it is recorded.
type appraised struct {
	rows    *reads
	node    *Node
	domain  domainState
	in      *appraisal.Input
	sent    *evidence.Evidence
	verdict appraisal.Verdict
	jkt     string
	shared  bool // the list sent begins with the stored prefix, byte for byte

	workload, keeper string // on what their digests stand
}

// appraise makes the Input and judges it. Evidence that is not authentic is
// refused without a word on what was expected, and moves nothing (security
// rule 1).
func (s *Service) appraise(ctx context.Context, r *reads, n *Node, ev *evidence.Evidence, issued int64) (*appraised, error) {
	in := &appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: issued, Prior: n.prior(), Memory: &s.facts,
		Challenge: appraisal.Challenge{Domain: s.cfg.Domain, Node: n.ID, Nonce: ev.Quote.Nonce, Issued: issued, Purpose: evidence.Attestation, Binding: appraisal.BoundWrit}}
	auth, _ := appraisal.Authenticate(in)
	if auth == nil {
		r.forged = true
		return nil, protocol.Refuse(protocol.EvidenceUnverified, "the evidence is not signed by this node's enrolled key for this challenge")
	}
	if n.Status != Active {
		return nil, protocol.Refuse(protocol.NodeNotActive, "node %s is %s; %s", n.ID, n.Status, remedy(n))
	}
	if n.Doubt {
		return nil, protocol.Refuse(protocol.NodeNotActive, "node %s had its TPM cleared, copied or restored; an operator must suspend and activate it again, or it must be provisioned anew", n.ID)
	}
	jkt, err := s.thumbprint(ev.Item(evidence.BindKey).Content)
	if err != nil {
		return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: "reading bind-key: " + err.Error()}
	}
	full, err := s.complete(ctx, n, ev)
	if err != nil {
		return nil, err
	}
	d, _, err := read[domainState](ctx, r, stateKey)
	if err != nil {
		return nil, err
	}
	if d == nil {
		d = new(domainState)
	}
	in.Evidence = full
	in.References = appraisal.References{EKRoots: s.roots}
	if in.Prior.IAK != nil {
		in.References.IAKRoots = s.cfg.IAKRoots
	}
	if in.References.Set, err = s.wholeSet(ctx, r, n.Class); err != nil {
		return nil, err
	}
	a := &appraised{rows: r, node: n, domain: *d, in: in, sent: ev, verdict: auth.Appraise(), jkt: jkt}
	return a, s.recognize(ctx, a)
}

// thumbprint is [token.ThumbprintJWK]; an agent shows one key for as long as it runs.
func (s *Service) thumbprint(jwk []byte) (string, error) {
	key := "jwk/" + string(jwk)
	if jkt, ok := s.facts.Recall(key).(string); ok {
		return jkt, nil
	}
	jkt, err := token.ThumbprintJWK(jwk)
	if err == nil {
		s.facts.Keep(key, jkt)
	}
	return jkt, err
}

// prior is what an appraisal of the node starts from.
func (n *Node) prior() appraisal.Prior {
	p := appraisal.Prior{AK: n.AK, Generation: n.Generation, Class: n.Class, Boot: n.Boot}
	if n.Vouched {
		k := appraisal.IAK(*n.IAK)
		p.EK, p.IAK = n.EKs[0].Public, &k
		return p
	}
	for i, ek := range n.EKs {
		if i == 0 {
			p.EK = ek.Public
		}
		if len(ek.Certificate) > 0 {
			p.EKCertificates = append(p.EKCertificates, ek.Certificate)
		}
		p.EKChain = append(p.EKChain, ek.Chain...)
	}
	return p
}

// permitted checks what the node asks for against the domain's policy. Refusing
// it is not a verdict on the node.
func (s *Service) permitted(req evidence.Request) error {
	if req.Audience != s.EnclaveAudience() && !slices.Contains(s.cfg.Audiences, req.Audience) {
		return protocol.Refuse(protocol.RequestRefused, "audience %.100q is not one nodes may ask for; add it to audiences", req.Audience)
	}
	if req.Level < s.cfg.MinLevel {
		return protocol.Refuse(protocol.RequestRefused, "enforcement level %s is below %s, the lowest this domain accepts", req.Level, s.cfg.MinLevel)
	}
	return nil
}

// record commits the verdict with everything it changes and signs the token
// after the commit.
func (s *Service) record(ctx context.Context, a *appraised, req evidence.Request, digest string) (*protocol.Outcome, error) {
	in, blobs, stored, err := s.store(a)
	if err != nil {
		return nil, err
	}
	input, verdict := in.marshal(), hexSum(in.Verdict)
	blobs = append(blobs, input)
	d := decision{Input: hexSum(input), Verdict: verdict, Within: true}
	var due *pledge // nil: denied
	var node Node
	var puts []ledger.Put
	keys := []ledger.Key{nodeKey(a.node.ID), stateKey, referenceKey(a.node.Class)}
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: keys, Blobs: blobs, Build: func(slot ledger.Slot) (ledger.Change, error) {
		var err error
		if node, err = s.unchanged(slot, a); err != nil {
			return ledger.Change{}, err
		}
		run := node.Run
		var entry ledger.Entry
		if entry, due, err = s.decide(slot, a, &node, req, verdict); err != nil {
			return ledger.Change{}, err
		}
		d := d
		if due != nil {
			d.Claims, d.KID = due.claims, due.kid
		}
		node.remember(Request{ID: req.ID, Digest: digest, Index: slot.Index})
		marks := mark(slot, &node, in, stored) // before the row is written
		puts = node.puts(run)
		return ledger.Change{Entries: []ledger.Entry{entry}, Puts: append(append(marks, puts...),
			ledger.Put{Key: decisionKey(node.ID, slot.Index), Value: d.marshal()})}, nil
	}})
	if err != nil {
		return nil, err
	}
	s.rows.put(puts[0].Key, seen{puts[0].Value, &node})
	s.hold(a, &node)
	out := &protocol.Outcome{Verdict: in.Verdict, Tier: a.verdict.Tier, At: a.verdict.At, Receipt: receipts[0].Proof}
	if due == nil {
		return s.answer(ctx, &node, out, receipts[0].Index)
	}
	s.deadlines.note(node.ID, due.claims.Expires)
	if out.Token, err = s.redeem(due); err != nil {
		return nil, err
	}
	return s.answer(ctx, &node, out, receipts[0].Index)
}

// unchanged is the look under the head lock at everything the verdict rested on
// (security rule 13). It returns the node as it stands.
func (s *Service) unchanged(slot ledger.Slot, a *appraised) (Node, error) {
	n, ok, err := a.standing(slot)
	if err != nil {
		return n, err
	}
	if !ok || n.Counter != a.node.Counter || n.Status != a.node.Status || n.Class != a.node.Class || !bytes.Equal(n.AK, a.node.AK) {
		return n, errStale
	}
	if !a.rows.holds(slot, stateKey) {
		d, _, err := slotRow[domainState](slot, stateKey)
		if err != nil {
			return n, err
		}
		if d != a.domain {
			return n, errStale
		}
	}
	if a.domain.Frozen && a.verdict.Granted() { // a denial counts all the same
		return n, protocol.Refuse(protocol.DomainFrozen, "the domain is frozen: no token is issued until operators lift it")
	}
	if err := s.WitnessSound(); err != nil && a.verdict.Granted() {
		return n, err
	}
	if key := referenceKey(a.node.Class); !a.rows.holds(slot, key) {
		ref, _, err := slotRow[activeReference](slot, key)
		if err != nil {
			return n, err
		}
		if ref.Digest != a.setDigest() { // that of its layers is held by the domain's generation
			return n, errStale
		}
	}
	return n, nil
}

// standing is the node's row under the head lock. It is decoded only where it is
// not the one that was judged by.
func (a *appraised) standing(slot ledger.Slot) (n Node, ok bool, err error) {
	key := nodeKey(a.node.ID)
	switch _, ok = slot.Row(key); {
	case a.rows.holds(slot, key):
		n = *a.node
		n.Recent = slices.Clip(n.Recent) // what is added must not show in the other
		return n, true, nil
	case !a.rows.fresh: // remembered from any time ago
		return n, false, errStale
	}
	return slotRow[Node](slot, key)
}

// decide changes the node by the verdict and returns the entry that says so.
// due is the token that is to be signed, nil for a denial.
func (s *Service) decide(slot ledger.Slot, a *appraised, n *Node, req evidence.Request, verdict string) (entry ledger.Entry, due *pledge, err error) {
	v := &a.verdict
	data := bundle.Decision{Decision: v.Decision, Tier: v.Tier, At: v.At, Verdict: verdict, Evidence: v.Inputs.Evidence, References: v.Inputs.References, From: n.Effective(slot.At)}
	n.Counter++
	last := uint64(0)
	if n.Last != nil {
		last = n.Last.Index
	}
	n.Last = &Summary{Index: slot.Index, At: slot.At.Unix(), Decision: v.Decision, Tier: v.Tier, References: v.Inputs.References, Findings: append([]appraisal.Finding{}, v.Findings[:min(len(v.Findings), 8)]...)}
	kind := bundle.Decided
	if data.From == FailClosed && n.State != FailClosed { // lapsed since: the stored word follows
		n.State = FailClosed
	}
	if v.Granted() {
		kind = bundle.Issued
		if data.From == Synchronized || data.From == Elevated {
			kind = bundle.Renewed
		}
		if err := n.move(Verified, Synchronized); err != nil {
			return entry, nil, err
		}
		if kind == bundle.Issued || n.Run <= a.domain.Since {
			n.Run = slot.Index
		}
		if due, err = s.claims(slot, a, n, req, verdict); err != nil {
			return entry, nil, err
		}
		c := due.claims
		data.Token = based(recordToken(c, req, 0), a.workload, a.keeper)
		n.Boot, n.JKT, n.Deadline, n.Base = v.Next(), a.jkt, c.Expires, slot.Index
		a.chunks(n)
	} else {
		if err := n.move(FailClosed); err != nil {
			return entry, nil, err
		}
		n.Ended, n.Run = n.Seq, 0
		if n.Doubt = cloned(v); !n.Doubt {
			n.Boot = v.Next()
			a.chunks(n)
		}
	}
	n.booted(last, slot.Index)
	data.To, data.Seq = n.State, n.Seq
	return s.entry(kind, n.ID, "verifier/"+s.cfg.Name, data), due, nil
}

// cloned reports that the counters themselves are in doubt: then nothing of
// this quote may become the state later ones are held against.
func cloned(v *appraisal.Verdict) bool {
	return slices.ContainsFunc(v.Findings, func(f appraisal.Finding) bool { return f.Code == "counters/clone" })
}

// chunks keeps the node's list of blobs in step with its proven IMA prefix.
func (a *appraised) chunks(n *Node) {
	before := uint64(0)
	switch {
	case n.Boot == nil || n.Boot.IMA == nil:
		n.IMAChunks = nil
		return
	case a.resumes() && a.shared:
		before = a.node.Boot.IMA.Offset
	default: // as store keeps it: the whole of what was sent
		n.IMAChunks = nil
	}
	if full := a.in.Evidence.Item(evidence.IMALog).Content; n.Boot.IMA.Offset > before {
		n.IMAChunks = append(slices.Clone(n.IMAChunks), hexSum(full[before:n.Boot.IMA.Offset]))
	}
}

// setDigest is that of the class's own set, empty for none.
func (a *appraised) setDigest() string {
	if a.in.References.Set == nil {
		return ""
	}
	sum := a.in.References.Set.Own()
	return hex.EncodeToString(sum[:])
}

// resumes reports that the stored prefix is still a prefix: same boot.
func (a *appraised) resumes() bool {
	p, b := a.node.Boot, a.verdict.Boot
	return p != nil && p.IMA != nil && b != nil && b.IMA != nil && p.ResetCount == b.ResetCount && p.RestartCount == b.RestartCount && b.IMA.Offset >= p.IMA.Offset
}

// recognize looks whether the list sent begins with the prefix that is stored. A
// resumed appraisal does not read that part, so a node could have sent anything
// in its place, and the decision must be stored with what was sent.
func (s *Service) recognize(ctx context.Context, a *appraised) error {
	if !a.resumes() {
		return nil
	}
	list, err := s.provenIMA(ctx, a.node)
	a.shared = err == nil && bytes.HasPrefix(a.in.Evidence.Item(evidence.IMALog).Content, list.Content)
	return err
}

// answer completes what was committed: without a token in it, it is a denial.
func (s *Service) answer(ctx context.Context, n *Node, out *protocol.Outcome, index uint64) (*protocol.Outcome, error) {
	next, err := s.challenge(n, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	out.Challenge = next
	if out.Token != "" {
		return out, nil
	}
	event, err := s.signEvent(ctx, n, "denied", "the node's evidence was denied")
	if err != nil {
		return nil, err
	}
	out.Events = []string{event}
	s.hub.publish(index, n.ID, event, s.cfg.Now())
	return nil, &protocol.Refusal{Code: protocol.PolicyDenied, Detail: why(out.Verdict), Denied: out}
}

// repeat answers a request that was answered before: the same claims while they
// live, never another decision (security rule 9).
func (s *Service) repeat(ctx context.Context, n *Node, r Request) (*protocol.Outcome, error) {
	d, ok, err := row[decision](ctx, s, decisionKey(n.ID, r.Index))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, protocol.Refuse(protocol.NotFound, "the decision of request %s is no longer held", r.ID)
	}
	if d.Claims != nil && s.cfg.Now().Unix() >= d.Claims.Expires {
		return nil, protocol.Refuse(protocol.NonceExpired, "request %s was answered and its token has expired; attest anew", r.ID)
	}
	if d.Claims != nil {
		_, ended, err := s.Ended(ctx, d.Claims)
		if err != nil {
			return nil, err
		}
		if ended {
			return nil, protocol.Refuse(protocol.TokenRevoked, "the token of request %s was revoked", r.ID)
		}
	}
	out := new(protocol.Outcome)
	if d.Verdict != "" {
		if out.Verdict, err = s.verdict(ctx, &d); err != nil {
			return nil, err
		}
		var v appraisal.Verdict
		if err := decode(out.Verdict, &v); err != nil {
			return nil, fmt.Errorf("reading the verdict of request %s: %w", r.ID, err)
		}
		out.Tier, out.At = v.Tier, v.At
	}
	if out.Receipt, err = s.log.Prove(ctx, r.Index); err != nil {
		return nil, err
	}
	if d.Claims != nil {
		if out.Token, err = s.issue(d.Claims, s.signs(&d)); err != nil {
			return nil, err
		}
	}
	return s.answer(ctx, n, out, r.Index)
}

// signs is the key that signs a stored decision once more: the one of then while its
// tokens count, else the one of now.
func (s *Service) signs(d *decision) string {
	if p := s.published.Load(); s.TokenKeys().Key(d.KID) == nil {
		return p.signer
	}
	return d.KID
}

// forgery counts evidence that is not authentic. One entry a minute says how
// much of it there was; nothing else of it leaves a trace.
func (s *Service) forgery(ctx context.Context) {
	now := s.cfg.Now().Unix()
	s.forged.Add(1)
	since := s.forgedSince.Load()
	if since == 0 && s.forgedSince.CompareAndSwap(0, now) {
		return
	}
	if now-since < 60 || !s.forgedSince.CompareAndSwap(since, now) {
		return
	}
	count := s.forged.Swap(0)
	_, err := s.log.Append(context.WithoutCancel(ctx), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Entries: []ledger.Entry{s.entry(bundle.ForgeriesRejected, "domain", "verifier/"+s.cfg.Name, bundle.Rejected{Count: count, From: since, To: now})}}, nil
	}})
	if err != nil {
		s.cfg.Slog.ErrorContext(ctx, "recording rejected evidence", "error", err)
	}
}

// why names the first finding of a denial, for whoever sees only one line.
func why(verdict []byte) string {
	var v appraisal.Verdict
	if err := decode(verdict, &v); err != nil || len(v.Findings) == 0 {
		return "the evidence is authentic and was denied"
	}
	f := v.Findings[0]
	more := ""
	if n := len(v.Findings) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more findings)", n)
	}
	return fmt.Sprintf("the evidence was denied: %s: expected %s, found %s; %s%s", f.Code, f.Expected, f.Found, f.Next, more)
}
