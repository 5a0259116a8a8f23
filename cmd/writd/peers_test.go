package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/store/storetest"
	"github.com/writ-attestation/writ/verifier/token"
)

// replica is one of several verifiers of a domain, a process of its own.
type replica struct {
	t            *testing.T
	name, common string
	data, config string
	cmd          *exec.Cmd
	url, admin   string
}

func newReplica(t *testing.T, name, common string) *replica {
	dir := t.TempDir()
	r := &replica{t: t, name: name, common: common, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "writd.toml")}
	r.configure()
	t.Cleanup(func() { r.end(syscall.SIGKILL) })
	return r
}

func (r *replica) configure(peers ...string) {
	list, err := json.Marshal(append([]string{}, peers...))
	if err != nil {
		r.t.Fatal(err)
	}
	write(r.t, r.config, fmt.Appendf(nil, "name = %q\ndata = %q\npeers = %s\n%s", r.name, r.data, list, r.common))
}

// start runs the verifier until it serves; its words if it does not.
func (r *replica) start() error {
	r.t.Helper()
	r.cmd = exec.Command("writd", "serve", "--config", r.config)
	out, err := r.cmd.StderrPipe()
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var said bytes.Buffer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said.Write(append(lines.Bytes(), '\n'))
		var m struct{ Msg, Address, Admin string }
		if json.Unmarshal(lines.Bytes(), &m) == nil && m.Msg == "serving" {
			go func() {
				for lines.Scan() { // to the end
				}
			}()
			r.url, r.admin = "https://"+m.Address, m.Admin
			return nil
		}
	}
	_ = r.cmd.Wait()
	return fmt.Errorf("exit %d: %s", r.cmd.ProcessState.ExitCode(), &said)
}

func (r *replica) serve() {
	r.t.Helper()
	if err := r.start(); err != nil {
		r.t.Fatalf("verifier %s: %v", r.name, err)
	}
}

func (r *replica) end(sig syscall.Signal) {
	if r.cmd != nil && r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Signal(sig)
		_ = r.cmd.Wait()
	}
}

// run makes a command of this verifier succeed, and returns what it printed.
func (r *replica) run(args ...string) string {
	r.t.Helper()
	code, out, errs := writd(r.t, append(args, "--config", r.config)...)
	if code != 0 {
		r.t.Fatalf("writd %s: exit %d: %s%s", args, code, out, errs)
	}
	return strings.TrimSpace(out)
}

