package verifier_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

const shared2 = "https://service.invalid" // an audience that both domains serve

// federation is a domain that follows another one.
type federation struct {
	*domain
	other *domain
	node  *node
	log   atomic.Pointer[ledger.Log] // what the other one shows as its log
	away  atomic.Bool
}

func newFederation(t *testing.T, change ...func(*verifier.Config)) *federation {
	t.Helper()
	f := new(federation)
	f.other, f.node = ready(t, func(c *verifier.Config) {
		c.Domain, c.Issuer, c.Audiences, c.KeyOverlap = "b.invalid", "https://b.invalid", []string{shared2}, time.Second
	})
	f.log.Store(f.other.log)
	f.domain = newDomain(t, append([]func(*verifier.Config){func(c *verifier.Config) {
		c.Audiences, c.DialPeer = []string{shared2}, f.dial
	}}, change...)...)
	return f
}

var errAway = errors.New("nobody answers")

func (f *federation) dial(url string, ca []byte, domain string) (*verifier.PeerLink, error) {
	if url != "https://b.invalid:8443" || string(ca) != "its authority" || domain != "b.invalid" {
		return nil, errors.New("dialled someone else")
	}
	if f.away.Load() {
		return nil, errAway
	}
	l := f.log.Load()
	return &verifier.PeerLink{
		Log: func(ctx context.Context, path string) ([]byte, error) {
			if path == "checkpoint" {
				return l.Checkpoint(), nil
			}
			p, err := ledger.ParseTilePath(path)
			if err != nil {
				return nil, err
			}
			return l.Tile(ctx, p.Level, p.Index, p.Width)
		},
		Keys:       func(context.Context) ([]rotation.Entry, error) { return f.other.PublicKeys().Proven, nil },
		StatusList: f.other.StatusList,
		Close:      func() {},
	}, nil
}

func (f *federation) request() protocol.NewPeer {
	return protocol.NewPeer{Trust: f.other.trust().Marshal(), URL: "https://b.invalid:8443", CA: "its authority", MaxAge: 60}
}

// recognized is f with the other domain recognised, and seen once.
func (f *federation) recognized() *federation {
	f.t.Helper()
	c, err := f.Recognize(ctx, operator, f.request())
	if err != nil || !c.Active {
		f.t.Fatalf("%+v, %v", c, err)
	}
	f.sees()
	return f
}

func (f *federation) sees() {
	f.t.Helper()
	if err := f.FollowOnce(ctx); err != nil {
		f.t.Fatal(err)
	}
}

// token is one of the other domain's node, for the audience of both.
func (f *federation) token() string {
	f.t.Helper()
	s := f.other.shot(f.node)
	s.req.Audience = shared2
	return f.other.mustGrantShot(f.node, s).Token
}

// counts requires that a token of the other domain counts, or does not.
func (f *federation) counts(what, tok string, want bool) {
	f.t.Helper()
	c, err := f.Recognized(ctx, tok)
	if err != nil || (c != nil) != want {
		f.t.Errorf("%s: the token counts: %v, expected %v (%v)", what, c != nil, want, err)
	}
	if own, err := f.Live(ctx, tok); own != nil || err != nil {
		f.t.Errorf("%s: taken for a token of this domain: %v", what, err)
	}
}

func (f *federation) state(want, why string) {
	f.t.Helper()
	peers, err := f.PeerDomains(ctx)
	if err != nil || len(peers) != 1 || peers[0].State != want || !strings.Contains(peers[0].Why, why) {
		f.t.Errorf("peers are %+v, %v; expected one %s: %s", peers, err, want, why)
	}
}

