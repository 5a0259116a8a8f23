package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// grant is what a verifier gave out and a node holds.
type grant struct {
	token, receipt string
	base           bool // by evidence; else on the strength of a base token
}

// load keeps nodes busy and every grant they got.
type load struct {
	domain string
	trust  *bundle.Trust

	mu       sync.Mutex
	grants   []grant
	answered atomic.Int64
	lost     atomic.Int64 // calls whose outcome was unknown at first
}

// keep keeps a grant and returns its claims.
func (l *load) keep(g grant) (*token.Claims, error) {
	want := token.Expect{Issuer: l.trust.IssuerURL(), Domain: l.domain, Audience: "spiffe://" + l.domain + "/enclave"}
	c, err := token.Verify(g.token, l.trust.TokenKeys, want, time.Now())
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.grants = append(l.grants, g)
	l.mu.Unlock()
	l.answered.Add(1)
	return c, nil
}

// settle repeats one request, byte for byte, until it has an answer, from whichever
// verifier. One whose
// outcome was unknown at first is asked once more after that: the verifier must
// give what it gave before.
func (l *load) settle(ctx context.Context, n *node, ask func() (grant, error)) error {
	unknown := false
	for {
		g, err := ask()
		if errors.Is(err, client.ErrUnreachable) {
			unknown = true
			n.turn()
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		if err != nil {
			return err
		}
		c, err := l.keep(g)
		if err != nil || !unknown {
			return err
		}
		l.lost.Add(1)
		again, err := ask()
		if errors.Is(err, client.ErrUnreachable) {
			return nil // killed once more
		}
		if err != nil {
			return fmt.Errorf("asking once more: %w", err)
		}
		d, err := l.keep(again)
		if err == nil && (c.ID != d.ID || c.Writ.Log != d.Writ.Log || c.Expires != d.Expires) {
			err = fmt.Errorf("one request got two tokens: %+v and %+v", c, d)
		}
		return err
	}
}

// work attests and takes further tokens by turns, until ctx is done.
func (l *load) work(ctx context.Context, n *node) error {
	base, good := "", time.Time{} // until when the base token is, or the challenge
	for i := 0; ctx.Err() == nil; i++ {
		ask := func() (grant, error) { return grant{}, nil }
		if i%4 == 0 {
			good = time.Now().Add(killLife - 2*time.Second)
			var c *protocol.Challenge
			for c == nil && ctx.Err() == nil {
				var err error
				if c, err = n.http.Challenge(ctx, protocol.ChallengeRequest{Node: n.id}); err != nil && !errors.Is(err, client.ErrUnreachable) {
					return fmt.Errorf("asking for a challenge: %w", err)
				} else if err != nil {
					n.turn()
				}
			}
			if c == nil {
				return nil
			}
			body, err := n.evidence(c.Nonce)
			if err != nil {
				return err
			}
			ask = func() (grant, error) {
				out, err := n.http.Attest(ctx, body)
				if err != nil {
					return grant{}, err
				}
				base = out.Token
				return grant{out.Token, out.Receipt, true}, nil
			}
		} else {
			req := n.request()
			ask = func() (grant, error) {
				out, err := n.http.Token(ctx, base, n.key, req)
				if err != nil {
					return grant{}, err
				}
				return grant{out.Token, out.Receipt, false}, nil
			}
		}
		switch err := l.settle(ctx, n, ask); {
		case err != nil && ctx.Err() == nil && time.Now().After(good): // a machine that stood still
			i |= 3 // attest anew
		case err != nil && ctx.Err() == nil:
			return fmt.Errorf("node %s, step %d: %w", n.id, i, err)
		}
	}
	return nil
}

// killLife is how long tokens live there.
const killLife = time.Minute

// kills is how often a verifier is killed; WRIT_SOAK multiplies it.
func kills(t *testing.T) int {
	const rounds = 50
	s := os.Getenv("WRIT_SOAK")
	if s == "" {
		return rounds
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("WRIT_SOAK is %q, expected a number to multiply %d kills with", s, rounds)
	}
	return n * rounds
}

// TestKillNineLosesNothing kills a verifier at random moments while nodes attest.
// Whatever it has acknowledged stands in the log afterwards, a request whose
// outcome was unknown gets one token however often it is repeated, and nodes need
// nobody's help.
func TestKillNineLosesNothing(t *testing.T) {
	t.Parallel()
	bin, data := filepath.Join(t.TempDir(), "writd"), filepath.Join(t.TempDir(), "data")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building writd: %v\n%s", err, out)
	}
	d := newDomain(t, bin, data, "--listen", fixedPort(t), "--token-life", killLife.String())
	nodes := []*node{d.machine("a-direct"), d.machine("a-direct"), d.machine("a-direct")}
	d.learn(nodes[0])
	trust, err := nodes[0].http.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := &load{domain: d.ready.Domain, trust: trust}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	agent, agentEnded := startAgent(t, ctx, nodes[2], trust)
	var workers sync.WaitGroup
	for _, n := range nodes[:2] {
		workers.Go(func() {
			if err := l.work(ctx, n); err != nil {
				t.Error(err)
			}
		})
	}
	for round := range kills(t) {
		if round%100 == 99 {
			t.Logf("%d kills, %d grants", round+1, l.answered.Load())
		}
		for before := l.answered.Load(); l.answered.Load() < before+4 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		d.end(syscall.SIGKILL)
		if out, err := exec.Command(bin, "fsck", "--data", data, "--domain", d.ready.Domain).CombinedOutput(); err != nil {
			t.Fatalf("writd fsck: %v\n%s", err, out)
		}
		d.start()
	}
	recovered(t, ctx, d, nodes[2], agent)
	cancel()
	workers.Wait()
	<-agentEnded
	l.check(t, d)
	t.Logf("%d grants, %d of them after an unknown outcome", len(l.grants), l.lost.Load())
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("writd ended with %d:\n%s", code, &d.stderr)
	}
	if code, out, errs := writd(t, "fsck", "--data", data, "--domain", d.ready.Domain); code != 0 {
		t.Errorf("writd fsck: exit code %d\n%s%s", code, out, errs)
	}
}