// TestVerifierJoins runs two verifiers with log keys of their own on one
// PostgreSQL database. The second is refused until the first one has recorded
// its key; then a node attests at the first, renews at the second with the first
// one's challenge, and goes on there when the first is killed: one unbroken
// chain of tokens in one history that both have signed.
func TestVerifierJoins(t *testing.T) {
	t.Parallel()
	maker, err := swtpm.NewCA("test maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.pem")
	write(t, root, maker.RootPEM())
	refKey := ed25519.NewKeyFromSeed(make([]byte, 32))
	common := fmt.Sprintf("domain = \"joined.invalid\"\ndatabase = %q\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\naddresses = [\"127.0.0.1\"]\napprovals = 1\nmin_level = \"E2\"\nek_roots = [%q]\nreference_keys = ['''%s''']\n",
		storetest.Postgres(t), root, reference.FormatKey(refKey.Public().(ed25519.PublicKey)))
	a, b := newReplica(t, "a", common), newReplica(t, "b", common)
	a.serve()
	invitation := filepath.Join(t.TempDir(), "b.invitation")
	keyA := a.run("invite", "-o", invitation)
	keyB := b.run("join", "--invitation", invitation)
	b.configure(keyA)
	if code, _, _ := writd(t, "join", "--config", b.config, "--invitation", invitation); code != exitUsage {
		t.Errorf("joining over a keys folder exits with %d", code)
	}
	if err := b.start(); err == nil || !strings.Contains(err.Error(), "no verifier of the domain has recorded the log key") {
		t.Fatalf("a verifier that nobody admitted: %v", err)
	}
	if ids := a.entriesOf(bundle.VerifierStarted); len(ids) != 1 {
		t.Errorf("%d verifiers have started, expected the first alone", len(ids))
	}
	a.end(syscall.SIGTERM)
	a.configure(keyB)
	a.serve()
	b.serve()

	d := &domain{process: &process{t: t, ready: devReady{Domain: "joined.invalid", Verifier: a.url}}, maker: maker, refKey: refKey, operator: operatorClient(t, a.url, filepath.Join(a.data, "operator.pem"))}
	n := d.machine("a-direct")
	d.learn(n)
	trust := a.trust(n, keyA, keyB)
	first, err := n.attest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	atB, err := client.New(client.Config{URL: b.url, CA: n.http.CA(), Domain: "joined.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(atB.Close)
	tokens := []string{first.Token}
	receipt := ""
	renew := func(nonce []byte) []byte {
		t.Helper()
		body, err := n.evidence(nonce)
		if err != nil {
			t.Fatal(err)
		}
		out, err := atB.Attest(t.Context(), body)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, out.Token)
		receipt = out.Receipt
		p, err := ledger.ParseProof(receipt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.OpenCheckpoint(p.Note, trust.Log...); err != nil {
			t.Errorf("receipt of the second verifier: %v", err)
		}
		if _, err := ledger.OpenCheckpoint(p.Note, keyB); err != nil {
			t.Errorf("the second verifier's receipt is not signed by its own log key: %v", err)
		}
		return out.Challenge.Nonce
	}
	next := renew(first.Challenge.Nonce)
	a.end(syscall.SIGKILL)
	renew(renew(next))
	chained(t, tokens, trust)
	a.serve() // and the first follows what the second has signed
	a.follows(n, tokens[len(tokens)-1])
	for _, r := range []*replica{a, b} {
		if out := r.run("fsck"); !strings.HasSuffix(out, "clean") {
			t.Errorf("fsck of verifier %s: %s", r.name, out)
		}
	}
	if got := a.entriesOf(bundle.VerifierJoined); len(got) != 1 {
		t.Errorf("%d verifiers have joined, expected 1", len(got))
	}

	b.end(syscall.SIGTERM) // retired, its key is worth what it signed so far
	a.end(syscall.SIGTERM)
	a.common += fmt.Sprintf("retired_peers = [%q]\n", keyB)
	a.configure()
	a.serve()
	if got := a.entriesOf(bundle.VerifierRetired); len(got) != 1 {
		t.Errorf("%d verifiers were retired, expected 1", len(got))
	}
	if p, err := ledger.ParseProof(receipt); err != nil {
		t.Error(err)
	} else if trust, err := operatorClient(t, a.url, filepath.Join(a.data, "operator.pem")).Domain(t.Context()); err != nil {
		t.Error(err)
	} else if _, err := trust.OpenCheckpoint(p.Note); err != nil || len(trust.Log) != 1 {
		t.Errorf("a receipt of the retired verifier, by the trust file of now: %v", err)
	}
	if err := b.start(); err == nil || !strings.Contains(err.Error(), "was retired") {
		t.Errorf("the retired verifier starts: %v", err)
	}
	if out := a.run("fsck"); !strings.HasSuffix(out, "clean") {
		t.Errorf("fsck after it was retired: %s", out)
	}
}

// chained requires that each token names the one before.
func chained(t *testing.T, tokens []string, trust *bundle.Trust) {
	t.Helper()
	prev := ""
	for i, tok := range tokens {
		c, err := token.Verify(tok, trust.TokenKeys, token.Expect{Issuer: trust.IssuerURL(), Audience: "spiffe://joined.invalid/enclave", Domain: "joined.invalid"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if c.Writ.Seq != uint64(i+1) || c.Writ.Prev != prev {
			t.Errorf("token %d has seq %d after %q, expected after %q", i, c.Writ.Seq, c.Writ.Prev, prev)
		}
		prev = hash(tok)
	}
}

// trust is what the verifier says to believe: both log keys, and no other.
func (r *replica) trust(n *node, keys ...string) *bundle.Trust {
	r.t.Helper()
	trust, err := n.http.Domain(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(keys)
	if got := slices.Sorted(slices.Values(trust.Log)); !slices.Equal(got, keys) {
		r.t.Errorf("the trust file has the log keys %v, expected %v", got, keys)
	}
	return trust
}

// follows requires that the verifier knows the other's last decision.
func (r *replica) follows(n *node, last string) {
	r.t.Helper()
	c := operatorClient(r.t, r.url, filepath.Join(r.data, "operator.pem"))
	raw, err := c.Bundle(r.t.Context(), n.id, -1)
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	if hash(b.Token) != hash(last) {
		r.t.Error("the first verifier's latest decision is not that of the second")
	}
}

// entriesOf are the entries of a kind in the log.
func (r *replica) entriesOf(kind string) (out []protocol.AuditEntry) {
	r.t.Helper()
	c := operatorClient(r.t, r.url, filepath.Join(r.data, "operator.pem"))
	page, err := c.Audit(r.t.Context(), 0, 256)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range page.Entries {
		if leaf, err := ledger.ParseLeaf(e.Leaf); err == nil && leaf.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func hash(tok string) string {
	sum := token.Digest(tok)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
