package rotation_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/store/storetest"
	"github.com/writ-attestation/writ/verifier/token"
)

const domain = "test.invalid"

// history is a real log.
type history struct {
	testing.TB
	*ledger.Log
}

func newHistory(t testing.TB, domain string) *history {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(context.Background(), ledger.Config{Store: storetest.NewMemory(), Origin: domain + "/log", Key: key, GuardFile: filepath.Join(t.TempDir(), "guard")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &history{t, l}
}

// says appends an entry and returns it with its proof.
func (h *history) says(kind string, data any) rotation.Entry {
	h.Helper()
	r, err := h.Append(context.Background(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Entries: []ledger.Entry{{Kind: kind, Subject: "s", Actor: "a", Data: data}}}, nil
	}})
	if err != nil {
		h.Fatal(err)
	}
	return rotation.Entry{Leaf: r[0].Entry, Proof: r[0].Proof}
}

func newKey(t testing.TB) (kid string, public crypto.PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err == nil {
		kid, err = token.Thumbprint(key.Public())
	}
	if err != nil {
		t.Fatal(err)
	}
	return kid, key.Public()
}

func introduction(t testing.TB, public crypto.PublicKey) rotation.Introduction {
	t.Helper()
	jwk, err := token.MarshalJWK(public)
	if err != nil {
		t.Fatal(err)
	}
	kid, err := token.Thumbprint(public)
	if err != nil {
		t.Fatal(err)
	}
	return rotation.Introduction{KID: kid, JWK: jwk, From: 1}
}