// TestDomainRecognizedByOne: another domain counts when two operators have agreed to
// the same trust file at the same address, and not before.
func TestDomainRecognizedByOne(t *testing.T) {
	t.Parallel()
	f := newFederation(t, func(c *verifier.Config) { c.Approvals = 2 })
	tok := f.token()
	req := f.request()
	other := req
	other.MaxAge = 3600
	for _, step := range []struct {
		by     string
		req    protocol.NewPeer
		active bool
	}{{"operator/alice", req, false}, {"operator/alice", req, false}, {"operator/bob", other, false}, {"operator/bob", req, true}} {
		c, err := f.Recognize(ctx, step.by, step.req)
		if err != nil || c.Active != step.active {
			t.Fatalf("%s: %+v, %v", step.by, c, err)
		}
		f.sees()
		f.counts("after "+step.by, tok, step.active)
	}
	f.state(protocol.PeerAccepted, "")
	_, err := f.Recognize(ctx, "operator/alice", req)
	refused(t, err, protocol.IllegalAct)
	own := req
	own.Trust = f.domain.trust().Marshal()
	for what, bad := range map[string]protocol.NewPeer{"itself": own, "http": {Trust: req.Trust, URL: "http://b.invalid", MaxAge: 60}, "for ever": {Trust: req.Trust, URL: req.URL, MaxAge: 1 << 40}, "nothing": {URL: req.URL, MaxAge: 60, Trust: json.RawMessage("{}")}} {
		if _, err := f.Recognize(ctx, "operator/alice", bad); err == nil {
			t.Errorf("recognised: %s", what)
		}
	}
	if err := f.Forget(ctx, "operator/alice", "b.invalid"); err != nil {
		t.Fatal(err)
	}
	f.counts("removed by one", tok, false)
	refused(t, f.Forget(ctx, "operator/alice", "b.invalid"), protocol.NotFound)
	for _, kind := range []string{bundle.PeerAdded, bundle.PeerSeen, bundle.PeerRemoved} {
		if f.count(kind) != 1 {
			t.Errorf("%d entries %s", f.count(kind), kind)
		}
	}
}

func (f *federation) count(kind string) (n int) {
	for _, leaf := range f.domain.entries(0) {
		if leaf.Kind == kind {
			n++
		}
	}
	return n
}

// TestPeersTokenEnds: a peer's token counts as long as the peer says so, by keys that
// its log proves, and for an audience of this domain.
func TestPeersTokenEnds(t *testing.T) {
	t.Parallel()
	f := newFederation(t).recognized()
	tok := f.token()
	f.counts("fresh", tok, true)
	f.counts("for its own enclave", f.other.mustGrant(f.node).Token, false)
	if _, err := f.other.RotateKey(ctx, operator); err != nil {
		t.Fatal(err)
	}
	f.other.pass(2 * time.Second)
	f.domain.pass(2 * time.Second)
	if err := f.other.TendKeys(ctx); err != nil {
		t.Fatal(err)
	}
	tok = f.token()
	f.counts("by a key not heard of", tok, false)
	f.sees()
	f.counts("by a key that its log proves", tok, true)
	f.away.Store(true)
	f.counts("whose status cannot be asked for", tok, false)
	f.away.Store(false)
	if _, err := f.other.SetStatus(ctx, operator, f.node.id, verifier.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	f.other.pass(2 * time.Second) // status lists are a second old at most
	f.counts("revoked there", tok, false)
}

// TestSilentPeer: nothing of a domain counts that was not heard for too long, and
// does again when it is.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	c, err := f.Recognize(ctx, operator, f.request())
	if err != nil || !c.Active {
		t.Fatal(err)
	}
	f.counts("never seen", f.token(), false)
	f.sees()
	f.counts("seen", f.token(), true)
	f.away.Store(true)
	if err := f.FollowOnce(ctx); !errors.Is(err, errAway) {
		t.Errorf("a peer that is away: %v", err)
	}
	f.state(protocol.PeerAccepted, "")
	f.domain.pass(61 * time.Second)
	f.other.pass(61 * time.Second)
	f.away.Store(false)
	tok := f.token()
	f.counts("silent for too long", tok, false)
	f.state(protocol.PeerClosed, "heard last")
	f.sees()
	f.counts("heard again", tok, true)
	f.state(protocol.PeerAccepted, "")
}

