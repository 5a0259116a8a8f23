package verifier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// kindPeer rows are other domains that operators have recognised, by name.
const kindPeer = "peer"

// peer is another domain as it is followed. What is accepted of it rests on its
// checkpoints: each extends the one before, or nothing counts any more.
type peer struct {
	Domain   string           `json:"domain"`
	URL      string           `json:"url"` // of its verifier
	CA       string           `json:"ca"`  // PEM: who may answer there
	MaxAge   int64            `json:"max_age"`
	Trust    json.RawMessage  `json:"trust"`  // the trust file, as approved
	Digest   string           `json:"digest"` // of what was approved
	Note     string           `json:"note,omitempty"`
	Seen     int64            `json:"seen,omitempty"`     // when Note was shown last; Unix seconds
	Recorded int64            `json:"recorded,omitempty"` // when an entry last said what was shown
	Keys     []rotation.Entry `json:"keys,omitempty"`     // what its log proves of its token keys
	Diverged uint64           `json:"diverged,omitempty"` // entry that says so; 0: it did not
}

func peerKey(domain string) ledger.Key { return ledger.Key{Kind: kindPeer, ID: domain} }

// PeerLink reads a verifier of another domain. Nothing that it brings is believed.
type PeerLink struct {
	Log        ledger.Fetch
	Keys       func(ctx context.Context) ([]rotation.Entry, error)
	StatusList func(ctx context.Context, n uint64) (string, error)
	Close      func()
}

// Limits of federation.
const (
	minPeerAge    = 10 * time.Second
	maxPeerAge    = 24 * time.Hour
	recordPeers   = 10 * time.Minute // how often an entry says what a peer has shown
	maxPeerTrust  = 1 << 20
	maxPeers      = 256
	peerCallLimit = 20 * time.Second
)

// Recognize takes another domain's trust file and the address it is followed at. It
// counts when as many distinct operators have asked for the same as the domain
// demands (security rule 4).
func (s *Service) Recognize(ctx context.Context, actor string, req protocol.NewPeer) (*protocol.PeerChange, error) {
	p, trust, err := s.newPeer(req)
	if err != nil {
		return nil, err
	}
	key, act := peerKey(trust.Domain), ledger.Key{Kind: kindPending, ID: "peer/" + p.Digest}
	out := &protocol.PeerChange{Domain: trust.Domain, Digest: p.Digest, Needed: s.cfg.Approvals}
	_, err = s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key, act}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		now, ok, err := slotRow[peer](slot, key)
		switch {
		case err != nil:
			return ledger.Change{}, err
		case ok && now.Diverged != 0:
			return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "%s has diverged, as entry %d records; remove it first, and recognise it anew only if you know why", trust.Domain, now.Diverged)
		case ok && now.Digest == p.Digest:
			return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "%s is recognised with just this already", trust.Domain)
		}
		approval, count, done, err := s.approve(slot, act, actor)
		if err != nil {
			return ledger.Change{}, err
		}
		out.Approvals, out.Active = count, done
		if !done {
			return ledger.Change{Puts: []ledger.Put{approval}, Entries: []ledger.Entry{s.approved(actor, act.ID, count)}}, nil
		}
		next := *p
		next.Note = now.Note // with other keys or another address it still is the same history
		return ledger.Change{Puts: []ledger.Put{approval, put(kindPeer, trust.Domain, next)},
			Entries: []ledger.Entry{s.entry(bundle.PeerAdded, "peer/"+trust.Domain, actor, bundle.Peer{Domain: trust.Domain, Digest: p.Digest, Approvals: count})}}, nil
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// newPeer checks a request and names it by a digest.
func (s *Service) newPeer(req protocol.NewPeer) (*peer, *bundle.Trust, error) {
	bad := func(format string, args ...any) (*peer, *bundle.Trust, error) {
		return nil, nil, protocol.Refuse(protocol.IllegalAct, format, args...)
	}
	if len(req.Trust) > maxPeerTrust {
		return bad("the trust file has %d bytes, at most %d are taken", len(req.Trust), maxPeerTrust)
	}
	trust, err := bundle.ParseTrust(req.Trust)
	if err != nil {
		return bad("%v", err)
	}
	for _, k := range trust.Log {
		if _, err := ledger.KeyID(trust.Domain+"/log", k); err != nil {
			return bad("%v", err)
		}
	}
	u, err := url.Parse(req.URL)
	age := time.Duration(req.MaxAge) * time.Second
	switch {
	case trust.Domain == s.cfg.Domain:
		return bad("%s is this domain", trust.Domain)
	case len(trust.Log) == 0:
		return bad("the trust file names no log key: nothing of %s could be followed", trust.Domain)
	case err != nil || u.Scheme != "https" || u.Host == "":
		return bad("url %.200q: an https URL is needed", req.URL)
	case age < minPeerAge || age > maxPeerAge:
		return bad("max_age %s: expected %s to %s", age, minPeerAge, maxPeerAge)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, req.Trust); err != nil {
		return bad("%v", err)
	}
	p := &peer{Domain: trust.Domain, URL: req.URL, CA: req.CA, MaxAge: req.MaxAge, Trust: compact.Bytes()}
	p.Digest = hexSum(encode(p))
	return p, trust, nil
}

