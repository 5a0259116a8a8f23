package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// service is an audience of both domains.
const service = "https://service.invalid"

// party is a domain with one machine, of TestTwoDomains.
type party struct {
	*replica
	*domain
	node *node
	base string // token of the node
}

func newParty(t *testing.T, name, more string) *party {
	t.Helper()
	maker, err := swtpm.NewCA("test maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.pem")
	write(t, root, maker.RootPEM())
	refKey := ed25519.NewKeyFromSeed(make([]byte, 32))
	r := newReplica(t, name, fmt.Sprintf("domain = \"%s.invalid\"\nlisten = %q\nadmin = \"127.0.0.1:0\"\naddresses = [\"127.0.0.1\"]\napprovals = 1\nmin_level = \"E2\"\ntoken_life = \"300s\"\naudiences = [%q]\nek_roots = [%q]\nreference_keys = ['''%s''']\nfollow_every = \"100ms\"\n%s",
		name, fixedPort(t), service, root, reference.FormatKey(refKey.Public().(ed25519.PublicKey)), more))
	r.serve()
	d := &domain{process: &process{t: t, ready: devReady{Domain: name + ".invalid", Verifier: r.url}}, maker: maker, refKey: refKey, operator: operatorClient(t, r.url, r.file("operator.pem"))}
	p := &party{replica: r, domain: d}
	p.node = d.machine("a-direct")
	d.learn(p.node)
	out, err := p.node.attest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.base = out.Token
	return p
}

func (r *replica) file(name string) string { return filepath.Join(r.data, name) }

// executes lets the node run an execution, and returns a token for the audience of both.
func (p *party) executes(id, parent string) string {
	p.replica.t.Helper()
	req := p.node.request()
	req.Execution, req.Parent, req.Audience, req.Workload = id, parent, service, "sha256:"+strings.Repeat("ab", 32)
	out, err := p.node.http.Token(p.replica.t.Context(), p.base, p.node.key, req)
	if err != nil {
		p.replica.t.Fatal(err)
	}
	return out.Token
}

// asks is what the verifier says of a token.
func (p *party) asks(tok string) (out protocol.Introspection) {
	t := p.replica.t
	t.Helper()
	raw, err := os.ReadFile(p.file("operator.pem"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.ParseIdentity(raw)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: keys.ClientTLS(id.Pin, id.Domain, time.Now, id.Certificate)}}
	defer c.CloseIdleConnections()
	resp, err := c.PostForm(p.url+"/oauth2/introspect", url.Values{"token": {tok}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("introspection: %d %s, %v", resp.StatusCode, body, err)
	}
	return out
}

// peer waits until the one recognised domain is in a state.
func (p *party) peer(c *client.Client, state, why string) {
	t := p.replica.t
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		peers, err := c.PeerDomains(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(peers) == 1 && peers[0].State == state && strings.Contains(peers[0].Why, why) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("peers are %+v, expected one %s: %s", peers, state, why)
		}
	}
}

// writ runs writ as an operator of the domain, and requires an exit code and words.
func (p *party) writ(program, operator string, code int, says string, args ...string) {
	t := p.replica.t
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append(args, "--verifier", p.url, "--operator", operator)...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(out), says) {
		t.Errorf("writ %v: exit code %d, expected %d and %q\n%s", args, got, code, says, out)
	}
}

// further is the log key of a verifier that nobody runs.
func further(t *testing.T, origin string) string {
	t.Helper()
	vkey, err := ledger.VerifierKey(origin, ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

// lineage is what writ lineage export says of an execution.
func (p *party) lineage(writ, id string) (l lineage.Lineage, errs string) {
	t := p.replica.t
	t.Helper()
	trust, err := p.operator.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trust.json")
	write(t, file, trust.Marshal())
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), writ, "lineage", "export", id, "--trust", file, "--verifier", p.url, "--operator", p.file("operator.pem"))
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &l)
	}
	if err != nil {
		t.Fatalf("writ lineage export: %v\n%s%s", err, out, &said)
	}
	return l, said.String()
}

