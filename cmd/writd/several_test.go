package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
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

// pair is two verifiers of one domain on one PostgreSQL database, each a process, and
// a machine that is enrolled. more is added to both configurations.
func pair(t *testing.T, more string) (a, b *replica, n *node) {
	t.Helper()
	a, b, d := pairOn(t, "127.0.0.1:0", "127.0.0.1:0", more)
	n = d.machine("a-direct")
	d.learn(n)
	return a, b, n
}

// pairOn is a pair on two addresses, without a machine.
func pairOn(t *testing.T, atA, atB, more string) (a, b *replica, d *domain) {
	t.Helper()
	maker, err := swtpm.NewCA("test maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.pem")
	write(t, root, maker.RootPEM())
	refKey := ed25519.NewKeyFromSeed(make([]byte, 32))
	common := fmt.Sprintf("domain = \"joined.invalid\"\ndatabase = %q\nadmin = \"127.0.0.1:0\"\naddresses = [\"127.0.0.1\"]\napprovals = 1\nmin_level = \"E2\"\nek_roots = [%q]\nreference_keys = ['''%s''']\n%s",
		storetest.Postgres(t), root, reference.FormatKey(refKey.Public().(ed25519.PublicKey)), more)
	a, b = newReplica(t, "a", fmt.Sprintf("listen = %q\n%s", atA, common)), newReplica(t, "b", fmt.Sprintf("listen = %q\n%s", atB, common))
	a.serve()
	invitation := filepath.Join(t.TempDir(), "b.invitation")
	keyA := a.run("invite", "-o", invitation)
	b.configure(keyA)
	keyB := b.run("join", "--invitation", invitation)
	a.end(syscall.SIGTERM)
	a.configure(keyB)
	a.serve()
	b.serve()
	return a, b, &domain{process: &process{t: t, ready: devReady{Domain: "joined.invalid", Verifier: a.url}}, maker: maker, refKey: refKey, operator: operatorClient(t, a.url, filepath.Join(a.data, "operator.pem"))}
}

// count is how many entries of a kind the log has, as a verifier shows it.
func count(t *testing.T, c *client.Client, kind string) (n int) {
	t.Helper()
	for from := uint64(0); ; {
		page, err := c.Audit(t.Context(), from, from+256)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			if leaf, err := ledger.ParseLeaf(e.Leaf); err == nil && leaf.Kind == kind {
				n++
			}
		}
		if from += uint64(len(page.Entries)); from >= page.Size || len(page.Entries) == 0 {
			return n
		}
	}
}

// eventually waits for a condition, for as long as a slow machine may take.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// TestLapseOfADeadVerifiersToken: that a node has lapsed is written though the
// verifier that gave it its token was killed, once, also when both of them look. An
// operator's act at one verifier is told by the other.
func TestLapseOfADeadVerifiersToken(t *testing.T) {
	t.Parallel()
	a, b, n := pair(t, "token_life = \"3s\"\nstreams = [{name = \"soc\", audience = \"https://soc.example.org\"}]\n")
	receiver := filepath.Join(t.TempDir(), "soc.pem")
	a.run("operator", "--name", "soc", "--role", "relying-party", "-o", receiver)
	polled := func(r *replica, ack map[string]string) map[string]string {
		req := protocol.PollRequest{Immediately: true}
		for id := range ack {
			req.Ack = append(req.Ack, id)
		}
		out, err := operatorClient(t, r.url, receiver).Poll(t.Context(), "soc", req)
		if err != nil {
			t.Fatal(err)
		}
		return out.Sets
	}
	if sets := polled(b, nil); len(sets) != 0 { // the stream begins here
		t.Fatalf("%+v", sets)
	}
	if _, err := n.attest(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.end(syscall.SIGKILL)
	atB := operatorClient(t, b.url, filepath.Join(a.data, "operator.pem"))
	eventually(t, "the lapse", func() bool { return count(t, atB, bundle.Lapsed) > 0 })
	a.serve()
	shown, err := atB.Node(t.Context(), n.id)
	if err != nil || shown.State != "fail-closed-restricted" || shown.Status != "active" {
		t.Errorf("%+v %v", shown, err)
	}

	heard, begun := make(chan *token.Event, 64), make(chan struct{})
	go func() {
		_ = atB.Feed(t.Context(), func() {}, func(kind, data string) {
			switch kind {
			case "since":
				close(begun)
			case "revocation":
				if e := parseEvent(data); e != nil {
					heard <- e
				}
			}
		})
	}()
	<-begun
	atA := operatorClient(t, a.url, filepath.Join(a.data, "operator.pem"))
	if _, err := atA.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "told by the other"}); err != nil {
		t.Fatal(err)
	}
	for end := time.After(time.Minute); ; {
		select {
		case e := <-heard:
			if e.Cause != "suspended" {
				continue
			}
			if e.Subject != "spiffe://joined.invalid/node/"+n.id || e.Seq == 0 || e.Reason != "told by the other" {
				t.Errorf("%+v", e)
			}
		case <-end:
			t.Fatal("the second verifier does not tell of the first one's act")
		}
		break
	}
	// Of all three, one of which a verifier wrote that was dead meanwhile: the grant, the
	// lapse, and the suspension, which is two events. What one verifier heard is
	// acknowledged, the other knows.
	var sets map[string]string
	eventually(t, "the notices", func() bool { sets = polled(b, nil); return len(sets) == 4 })
	if again := polled(a, sets); len(again) != 0 {
		t.Errorf("the other verifier gives %d notices again", len(again))
	}
	if got := count(t, atA, bundle.Lapsed); got != 1 {
		t.Errorf("the lapse was written %d times", got)
	}
	for _, r := range []*replica{a, b} {
		r.end(syscall.SIGTERM)
		if out := r.run("fsck"); len(out) < 5 || out[len(out)-5:] != "clean" {
			t.Errorf("fsck of verifier %s: %s", r.name, out)
		}
	}
}

// parseEvent reads what an event says, whoever signed it: the feed's signatures have
// their own tests.
func parseEvent(set string) *token.Event {
	parts := strings.Split(set, ".")
	if len(parts) != 3 {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct {
		Subject struct{ URI string } `json:"sub_id"`
		Events  map[string]struct {
			Reason struct{ En string } `json:"reason_admin"`
			Writ   struct {
				Seq   uint64
				Cause string
			}
		}
	}
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return nil
	}
	for _, e := range c.Events {
		return &token.Event{Subject: c.Subject.URI, Seq: e.Writ.Seq, Cause: e.Writ.Cause, Reason: e.Reason.En}
	}
	return nil
}
