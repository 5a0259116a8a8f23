package verifier

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// pledge is a token that an entry speaks of and that is not signed yet.
type pledge struct {
	claims *token.Claims
	kid    string // of the key that is to sign
	input  string // what it signs
}

// claims completes the claims of a token under the head lock: seq, prev and the
// index come from there, never from the node (security rule 9).
func (s *Service) claims(slot ledger.Slot, a *appraised, n *Node, req evidence.Request, verdict string) (*pledge, error) {
	v := &a.verdict
	iat := slot.At.Unix()
	exp := min(iat+int64(s.cfg.TokenLife.Seconds()), v.Until, a.in.Challenge.Issued+2*int64(s.cfg.TokenLife.Seconds()))
	if exp <= iat {
		return nil, protocol.Refuse(protocol.NonceExpired, "what the verdict rests on ended at %d, before a token could be made; attest anew", v.Until)
	}
	submod := token.Submod{Status: v.Tier, Vector: affirmed(v.Vector), Policies: []string{"urn:sha256:" + v.Inputs.References}}
	c := &token.Claims{
		Subject: s.NodeSubject(n.ID), IssuedAt: iat, NotBefore: iat, Expires: exp,
		BootCount: v.Boot.ResetCount, Status: v.Tier, Submods: map[string]token.Submod{"platform": submod},
		Confirm: token.Confirm{JKT: a.jkt}, Listed: s.listed(n.Run),
		Writ: token.Writ{Evidence: bundle.Base64(v.Inputs.Evidence), References: bundle.Base64(v.Inputs.References), Verdict: bundle.Base64(verdict), Epoch: a.domain.Epoch},
	}
	if v.Boot.Key != nil {
		c.Writ.Key = "tpm"
	}
	return s.personal(slot, &a.domain, n, req, c)
}

// affirmed leaves out of a token what its tier does not speak for: claims the
// reference set does not require and that came out worse.
func affirmed(v appraisal.Vector) token.Vector {
	keep := func(name string) int8 {
		if value := v.Claim(name); appraisal.TierOf(value) == appraisal.Affirming {
			return value
		}
		return 0
	}
	return token.Vector{InstanceIdentity: keep(reference.InstanceIdentity), Configuration: keep(reference.Configuration),
		Executables: keep(reference.Executables), Hardware: keep(reference.Hardware)}
}

// personal adds what is of this request and this place in the node's chain, and
// moves the chain on. d is the domain's state under the head lock.
func (s *Service) personal(slot ledger.Slot, d *domainState, n *Node, req evidence.Request, c *token.Claims) (*pledge, error) {
	if _, err := s.signer(d.Signer); err != nil {
		return nil, err
	}
	jti := make([]byte, 16)
	if _, err := io.ReadFull(s.cfg.Rand, jti); err != nil {
		return nil, fmt.Errorf("drawing a token id: %w", err)
	}
	c.Issuer, c.Audience, c.ID = s.cfg.Issuer, req.Audience, base64.RawURLEncoding.EncodeToString(jti)
	c.Nonce, c.Profile = req.R, cmp.Or(s.cfg.EARProfile, token.Profile2026)
	c.Verifier = token.Verifier{Developer: "https://github.com/writ-attestation/writ", Build: s.cfg.Build}
	n.Seq++
	w := &c.Writ
	w.V, w.State, w.Seq, w.Prev = 1, n.State, n.Seq, n.Prev
	w.Execution, w.Workload, w.Level = req.Execution, req.Workload, req.Level
	if w.Key == "" {
		w.Key = "lease"
	}
	w.Log = token.Log{Origin: s.cfg.Domain + "/log", Index: int64(slot.Index)}
	input, err := token.Prepare(*c, d.Signer)
	if err != nil {
		return nil, fmt.Errorf("writing the token: %w", err)
	}
	sum := token.Digest(input)
	n.Prev = base64.RawURLEncoding.EncodeToString(sum[:])
	return &pledge{c, d.Signer, input}, nil
}