// TestTwoDomains runs two domains with a machine each. One recognises the other by two
// of its operators, follows its log, takes its tokens at introspection and at a gate, and finds there
// the parent of an execution; and takes nothing of it any more when that log was put
// back to an earlier state.
func TestTwoDomains(t *testing.T) {
	t.Parallel()
	writ := filepath.Join(t.TempDir(), "writ")
	if out, err := exec.Command("go", "build", "-o", writ, "../writ-tool").CombinedOutput(); err != nil {
		t.Fatalf("building writ: %v\n%s", err, out)
	}
	b := newParty(t, "b", "public_entries = true\n")
	b.end(syscall.SIGTERM)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(b.data)); err != nil {
		t.Fatal(err)
	}
	b.serve()
	a := newParty(t, "a", "[public]\npages = [\"lineage\"]\n")
	a.end(syscall.SIGTERM)
	a.common = strings.Replace(a.common, "approvals = 1", "approvals = 2", 1)
	a.configure()
	a.serve()
	bob := filepath.Join(t.TempDir(), "bob.pem")
	a.replica.run("operator", "--name", "bob", "--role", "approver", "-o", bob)

	parent := b.executes("root", "")
	a.executes("child", "root")
	door := newDoorkeeper(t, writ, a, "b.invalid")
	door.until("a gate's word on a domain that is not recognised", b.node, parent, http.StatusUnauthorized) // 503 until it has heard its verifier
	trust, err := b.operator.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file, ca := filepath.Join(t.TempDir(), "b.trust.json"), filepath.Join(t.TempDir(), "b-ca.pem")
	write(t, file, trust.Marshal())
	write(t, ca, b.node.http.CA())
	for i, operator := range []string{a.file("operator.pem"), bob} {
		if a.asks(parent).Active {
			t.Errorf("a token of a domain that %d operators recognise counts", i)
		}
		code, says := 8, "waiting: 1 of 2"
		if i == 1 {
			code, says = 0, "b.invalid: recognised"
		}
		a.writ(writ, operator, code, says, "peer", "add", "--trust", file, "--url", b.url, "--ca", ca, "--max-age", "10m")
	}
	a.writ(writ, bob, 3, "", "peer", "remove", "b.invalid") // an approver opens, an operator closes
	a.writ(writ, bob, 8, "1 of 2 operators have agreed", "verifier", "admit", further(t, "a.invalid/log"))
	a.peer(a.operator, protocol.PeerAccepted, "")
	if got := a.asks(parent); !got.Active || got.Issuer != "https://b.invalid" {
		t.Errorf("a token of the domain that is recognised: %+v", got)
	}
	door.until("the gate's consent", b.node, parent, http.StatusNoContent)
	if code := door.asks(a.node, parent); code != http.StatusUnauthorized {
		t.Errorf("with a proof by another node's key: %d", code)
	}
	if b.asks(a.executes("other", "")).Active {
		t.Error("a token counts in a domain that has not recognised its issuer")
	}
	if l, errs := a.lineage(writ, "child"); len(l.Parents) != 1 || l.Parents[0].ID != "root" || l.Parents[0].Domain != "b.invalid" || l.Unresolved != "" {
		t.Errorf("the parents are %+v, unresolved %q\n%s", l.Parents, l.Unresolved, errs)
	}

	lineageOverDomains(t, a, b)

	b.end(syscall.SIGTERM) // guard file and all: nothing of its own shows it
	if err := errors.Join(os.RemoveAll(b.data), os.CopyFS(b.data, os.DirFS(old)), lockDown(b.data)); err != nil {
		t.Fatal(err)
	}
	b.serve()
	a.peer(a.operator, protocol.PeerClosed, "diverged")
	if a.asks(parent).Active {
		t.Error("a token of a domain whose log was put back counts")
	}
	door.until("the gate's refusal", b.node, parent, http.StatusUnauthorized)
	if l, errs := a.lineage(writ, "child"); len(l.Parents) != 0 || l.Unresolved != "root" || !strings.Contains(errs, "b.invalid is left out: its log has diverged") {
		t.Errorf("the parents are %+v, unresolved %q\n%s", l.Parents, l.Unresolved, errs)
	}
	nothingAbroad(t, a)
	a.writ(writ, a.file("operator.pem"), 0, "diverged", "peer", "list")
	a.writ(writ, a.file("operator.pem"), 0, "", "peer", "remove", "b.invalid")
	a.writ(writ, a.file("operator.pem"), 0, "[]", "peer", "list", "--json")
	if out := a.replica.run("fsck"); !strings.HasSuffix(out, "clean") {
		t.Errorf("fsck: %s", out)
	}
}
