package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestForgedPostsMoveNothing: 10,000 posts in a working node's name, by somebody
// who is behind its address and has live challenges for it, change nothing of it
// and do not keep it from renewing.
func TestForgedPostsMoveNothing(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	before, err := d.svc.Node(t.Context(), n.id)
	if err != nil {
		t.Fatal(err)
	}
	entries := d.svc.Log().Size()
	forger := *n
	forger.akKey = p256(t)

	const posts, hands = 10_000, 16
	var left, shed atomic.Int64
	left.Store(posts)
	stranger := d.http()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for hand := range hands {
		mine := forger // each hand has its own clock
		wg.Go(func() {
			var body []byte
			for i := 0; left.Add(-1) >= 0; i++ {
				if i%32 == 0 { // a fresh challenge now and then, as a forger would
					if b, ok := forged(d, stranger, &mine, hand); ok {
						body = b
					}
				}
				got, err := d.try(stranger, http.MethodPost, "/v1/attestations", mediaEvidence, body)
				if err != nil {
					t.Error(err)
					return
				}
				switch got.code(t) {
				case codeRateLimited:
					shed.Add(1)
				case protocol.EvidenceUnverified, protocol.NonceExpired, protocol.EvidenceMalformed:
				default:
					t.Errorf("forged evidence: %d %s", got.status, got.body)
				}
				if len(got.body) > 1024 {
					t.Errorf("a stranger was told %s", got.body)
				}
			}
		})
	}
	go func() { wg.Wait(); close(stop) }()
	renewals := 0
	for done := false; !done; renewals++ {
		renewal := n.shot(n.nonce(c))
		renewal.brief = true
		out, err := c.Attest(t.Context(), renewal.take(n))
		if err != nil {
			t.Fatalf("renewal %d: %v", renewals, err)
		}
		base = out.Token
		select {
		case <-stop:
			done = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Logf("%d renewals; %d posts were told to wait", renewals, shed.Load())
	after, err := d.svc.Node(t.Context(), n.id)
	if err != nil {
		t.Fatal(err)
	}
	if after.State != verifier.Synchronized || after.Ended != before.Ended || after.Seq != before.Seq+uint64(renewals) || after.Counter != before.Counter+uint64(renewals) {
		t.Errorf("the node moved: before %+v, after %+v", before, after)
	}
	if grown := d.svc.Log().Size() - entries; grown < uint64(renewals) || grown > uint64(renewals)+2 {
		t.Errorf("the log grew by %d entries for %d renewals", grown, renewals)
	}
	if _, err := c.Token(t.Context(), base, n.key, n.request("job")); err != nil {
		t.Errorf("its token no longer counts: %v", err)
	}
}

// forged is evidence for a live challenge of the node, signed by another key; or
// for none, or none at all.
func forged(d *domain, c *http.Client, n *node, hand int) (body []byte, ok bool) {
	s := n.shot(make([]byte, 32))
	s.brief = true
	switch hand % 4 {
	case 0:
		ask, err := json.Marshal(protocol.ChallengeRequest{Node: n.id})
		if err != nil {
			return nil, false
		}
		got, err := d.try(c, http.MethodPost, "/v1/challenges", mediaJSON, ask)
		var ch protocol.Challenge
		if err != nil || got.status != http.StatusOK || json.Unmarshal(got.body, &ch) != nil {
			return nil, false
		}
		s.nonce = ch.Nonce
	case 1:
		return []byte(`{"__cmwc_t":"tag:writ,2026:tpm-evidence#v1"}`), true
	}
	b, err := s.marshal(n)
	return b, err == nil
}

// TestNewConnectionFromADoubtedAddress: behind the address of a forger, a node
// without a good connection gets through as well.
func TestNewConnectionFromADoubtedAddress(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, _ := d.working()
	stranger := d.http()
	for range pardon + 5 {
		d.ask(stranger, http.MethodPost, "/v1/attestations", mediaEvidence, []byte("{}"))
	}
	if tokens := d.srv.queue.of(&peer{remote: remoteOf(addr("127.0.0.1:1"))}).pardons.Tokens(); tokens >= 1 {
		t.Fatalf("the address is not doubted: %v pardons left", tokens)
	}
	for range 3 {
		n.mustGrant(d.anybody())
	}
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

// TestDoubtIsOfAnAddress: neither another address nor a good connection suffers.
func TestDoubtIsOfAnAddress(t *testing.T) {
	t.Parallel()
	q := newQueue()
	bad := &peer{remote: remoteOf(addr("192.0.2.1:1000"))}
	for range pardon + 1 {
		q.forged(bad)
	}
	var hold []func()
	for range doubtedAtOnce {
		leave, ok := q.doubted.enter(t.Context())
		if !ok {
			t.Fatal("no place")
		}
		hold = append(hold, leave)
	}
	q.doubted.most = 0 // nobody may wait
	good := &peer{remote: bad.remote}
	good.genuine.Store(true)
	for name, x := range map[string]struct {
		p  *peer
		in bool
	}{
		"the same connection":          {bad, false},
		"another one of the address":   {&peer{remote: remoteOf(addr("192.0.2.1:2000"))}, false},
		"a good one of the address":    {good, true},
		"another address":              {&peer{remote: remoteOf(addr("192.0.2.2:1000"))}, true},
		"the address, mapped to IPv6":  {&peer{remote: remoteOf(addr("[::ffff:192.0.2.1]:3"))}, false},
		"an IPv6 address":              {&peer{remote: remoteOf(addr("[2001:db8::1]:1"))}, true},
		"a connection without address": {&peer{}, true},
	} {
		leave, err := q.enter(t.Context(), x.p)
		if (err == nil) != x.in {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			leave()
		}
	}
	for _, leave := range hold {
		leave()
	}
	if a, b := remoteOf(addr("[2001:db8::1]:1")), remoteOf(addr("[2001:db8::ffff:2]:1")); a != b {
		t.Errorf("one host's IPv6 addresses are %v and %v", a, b)
	}
}

// TestRemotesAreBounded: a stranger with many addresses fills no memory.
func TestRemotesAreBounded(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for i := range 3 * maxRemotes {
		p := &peer{remote: remoteOf(addr("[2001:db8:" + string("0123456789abcdef"[i>>12&15]) + string("0123456789abcdef"[i>>8&15]) + ":" + string("0123456789abcdef"[i>>4&15]) + string("0123456789abcdef"[i&15]) + "::1]:1"))}
		q.forged(p)
	}
	if len(q.remotes) > maxRemotes {
		t.Errorf("%d remotes are remembered", len(q.remotes))
	}
}

// TestLargeBodiesAreBounded: nobody takes all the memory for what only arrives.
func TestLargeBodiesAreBounded(t *testing.T) {
	t.Parallel()
	var b bodies
	p := &peer{remote: remoteOf(addr("192.0.2.1:1"))}
	var gives []func()
	for {
		give, err := b.take(p, 16<<20)
		if err != nil {
			break
		}
		gives = append(gives, give)
	}
	if len(gives) != bodiesRemote/(16<<20) {
		t.Errorf("%d bodies of 16 MiB at once", len(gives))
	}
	if give, err := b.take(p, smallBody); err != nil {
		t.Error(err)
	} else {
		give()
	}
	if give, err := b.take(&peer{remote: remoteOf(addr("192.0.2.2:1"))}, 16<<20); err != nil {
		t.Error(err)
	} else {
		give()
	}
	for _, give := range slices.Backward(gives) {
		give()
	}
	if b.all != 0 || len(b.by) != 0 {
		t.Errorf("%d bytes are never given back", b.all)
	}
}
