package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

const boots = "../testdata/boots"

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bootDirs returns the recorded machines.
func bootDirs(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(boots, "*", "nonce.hex"))
	if err != nil || len(dirs) < 10 {
		t.Fatalf("recorded boots: %d found, %v", len(dirs), err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

func public(t testing.TB, b []byte) *tpm.Public {
	t.Helper()
	p, err := tpm.ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// recorded is one quote of a recorded machine.
type recorded struct {
	file          string // "boots/c-grub-sb/quote_ecc.bin"
	public        *tpm.Public
	rawPublic     []byte
	attest, sig   []byte
	nonce         []byte
	values        map[string]map[string]string // bank -> PCR -> hex, as read
	dir, quoteFor string
}

// recordedQuotes returns every quote under testdata/boots.
func recordedQuotes(t testing.TB) []recorded {
	t.Helper()
	var out []recorded
	for _, dir := range bootDirs(t) {
		nonce, err := hex.DecodeString(strings.TrimSpace(string(read(t, dir, "nonce.hex"))))
		if err != nil {
			t.Fatal(err)
		}
		quotes, err := filepath.Glob(filepath.Join(dir, "quote*.bin"))
		if err != nil || len(quotes) == 0 {
			t.Fatalf("%s: no quotes, %v", dir, err)
		}
		var values map[string]map[string]string
		if err := json.Unmarshal(read(t, dir, "pcrs.json"), &values); err != nil {
			t.Fatal(err)
		}
		for _, q := range quotes {
			suffix := strings.TrimPrefix(strings.TrimSuffix(filepath.Base(q), ".bin"), "quote")
			key := "ak_pub.bin"
			if suffix == "_ecc" {
				key = "ak_pub_ecc.bin"
			}
			raw := read(t, dir, key)
			out = append(out, recorded{file: q, dir: dir, quoteFor: suffix, public: public(t, raw), rawPublic: raw,
				attest: read(t, q), sig: read(t, dir, "sig"+suffix+".bin"), nonce: nonce, values: values})
		}
	}
	return out
}

// pcrs returns the values read beside the quote for its selection.
func (r *recorded) pcrs(t testing.TB, q *tpm.Quote) map[int][]byte {
	t.Helper()
	out := make(map[int][]byte)
	for _, i := range q.PCRs {
		v, err := hex.DecodeString(r.values[q.Bank.String()][strconv.Itoa(i)])
		if err != nil {
			t.Fatal(err)
		}
		out[i] = v
	}
	return out
}

// softKey is a key outside of any TPM with the public area of our template.
type softKey struct {
	*ecdsa.PrivateKey
	public *tpm.Public
}

func newSoftKey(t testing.TB) softKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return softKey{k, public(t, withPoint(t, tpm.AKTemplate("d", 0), &k.PublicKey))}
}

// withPoint puts k's point into a P-256 template with a padded unique.
func withPoint(t testing.TB, template []byte, k *ecdsa.PublicKey) []byte {
	t.Helper()
	point, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(template[:len(template)-68])
	b = append(append(b, 0, 32), point[1:33]...)
	return append(append(b, 0, 32), point[33:]...)
}

// sign returns a TPMT_SIGNATURE over msg.
func (k softKey) sign(t testing.TB, msg []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(msg)
	r, s, err := ecdsa.Sign(rand.Reader, k.PrivateKey, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0x00, 0x18, 0x00, 0x0b, 0x00, 0x20}
	b = append(b, r.FillBytes(make([]byte, 32))...)
	b = append(b, 0x00, 0x20)
	return append(b, s.FillBytes(make([]byte, 32))...)
}

func readPEM(t testing.TB, path ...string) []*x509.Certificate {
	t.Helper()
	rest := read(t, path...)
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
}

// wantError fails unless err's text contains want.
func wantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want an error with %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("error %q, want one with %q", err, want)
	}
}

func FuzzParseAlg(f *testing.F) {
	for _, name := range []string{"sha1", "sha256", "sm3_256", "SHA256", "0x000b", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if a, err := tpm.ParseAlg(name); err == nil && !strings.EqualFold(a.String(), name) {
			t.Errorf("%q is read as %v", name, a)
		}
	})
}
