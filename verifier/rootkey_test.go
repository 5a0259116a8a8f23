package verifier_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// root is a root key whose TPM may stop answering. That it works behind a real one is
// tested in cmd/writd.
type root struct {
	crypto.Signer
	gone atomic.Bool
}

func (r *root) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if r.gone.Load() {
		return nil, errors.New("the TPM does not answer")
	}
	return r.Signer.Sign(rand, digest, opts)
}

func newRoot(t testing.TB) *root {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &root{Signer: key}
}

// rooted is a domain whose token keys live an hour and are certified.
func rooted(t testing.TB) (*domain, *root) {
	t.Helper()
	r := newRoot(t)
	return newDomain(t, func(c *verifier.Config) { c.Root, c.TokenKeyLife = r, time.Hour }), r
}

// book is what somebody believes who has the domain's trust file of now.
func (d *domain) book() *rotation.Book {
	d.t.Helper()
	b, err := rotation.New(d.cfg.Domain, d.trust().Pins())
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// learns reports whether b, after all that is published, knows the key that signs.
func (d *domain) learns(b *rotation.Book) bool {
	d.t.Helper()
	if _, err := b.Learn(d.PublicKeys().Proven); err != nil {
		d.t.Fatal(err)
	}
	return b.Keys(d.now()).Key(d.signing()) != nil
}

// signing is the id of the key that signs.
func (d *domain) signing() string {
	d.t.Helper()
	for _, k := range d.PublicKeys().Keys {
		if k.State == "signing" {
			return k.KID
		}
	}
	d.t.Fatal("no key signs")
	return ""
}

// TestRootCertifiesRotation: over two scheduled rotations, who pinned the root key and
// the first token key knows the key that signs.
func TestRootCertifiesRotation(t *testing.T) {
	t.Parallel()
	d, _ := rooted(t)
	b := d.book()
	first := d.signing()
	for range 2 {
		before := d.signing()
		for range 14 {
			d.pass(5 * time.Minute)
			if err := d.TendKeys(ctx); err != nil {
				t.Fatal(err)
			}
			if !d.learns(b) {
				t.Fatalf("the key that signs now, %s, is not known", d.signing())
			}
		}
		if d.signing() == before {
			t.Fatal("the key did not rotate")
		}
	}
	if b.Keys(d.now()).Key(first) != nil {
		t.Error("the first key still counts")
	}
}

// TestWithdrawnWhileRootIsAway: a withdrawal does not wait for the TPM that holds the
// root key; the key that follows counts once it is certified.
func TestWithdrawnWhileRootIsAway(t *testing.T) {
	t.Parallel()
	d, r := rooted(t)
	b := d.book()
	stolen := d.signing()
	r.gone.Store(true)
	if _, err := d.WithdrawKey(ctx, "operator/test", stolen, "stolen"); err != nil {
		t.Fatal(err)
	}
	if d.learns(b) || !b.Gone(stolen) {
		t.Errorf("withdrawn: %v; the key that follows is known without a certificate: %v", b.Gone(stolen), b.Keys(d.now()).IDs())
	}
	r.gone.Store(false)
	if err := d.TendKeys(ctx); err != nil || !d.learns(b) {
		t.Errorf("once the TPM answers, the key that follows is known: %v, %v", b.Keys(d.now()).IDs(), err)
	}
	if _, err := d.WithdrawKey(ctx, "operator/test", d.signing(), "stolen, too"); err != nil || !d.learns(b) {
		t.Errorf("withdrawn while the TPM answers, the key that follows is known: %v, %v", b.Keys(d.now()).IDs(), err)
	}
}

// TestCertificateEnded: a key whose certificate ended signs nothing, and signs again
// when the root has certified it anew.
func TestCertificateEnded(t *testing.T) {
	t.Parallel()
	d, r := rooted(t)
	n := d.member("a-direct")
	d.mustGrant(n)
	r.gone.Store(true)
	d.pass(time.Hour + 2*verifier.KeyOverlap + token.MaxLife + time.Second)
	if err := d.TendKeys(ctx); err == nil {
		t.Error("keys could be tended without the root")
	}
	if err := d.Signs(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a key without a certificate signs: %v", err)
	}
	if _, err := d.attest(n); err == nil {
		t.Error("a token was signed by a key whose certificate has ended")
	}
	r.gone.Store(false)
	if err := d.TendKeys(ctx); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
}

// TestAnotherRoot: a verifier whose root key is another one, or none, does not start
// unless an operator says so; then every key is certified by the new one.
func TestAnotherRoot(t *testing.T) {
	t.Parallel()
	d, _ := rooted(t)
	was, other := d.cfg.Root, newRoot(t)
	for name, r := range map[string]crypto.Signer{"another": other, "none": nil} {
		d.cfg.Root = r
		if err := d.restart(); !errors.Is(err, keys.ErrMissing) || !strings.Contains(err.Error(), "--replace-root") {
			t.Errorf("started with %s root: %v", name, err)
		}
	}
	d.cfg.Root = was
	if err := d.restart(); err != nil {
		t.Fatalf("the same root again: %v", err)
	}
	old := d.book()
	d.cfg.Root, d.cfg.ReplaceRoot = other, true
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Learn(d.PublicKeys().Proven); err == nil {
		t.Error("who pinned the root before believes the new one")
	}
	if !d.learns(d.book()) {
		t.Error("who pins the new root does not know the key that signs")
	}
	d.cfg.ReplaceRoot = false
	if err := d.restart(); err != nil {
		t.Fatalf("the new root again: %v", err)
	}
}