// Forget ends the recognition of another domain at once, by one operator's word.
func (s *Service) Forget(ctx context.Context, actor, domain string) error {
	key := peerKey(domain)
	_, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key}, Urgent: true, Build: func(slot ledger.Slot) (ledger.Change, error) {
		p, ok, err := slotRow[peer](slot, key)
		if err != nil {
			return ledger.Change{}, err
		}
		if !ok {
			return ledger.Change{}, protocol.Refuse(protocol.NotFound, "no domain %.100q is recognised", domain)
		}
		return ledger.Change{Puts: []ledger.Put{{Key: key}}, Entries: []ledger.Entry{s.entry(bundle.PeerRemoved, "peer/"+domain, actor, bundle.Peer{Domain: domain, Digest: p.Digest})}}, nil
	}})
	return err
}

// PeerDomains lists the recognised domains.
func (s *Service) PeerDomains(ctx context.Context) ([]protocol.PeerDomain, error) {
	rows, err := s.peerRows(ctx)
	out := []protocol.PeerDomain{}
	for _, p := range rows {
		shown := protocol.PeerDomain{Domain: p.Domain, URL: p.URL, CA: p.CA, MaxAge: p.MaxAge, Trust: p.Trust, Checkpoint: p.Note, Seen: p.Seen, State: protocol.PeerAccepted}
		if err := p.closed(s.cfg.Now()); err != nil {
			shown.State, shown.Why = protocol.PeerClosed, err.Error()
		}
		out = append(out, shown)
	}
	return out, err
}

func (s *Service) peerRows(ctx context.Context) ([]peer, error) {
	rows, err := s.log.List(ctx, kindPeer, "", maxPeers)
	if err != nil {
		return nil, err
	}
	out := make([]peer, len(rows))
	for i, r := range rows {
		if err := unmarshalRow(r.Value, r.Key, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// closed says why nothing of the peer counts now; nil if it does.
func (p *peer) closed(now time.Time) error {
	seen := time.Unix(p.Seen, 0)
	switch age := now.Sub(seen); {
	case p.Diverged != 0:
		return fmt.Errorf("its log has diverged, as entry %d records", p.Diverged)
	case p.Note == "" || p.Seen == 0:
		return errors.New("it has shown no checkpoint yet")
	case age > time.Duration(p.MaxAge)*time.Second:
		return fmt.Errorf("it was heard last at %s, longer ago than %ds", seen.UTC().Format(time.RFC3339), p.MaxAge)
	case age < -maxPeerAhead:
		return fmt.Errorf("it was heard at %s, which is still to come: the clock was set back", seen.UTC().Format(time.RFC3339))
	}
	return nil
}

// maxPeerAhead is what clocks of this domain's verifiers may differ by.
const maxPeerAhead = 2 * time.Second

// Recognized returns the claims of a token of a recognised domain that counts now, for
// one of this domain's further audiences; nil for anything else. Its keys are those
// its log proves, its status is asked of it now: no answer, no token.
func (s *Service) Recognized(ctx context.Context, tok string) (*token.Claims, error) {
	if err := s.sound(); err != nil {
		return nil, err
	}
	rows, err := s.peerRows(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range rows {
		if p.closed(s.cfg.Now()) != nil {
			continue
		}
		c, keys := s.opens(&p, tok)
		if c == nil {
			continue
		}
		if err := s.peerStatus(ctx, &p, c, keys); err != nil {
			s.cfg.Slog.WarnContext(ctx, "a peer's token does not count", "peer", p.Domain, "error", err)
			return nil, nil
		}
		return c, nil
	}
	return nil, nil
}

// opens returns the claims of a token that the peer has signed, and its keys of now.
func (s *Service) opens(p *peer, tok string) (*token.Claims, token.Keys) {
	trust, keys, err := p.keys(s.cfg.Now())
	if err != nil {
		return nil, keys
	}
	want := token.Expect{Issuer: trust.IssuerURL(), Domain: p.Domain} // its own nodes alone (security rule 25)
	for _, want.Audience = range s.cfg.Audiences {
		if c, err := token.Verify(tok, keys, want, s.cfg.Now()); err == nil {
			return c, keys
		}
	}
	return nil, keys
}

// keys are the peer's token keys of a time.
func (p *peer) keys(at time.Time) (*bundle.Trust, token.Keys, error) {
	trust, err := bundle.ParseTrust(p.Trust)
	if err != nil {
		return nil, token.Keys{}, err
	}
	book, err := rotation.New(p.Domain, trust.Pins())
	if err == nil {
		_, err = book.Learn(p.Keys)
	}
	if err != nil {
		return nil, token.Keys{}, err
	}
	return trust, book.Keys(at), nil
}

// peerStatus asks the peer whether a token was ended before its time.
func (s *Service) peerStatus(ctx context.Context, p *peer, c *token.Claims, keys token.Keys) error {
	i := strings.LastIndexByte(c.Listed.List.URI, '/')
	n, err := strconv.ParseUint(c.Listed.List.URI[i+1:], 10, 63)
	if err != nil {
		return fmt.Errorf("reading where its status is: %w", err)
	}
	link, err := s.dial(p)
	if err != nil {
		return err
	}
	defer link.Close()
	ctx, cancel := context.WithTimeout(ctx, peerCallLimit)
	defer cancel()
	raw, err := link.StatusList(ctx, n)
	if err != nil {
		return fmt.Errorf("asking for its status: %w", err)
	}
	list, err := token.ParseStatusList(raw, keys, c.Listed.List.URI, s.cfg.Now())
	if err != nil {
		return err
	}
	if st := list.Status(c.Listed.List.Index); st != token.Valid {
		return fmt.Errorf("its status is %d", st)
	}
	return nil
}

func (s *Service) dial(p *peer) (*PeerLink, error) {
	if s.cfg.DialPeer == nil {
		return nil, errors.New("other domains cannot be reached: this verifier was not told how")
	}
	return s.cfg.DialPeer(p.URL, []byte(p.CA), p.Domain)
}