func recordToken(c *token.Claims, req evidence.Request, base uint64) *bundle.Token {
	return &bundle.Token{ID: c.ID, Audience: c.Audience, Issued: c.IssuedAt, Expires: c.Expires, Seq: c.Writ.Seq, Prev: c.Writ.Prev, JKT: c.Confirm.JKT, X5T: c.Confirm.X5T,
		Exec: c.Writ.Execution, Parent: req.Parent, Keeper: req.Keeper, Key: req.Key, Image: req.Image, Argv: req.Argv, Workload: c.Writ.Workload, Level: c.Writ.Level, Epoch: c.Writ.Epoch, Base: base}
}

// Token gives a node that proved possession of its base token's key a further
// token, for one execution or another audience. It rests on the same verdict,
// ends at the same second, and costs no quote.
func (s *Service) Token(ctx context.Context, base *token.Claims, req evidence.Request) (*protocol.Grant, error) {
	return s.Bound(ctx, base, req, "")
}

// Bound is Token, but bound to the client certificate of a thumbprint, which was shown
// beside the proof, instead of the node's key; "": to that all the same.
func (s *Service) Bound(ctx context.Context, base *token.Claims, req evidence.Request, x5t string) (*protocol.Grant, error) {
	if err := cmp.Or(s.ClockSound(), s.WitnessSound()); err != nil {
		return nil, err
	}
	if err := errors.Join(s.permitted(req), s.mayBind(base, req, x5t)); err != nil {
		return nil, err
	}
	node, ok := s.nodeOf(base.Subject)
	if !ok {
		return nil, protocol.Refuse(protocol.NotEnrolled, "%.100s is not a node of %s", base.Subject, s.cfg.Domain)
	}
	workload, keeper, err := s.basis(ctx, node, req)
	if err != nil {
		return nil, err
	}
	digest := hexSum(append(req.Marshal(), x5t...))
	var due *pledge
	var again *Request
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{nodeKey(node), stateKey}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		due, again = nil, nil
		n, ok, err := slotRow[Node](slot, nodeKey(node))
		if err != nil {
			return ledger.Change{}, err
		}
		if !ok {
			return ledger.Change{}, protocol.Refuse(protocol.NotEnrolled, "no node %s is enrolled", node)
		}
		if r, ok := n.recent(req.ID); ok {
			again = &r
			return ledger.Change{}, errAnswered
		}
		d, err := s.mayDerive(slot, &n, base)
		if err != nil {
			return ledger.Change{}, err
		}
		if err := s.mayHalt(slot, &n, req); err != nil {
			return ledger.Change{}, err
		}
		c := *base
		c.IssuedAt, c.NotBefore = slot.At.Unix(), slot.At.Unix()
		if x5t != "" {
			c.Confirm = token.Confirm{X5T: x5t}
		}
		if c.Expires <= c.IssuedAt {
			return ledger.Change{}, protocol.Refuse(protocol.TokenRevoked, "the base token expired; attest anew")
		}
		if due, err = s.personal(slot, &d, &n, req, &c); err != nil {
			return ledger.Change{}, err
		}
		n.remember(Request{ID: req.ID, Digest: digest, Index: slot.Index})
		return ledger.Change{
			Entries: []ledger.Entry{s.entry(bundle.Admitted, n.ID, "verifier/"+s.cfg.Name, based(recordToken(&c, req, uint64(base.Writ.Log.Index)), workload, keeper))},
			Puts: []ledger.Put{put(kindNode, n.ID, n),
				{Key: decisionKey(n.ID, slot.Index), Value: decision{Claims: &c, KID: due.kid, Key: req.Key, Base: uint64(base.Writ.Log.Index)}.marshal()}},
		}, nil
	}})
	if again != nil {
		return s.deriveAgain(ctx, node, *again, digest)
	}
	if err != nil {
		return nil, err
	}
	t, err := s.redeem(due)
	return &protocol.Grant{Token: t, Receipt: receipts[0].Proof}, err
}