func newBook(t testing.TB, h *history, pinned ...crypto.PublicKey) *rotation.Book {
	t.Helper()
	set, err := token.NewKeys(pinned...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := rotation.New(domain, rotation.Pins{Log: h.VerifierKeys(), Keys: set})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var at = time.Unix(1000, 0)

// TestBook: a key counts from its introduction to the end of its last token, or to
// its withdrawal, in whatever order that is heard.
func TestBook(t *testing.T) {
	t.Parallel()
	h := newHistory(t, domain)
	first, pinned := newKey(t)
	second, next := newKey(t)
	entries := []rotation.Entry{
		h.says(rotation.Introduced, introduction(t, next)),
		h.says(rotation.Rotated, rotation.Rotation{KID: second, Old: first, Until: 1300}),
		h.says(rotation.Withdrawn, rotation.Withdrawal{KID: second, Epoch: 1}),
	}
	b := newBook(t, h, pinned)
	for i, want := range [][]string{{first, second}, {first, second}, {first}} {
		if news, err := b.Learn(entries[:i+1]); err != nil || !news {
			t.Fatal(news, err)
		}
		if got := b.Keys(at).IDs(); !slices.Equal(got, want) {
			t.Errorf("after %d entries: %v, expected %v", i+1, got, want)
		}
	}
	if got := b.Keys(time.Unix(1300, 0)).IDs(); len(got) != 0 {
		t.Errorf("a key whose last token expired counts: %v", got)
	}
	backwards := newBook(t, h, pinned)
	for _, e := range slices.Backward(entries) {
		if _, err := backwards.Learn([]rotation.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	if got := backwards.Keys(at).IDs(); !slices.Equal(got, []string{first}) || !backwards.Gone(second) {
		t.Errorf("a key withdrawn before it was introduced counts: %v", got)
	}
	if news, err := b.Learn(entries[:1]); news || err != nil || b.Keys(at).Key(second) != nil {
		t.Errorf("what was withdrawn came back (%v, %v)", news, err)
	}
	again := newBook(t, h, pinned)
	if _, err := again.Learn(b.Proven()); err != nil || !slices.Equal(again.Keys(at).IDs(), b.Keys(at).IDs()) {
		t.Errorf("handed on: %v, %v", again.Keys(at).IDs(), err)
	}
}

// TestKeyOfAnotherDomain: only the pinned log introduces keys, whoever brings them.
func TestKeyOfAnotherDomain(t *testing.T) {
	t.Parallel()
	h, twin, other := newHistory(t, domain), newHistory(t, domain), newHistory(t, "other.invalid")
	first, pinned := newKey(t)
	_, stolen := newKey(t)
	good := h.says(rotation.Introduced, introduction(t, stolen))
	moved := good
	moved.Leaf = []byte(strings.Replace(string(good.Leaf), `"from":1`, `"from":2`, 1))
	wrong := introduction(t, stolen)
	wrong.KID = first
	for name, e := range map[string]rotation.Entry{
		"another domain's log":            other.says(rotation.Introduced, introduction(t, stolen)),
		"a log of the same name":          twin.says(rotation.Introduced, introduction(t, stolen)),
		"another leaf under a good proof": moved,
		"no proof":                        {Leaf: good.Leaf},
		"the proof of another entry":      {Leaf: good.Leaf, Proof: h.says("node.status", struct{}{}).Proof},
		"a path that is longer":           {Leaf: good.Leaf, Proof: strings.Replace(h.says("node.status", struct{}{}).Proof, "\n\n", "\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n", 1)},
		"an entry about something else":   h.says("node.status", introduction(t, stolen)),
		"a kid that is another key's":     h.says(rotation.Introduced, wrong),
		"a key that is none":              h.says(rotation.Introduced, rotation.Introduction{KID: "x", JWK: json.RawMessage(`{}`)}),
		"more than there is to say":       h.says(rotation.Withdrawn, map[string]any{"kid": first, "epoch": 1, "all": true}),
	} {
		b := newBook(t, h, pinned)
		if news, err := b.Learn([]rotation.Entry{good, e}); err == nil || news || !slices.Equal(b.Keys(at).IDs(), []string{first}) {
			t.Errorf("%s: learned %v (%v)", name, b.Keys(at).IDs(), err)
		}
	}
	if _, err := newBook(t, h, pinned).Learn([]rotation.Entry{good}); err != nil {
		t.Errorf("the good one is refused: %v", err)
	}
	set, _ := token.NewKeys(pinned)
	if b, err := rotation.New(domain, rotation.Pins{Log: other.VerifierKeys(), Keys: set}); err == nil {
		t.Errorf("the log key of another domain is pinned: %v", b)
	}
	unpinned, err := rotation.New(domain, rotation.Pins{Keys: set})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpinned.Learn([]rotation.Entry{good}); err == nil {
		t.Error("a key was learned without a pinned log")
	}
}

// TestLogKeyStolen: where the root key is pinned, whoever signs the log introduces no
// token key without that one's certificate, which ends.
func TestLogKeyStolen(t *testing.T) {
	t.Parallel()
	h := newHistory(t, domain)
	_, pinned := newKey(t)
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	thumb, err := token.Thumbprint(root.Public())
	if err != nil {
		t.Fatal(err)
	}
	set, err := token.NewKeys(pinned)
	if err != nil {
		t.Fatal(err)
	}
	kid, next := newKey(t)
	learn := func(certificate string) (*rotation.Book, error) {
		in := introduction(t, next)
		in.Certificate = certificate
		b, err := rotation.New(domain, rotation.Pins{Log: h.VerifierKeys(), Root: thumb, Keys: set})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Learn([]rotation.Entry{h.says(rotation.Introduced, in)})
		return b, err
	}
	certify := func(root crypto.Signer, domain, kid string, until int64) string {
		c, err := rotation.Certify(root, rand.Reader, domain, kid, until)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := certify(root, domain, kid, 1300)
	b, err := learn(good)
	if err != nil || b.Keys(at).Key(kid) == nil {
		t.Fatalf("a certified key is not learned: %v", err)
	}
	if b.Keys(time.Unix(1300, 0)).Key(kid) != nil {
		t.Error("a key counts after its certificate has ended")
	}
	in := introduction(t, next)
	in.Certificate = certify(root, domain, kid, 1600)
	if _, err := b.Learn([]rotation.Entry{h.says(rotation.Introduced, in)}); err != nil || b.Keys(time.Unix(1300, 0)).Key(kid) == nil {
		t.Errorf("a key that was certified anew does not count: %v", err)
	}
	thief, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := token.Thumbprint(pinned)
	stop, err := token.SignStatement([]byte(`{"exec":"e1"}`), root, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, certificate := range map[string]string{
		"none":              "",
		"by another key":    certify(thief, domain, kid, 1300),
		"of another key":    certify(root, domain, first, 1300),
		"of another domain": certify(root, "other.invalid", kid, 1300),
		"without an end":    certify(root, domain, kid, 0),
		"cut off":           good[:len(good)-4],
		"another statement": stop,
	} {
		if b, err := learn(certificate); err == nil || b.Keys(at).Key(kid) != nil {
			t.Errorf("a key was introduced with a certificate that is %s", name)
		}
	}
}

// TestProofsAsTheLedgerChecksThem: what package ledger proves, for every place in logs
// of many sizes, is proven here, and what it refuses is refused.
func TestProofsAsTheLedgerChecksThem(t *testing.T) {
	t.Parallel()
	h := newHistory(t, domain)
	for size := range 40 {
		kid, _ := newKey(t)
		h.says(rotation.Withdrawn, rotation.Withdrawal{KID: kid})
		for index := range uint64(size + 1) {
			leaf, err := h.Entry(t.Context(), index)
			if err != nil {
				t.Fatal(err)
			}
			proof, err := h.Prove(t.Context(), index)
			if err != nil {
				t.Fatal(err)
			}
			wrong := strings.Replace(proof, fmt.Sprintf("index %d\n", index), fmt.Sprintf("index %d\n", index^1), 1)
			for _, p := range []string{proof, wrong, strings.Replace(proof, "\n\n", "\n", 1), proof[:len(proof)/2]} {
				_, _, want := ledger.CheckProof(p, leaf, h.VerifierKeys()...)
				if _, err := newBook(t, h).Learn([]rotation.Entry{{Leaf: leaf, Proof: p}}); (err == nil) != (want == nil) {
					t.Fatalf("entry %d of %d: %v, the ledger says %v", index, size+1, err, want)
				}
			}
		}
	}
}

// FuzzLearn: whatever is learned, the ledger proves it too.
func FuzzLearn(f *testing.F) {
	h := newHistory(f, domain)
	_, public := newKey(f)
	for range 5 {
		e := h.says(rotation.Introduced, introduction(f, public))
		f.Add(e.Leaf, e.Proof)
	}
	f.Fuzz(func(t *testing.T, leaf []byte, proof string) {
		news, err := newBook(t, h).Learn([]rotation.Entry{{Leaf: leaf, Proof: proof}})
		if err != nil || !news {
			return
		}
		if _, _, err := ledger.CheckProof(proof, leaf, h.VerifierKeys()...); err != nil {
			t.Errorf("learned from %q, %q: %v", leaf, proof, err)
		}
		if _, err := ledger.ParseLeaf(leaf); err != nil {
			t.Errorf("learned from no leaf: %v", err)
		}
	})
}