// newAgent makes a real agent with a state directory.
func newAgent(t *testing.T, n *node, trust *bundle.Trust, state string) *attestor.Agent {
	t.Helper()
	a, err := attestor.New(attestor.Config{Enrolment: n.enrol, Trust: trust, Dir: state, TPM: n.tpm, Logs: n.logs(), Verifiers: []attestor.Verifier{n.http}, Level: "E2", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// startAgent runs an agent, which nobody looks after.
func startAgent(t *testing.T, ctx context.Context, n *node, trust *bundle.Trust) (*attestor.Agent, <-chan error) {
	t.Helper()
	a := newAgent(t, n, trust, t.TempDir())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return a, ended
}

// recovered checks that an agent found back to its verifier by itself: it gets
// leases, and hears of a revocation.
func recovered(t *testing.T, ctx context.Context, d *domain, n *node, a *attestor.Agent) {
	t.Helper()
	pushes, unwatch := a.Watch()
	defer unwatch()
	if _, err := a.Lease(ctx, n.request()); err != nil {
		t.Fatalf("the agent does not recover: %v", err)
	}
	time.Sleep(time.Second) // it follows events again within 700 ms
	if _, err := d.operator.SetStatus(ctx, n.id, protocol.StatusChange{Status: "suspended", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(20 * time.Second)
	for {
		select {
		case p := <-pushes:
			if p.Event != "" {
				return
			}
		case <-timeout:
			t.Error("the agent did not hear of the suspension")
			return
		}
	}
}

// check holds every grant against the history: computed here from its entries
// alone, by RFC 6962.
func (l *load) check(t *testing.T, d *domain) {
	t.Helper()
	var leaves [][]byte
	for {
		page, err := d.operator.Audit(t.Context(), uint64(len(leaves)), uint64(len(leaves)+1000))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			leaves = append(leaves, e.Leaf)
		}
		if uint64(len(leaves)) == page.Size {
			break
		}
	}
	roots := rootsOf(leaves)
	byIndex := map[uint64]string{}
	for _, g := range l.grants {
		p, err := ledger.ParseProof(g.receipt)
		if err != nil {
			t.Fatal(err)
		}
		if p.Index >= uint64(len(leaves)) {
			t.Fatalf("entry %d was acknowledged, the log has %d", p.Index, len(leaves))
		}
		index, cp, err := ledger.CheckProof(g.receipt, leaves[p.Index], l.trust.Log...)
		if err != nil {
			t.Fatalf("entry %d: %v", p.Index, err)
		}
		if roots[cp.Size] != cp.Root {
			t.Errorf("the checkpoint of size %d that was given out is of another history", cp.Size)
		}
		want := token.Expect{Issuer: l.trust.IssuerURL(), Domain: l.domain, Audience: "spiffe://" + l.domain + "/enclave"}
		leaf, err := ledger.ParseLeaf(leaves[p.Index])
		if err != nil {
			t.Fatal(err)
		}
		c, err := token.Verify(g.token, l.trust.TokenKeys, want, time.Unix(leaf.At, 0)) // a long run outlasts its tokens
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := byIndex[index]; uint64(c.Writ.Log.Index) != index || ok && other != c.ID {
			t.Errorf("entry %d is of token %s and of %s (which names %d)", index, other, c.ID, c.Writ.Log.Index)
		}
		byIndex[index] = c.ID
	}
}

// rootsOf computes the root of every prefix of a log (RFC 6962, section 2.1).
func rootsOf(leaves [][]byte) []ledger.Hash {
	node := func(prefix byte, parts ...[]byte) ledger.Hash {
		h := sha256.New()
		h.Write([]byte{prefix})
		for _, p := range parts {
			h.Write(p)
		}
		return ledger.Hash(h.Sum(nil))
	}
	roots := []ledger.Hash{sha256.Sum256(nil)}
	var full []ledger.Hash // roots of the full subtrees, the largest first
	for i, leaf := range leaves {
		full = append(full, node(0, leaf))
		for n := i + 1; n%2 == 0; n /= 2 {
			last := len(full) - 1
			full[last-1] = node(1, full[last-1][:], full[last][:])
			full = full[:last]
		}
		root := full[len(full)-1]
		for j := len(full) - 2; j >= 0; j-- {
			root = node(1, full[j][:], root[:])
		}
		roots = append(roots, root)
	}
	return roots
}

// TestEverythingRestored puts database, guard file and keys back together, so
// that nothing of the verifier's own shows that a revocation is missing. The
// checkpoint that a node was given does.
func TestEverythingRestored(t *testing.T) {
	t.Parallel()
	data, saved, state := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "saved"), t.TempDir()
	d := newDomain(t, "writd", data, "--listen", fixedPort(t))
	n, other := d.machine("a-direct"), d.machine("a-direct")
	d.learn(n)
	trust, err := n.http.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lease := func() error {
		a := newAgent(t, n, trust, state)
		defer a.Close()
		_, err := a.Lease(t.Context(), n.request())
		return err
	}
	restart := func(between func() error) {
		if code := d.end(syscall.SIGTERM); code != 0 {
			t.Fatalf("writd ended with %d:\n%s", code, &d.stderr)
		}
		if err := between(); err != nil {
			t.Fatal(err)
		}
		d.start()
	}
	if err := lease(); err != nil {
		t.Fatal(err)
	}
	restart(func() error { return os.CopyFS(saved, os.DirFS(data)) })
	if err := lease(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.operator.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "revoked", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	restart(func() error {
		return errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(saved)), lockDown(data))
	})
	if _, err := other.attest(t.Context()); err != nil {
		t.Fatalf("nobody has shown yet that the log was set back: %v", err)
	}
	for _, attest := range []func() error{lease, func() error { _, err := other.attest(t.Context()); return err }} {
		r := (*protocol.Refusal)(nil)
		if err := attest(); err == nil || errors.As(err, &r) && r.Code != protocol.DomainFrozen {
			t.Errorf("after a node has shown a checkpoint that the log contradicts: %v", err)
		}
	}
	d.end(syscall.SIGTERM)
	within, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := exec.CommandContext(within, d.args[0], d.args[1:]...)
	if out, err := again.CombinedOutput(); err == nil || again.ProcessState.ExitCode() != exitDiverged {
		t.Errorf("writd started on a log that was set back: %v\n%s", err, out)
	}
}

// lockDown gives key files back the rights that CopyFS does not copy.
func lockDown(data string) error {
	files, err := filepath.Glob(filepath.Join(data, "keys", "*"))
	for _, f := range append(files, filepath.Join(data, keys.OperatorFile)) {
		err = errors.Join(err, os.Chmod(f, 0o600))
	}
	return err
}