// mayBind refuses to bind a token to a certificate where the key of cnf must be the
// node's own: the verifier and keepers take no other, and a key that lives in the TPM
// is not given up for one that lives anywhere.
func (s *Service) mayBind(base *token.Claims, req evidence.Request, x5t string) error {
	switch {
	case x5t == "":
		return nil
	case req.Audience == s.EnclaveAudience() || req.Execution != "":
		return protocol.Refuse(protocol.RequestRefused, "tokens for the enclave are bound to the node's key; bind one for another audience")
	case base.Writ.Key == "tpm":
		return protocol.Refuse(protocol.RequestRefused, "the node's key lives in its TPM; a client certificate's would not")
	}
	return nil
}

// errAnswered leaves a Build because the request was answered before.
var errAnswered = fmt.Errorf("this request was answered before")

// mayDerive checks under the head lock that the base token still counts.
func (s *Service) mayDerive(slot ledger.Slot, n *Node, base *token.Claims) (domainState, error) {
	d, _, err := slotRow[domainState](slot, stateKey)
	if err != nil {
		return d, err
	}
	switch {
	case d.Frozen:
		return d, protocol.Refuse(protocol.DomainFrozen, "the domain is frozen: no token is issued until operators lift it")
	case !n.Legitimate(slot.At):
		return d, protocol.Refuse(protocol.TokenRevoked, "node %s is %s (%s)", n.ID, n.Effective(slot.At), n.Status)
	case base.Writ.Seq <= n.Ended || uint64(base.Writ.Log.Index) != n.Base || base.Confirm.JKT != n.JKT:
		return d, protocol.Refuse(protocol.TokenRevoked, "the base token is not the node's latest; attest anew")
	case base.Writ.Epoch != d.Epoch:
		return d, protocol.Refuse(protocol.TokenRevoked, "the base token is of epoch %d, the domain is at %d; attest anew", base.Writ.Epoch, d.Epoch)
	}
	return d, nil
}

func (s *Service) deriveAgain(ctx context.Context, node string, r Request, digest string) (*protocol.Grant, error) {
	if r.Digest != digest {
		return nil, protocol.Refuse(protocol.RequestReused, "request id %s was used with another request", r.ID)
	}
	n, err := s.Node(ctx, node)
	if err != nil {
		return nil, err
	}
	out, err := s.repeat(ctx, n, r)
	if err != nil {
		return nil, err
	}
	return &protocol.Grant{Token: out.Token, Receipt: out.Receipt}, nil
}

// redeem signs what was committed to.
func (s *Service) redeem(p *pledge) (string, error) {
	key, err := s.signer(p.kid)
	if err != nil {
		return "", err
	}
	t, err := token.Sign(s.cfg.Rand, p.input, key)
	if err != nil {
		return "", fmt.Errorf("signing the token of entry %d: %w", p.claims.Writ.Log.Index, err)
	}
	return t, nil
}

// issue signs stored claims once more.
func (s *Service) issue(c *token.Claims, kid string) (string, error) {
	input, err := token.Prepare(*c, kid)
	if err != nil {
		return "", fmt.Errorf("writing the token of entry %d: %w", c.Writ.Log.Index, err)
	}
	return s.redeem(&pledge{c, kid, input})
}

// nodeOf is the id in a token's sub.
func (s *Service) nodeOf(subject string) (string, bool) {
	prefix := s.NodeSubject("")
	if len(subject) <= len(prefix) || subject[:len(prefix)] != prefix {
		return "", false
	}
	return subject[len(prefix):], true
}