// forked is a log of the other domain's key with n entries of another history.
func (f *federation) forked(n int) *ledger.Log {
	f.t.Helper()
	l, err := ledger.Open(ctx, ledger.Config{Store: storetest.NewMemory(), Origin: "b.invalid/log", Key: ed25519.NewKeyFromSeed(bytes32(1)), GuardFile: filepath.Join(f.t.TempDir(), "guard"), Now: f.other.now})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = l.Close() })
	if _, err := l.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (c ledger.Change, err error) {
		for range n {
			c.Entries = append(c.Entries, ledger.Entry{Kind: "test.made"})
		}
		return c, nil
	}}); err != nil {
		f.t.Fatal(err)
	}
	return l
}

// TestPeerForks: a peer whose log contradicts what it has shown is closed for good,
// with both checkpoints in this domain's history, whatever it shows afterwards.
func TestPeerForks(t *testing.T) {
	t.Parallel()
	for what, n := range map[string]int{"rollback": 1, "fork": 40} {
		f := newFederation(t).recognized()
		tok := f.token()
		f.sees()
		f.counts("before", tok, true)
		honest := f.log.Load()
		f.log.Store(f.forked(n))
		if err := f.FollowOnce(ctx); !errors.Is(err, ledger.ErrDiverged) {
			t.Errorf("%s: %v", what, err)
		}
		f.counts(what, tok, false)
		f.log.Store(honest)
		f.sees() // nobody looks any more
		f.counts(what+", and back", tok, false)
		f.state(protocol.PeerClosed, "diverged")
		if f.count(bundle.PeerDiverged) != 1 {
			t.Errorf("%s: %d entries say so", what, f.count(bundle.PeerDiverged))
		}
		for _, leaf := range f.domain.entries(0) {
			if leaf.Kind != bundle.PeerDiverged {
				continue
			}
			d := dataOf[bundle.Divergence](t, leaf)
			a, err1 := f.other.trust().OpenCheckpoint([]byte(d.Before))
			b, err2 := f.other.trust().OpenCheckpoint([]byte(d.Shown))
			if err := errors.Join(err1, err2); err != nil || a == b {
				t.Errorf("%s: the entry has %q and %q: %v", what, d.Before, d.Shown, err)
			}
		}
		req := f.request()
		req.MaxAge = 600
		_, err := f.Recognize(ctx, operator, req)
		refused(t, err, protocol.IllegalAct)

		key := ledger.Key{Kind: "peer", ID: "b.invalid"} // by hand
		was, _, err := f.domain.log.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		f.meddle(nil, ledger.Put{Key: key, Value: bytes.Replace(was, []byte(`"diverged":`), []byte(`"Diverged_":`), 1)})
		f.names("a divergence taken back", "peer b.invalid: its row says that it diverged at entry 0")
	}
}

// TestForgedPeerCheckpoint: what the peer's keys have not signed shows nothing, so it
// neither closes a peer nor keeps one open.
func TestForgedPeerCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFederation(t).recognized()
	tok := f.token()
	stranger, err := ledger.Open(ctx, ledger.Config{Store: storetest.NewMemory(), Origin: "b.invalid/log", Key: ed25519.NewKeyFromSeed(bytes32(9)), GuardFile: filepath.Join(t.TempDir(), "guard")})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	f.log.Store(stranger)
	if err := f.FollowOnce(ctx); err == nil || errors.Is(err, ledger.ErrDiverged) {
		t.Errorf("a stranger's checkpoint: %v", err)
	}
	f.counts("after a stranger's checkpoint", tok, true)
	f.domain.pass(61 * time.Second)
	f.other.pass(61 * time.Second)
	if err := f.FollowOnce(ctx); err == nil {
		t.Error("a stranger's checkpoint is taken")
	}
	f.state(protocol.PeerClosed, "heard last")
}