// Stopped records the end of an execution: by its keeper's signature, or as the
// agent's word that the keeper is gone.
func (s *Service) Stopped(ctx context.Context, by *token.Claims, stop bundle.Stop) (string, error) {
	node, ok := s.nodeOf(by.Subject)
	if !ok {
		return "", protocol.Refuse(protocol.NotEnrolled, "%.100s is not a node of %s", by.Subject, s.cfg.Domain)
	}
	issued, err := s.provenStop(ctx, node, stop)
	if err != nil {
		return "", err
	}
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{nodeKey(node)}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		change := ledger.Change{Entries: []ledger.Entry{s.entry(bundle.Terminated, node, "node/"+node, stop)}}
		n, ok, err := slotRow[Node](slot, nodeKey(node))
		if err == nil && ok && stop.Halted() {
			n.Halted = max(n.Halted, issued) // when it was asked to, not when it says it did
			change.Puts = []ledger.Put{put(kindNode, node, n)}
		}
		return change, err
	}})
	if err != nil {
		return "", err
	}
	return receipts[0].Proof, nil
}

// provenStop holds a stop against the token it names: only the keeper that asked
// for that token has the key that signs the end of its execution. It returns when
// the token was issued, as a Unix second.
func (s *Service) provenStop(ctx context.Context, node string, stop bundle.Stop) (issued int64, err error) {
	if err := stop.Check(); err != nil {
		return 0, protocol.Refuse(protocol.RequestRefused, "%v", err)
	}
	if stop.Statement == "" {
		return 0, nil
	}
	signed, jkt, err := bundle.OpenStop(stop.Statement)
	if err != nil {
		return 0, protocol.Refuse(protocol.RequestRefused, "%v", err)
	}
	if !reflect.DeepEqual(signed, stop) {
		return 0, protocol.Refuse(protocol.RequestRefused, "the stop record says other than its statement")
	}
	d, ok, err := row[decision](ctx, s, decisionKey(node, stop.Admitted))
	switch {
	case err != nil:
		return 0, fmt.Errorf("reading the token that stopped: %w", err)
	case !ok || d.Claims == nil || d.Claims.Writ.Execution != stop.Exec || d.Key == "" || d.Key != jkt:
		return 0, protocol.Refuse(protocol.RequestRefused, "entry %d is no token of execution %s with the key that signed its stop", stop.Admitted, stop.Exec)
	}
	return d.Claims.IssuedAt, nil
}

// mayHalt refuses executions to a node that has not proved for too long that it
// can halt them. The proof is an execution itself.
func (s *Service) mayHalt(slot ledger.Slot, n *Node, req evidence.Request) error {
	every := s.cfg.ProveHaltEvery
	if every == 0 || req.Execution == "" || req.Level < "E2" || strings.HasPrefix(req.Execution, bundle.ProveHalt+"-") {
		return nil
	}
	if slot.At.Sub(time.Unix(n.Halted, 0)) > every {
		return protocol.Refuse(protocol.RequestRefused, "node %s has not proved within %v that it can halt work: run `writ enclave prove-halt` there", n.ID, every)
	}
	return nil
}

// signEvent ends every token of the node up to n.Ended in the words relying
// parties understand.
func (s *Service) signEvent(ctx context.Context, n *Node, cause, reason string) (string, error) {
	return s.signed(ctx, token.Event{Subject: s.NodeSubject(n.ID), Seq: n.Ended, Cause: cause, Reason: reason})
}

// signed completes an event with who says it and when, and signs it.
func (s *Service) signed(ctx context.Context, e token.Event) (string, error) {
	d, err := s.domainState(context.WithoutCancel(ctx)) // whoever asked may be gone; the event is for others
	if err != nil {
		return "", fmt.Errorf("reading the epoch for an event: %w", err)
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(s.cfg.Rand, id); err != nil {
		return "", fmt.Errorf("drawing an event id: %w", err)
	}
	e.Issuer, e.Audience, e.Epoch = s.cfg.Issuer, s.EnclaveAudience(), d.Epoch
	e.ID, e.IssuedAt = base64.RawURLEncoding.EncodeToString(id), s.cfg.Now().Unix()
	key, err := s.signer(d.Signer)
	if err != nil {
		return "", err
	}
	event, err := token.IssueEvent(e, key, s.cfg.Rand)
	if err != nil {
		return "", fmt.Errorf("signing the event that ends tokens of %s: %w", e.Subject, err)
	}
	return event, nil
}

func decode(b []byte, v any) error { return json.Unmarshal(b, v) }
