package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strconv"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

// sample is a quote by a key of the endorsement hierarchy with everything needed
// to check it: see testdata/endorsement/SOURCES.md.
type sample struct {
	public      *tpm.Public
	attest, sig []byte
	values      map[int][]byte
	log         []byte
}

func newSample(t testing.TB, kind string) *sample {
	t.Helper()
	const dir = "testdata/endorsement"
	s := &sample{
		public: public(t, read(t, dir, "ak_"+kind+".bin")),
		attest: read(t, dir, "quote_"+kind+".bin"),
		sig:    read(t, dir, "sig_"+kind+".bin"),
		log:    read(t, boots, "c-grub-sb", "eventlog.bin"),
		values: make(map[int][]byte),
	}
	var banks map[string]map[string]string
	if err := json.Unmarshal(read(t, boots, "c-grub-sb", "pcrs.json"), &banks); err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		v, err := hex.DecodeString(banks["sha256"][strconv.Itoa(i)])
		if err != nil {
			t.Fatal(err)
		}
		s.values[i] = v
	}
	return s
}

// check is the verifier's whole quote check.
func (s *sample) check() error {
	q, err := s.public.VerifyQuote(s.attest, s.sig)
	if err != nil {
		return err
	}
	if err := s.public.CheckSigner(q); err != nil {
		return err
	}
	return tpm.CheckPCRs(q, s.values)
}

func TestQuoteByPrimaryOfEndorsement(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"ecc", "rsa"} {
		s := newSample(t, kind)
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if err := tpm.CheckAK(newSample(t, "ecc").public, "prod.example.org", 7); err != nil {
		t.Error(err)
	}
	// The AK of one machine does not vouch for the quote of another.
	wantError(t, newSample(t, "rsa").public.CheckSigner(&tpm.Quote{Signer: newSample(t, "ecc").public.Name()}), "qualified signer")
}

// BenchmarkFloor is what cannot be saved: one bare signature check and one
// digest of the boot log.
func BenchmarkFloor(b *testing.B) {
	b.Run("ecc", func(b *testing.B) {
		s := newSample(b, "ecc")
		key := s.public.Key().(*ecdsa.PublicKey)
		r, v := new(big.Int).SetBytes(s.sig[6:38]), new(big.Int).SetBytes(s.sig[40:72])
		b.ReportAllocs()
		for b.Loop() {
			sum := sha256.Sum256(s.attest)
			if !ecdsa.Verify(key, sum[:], r, v) {
				b.Fatal("signature")
			}
			sha256.Sum256(s.log)
		}
	})
	b.Run("rsa", func(b *testing.B) {
		s := newSample(b, "rsa")
		key := s.public.Key().(*rsa.PublicKey)
		b.ReportAllocs()
		for b.Loop() {
			sum := sha256.Sum256(s.attest)
			if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], s.sig[6:]); err != nil {
				b.Fatal(err)
			}
			sha256.Sum256(s.log)
		}
	})
}

// BenchmarkQuoteCheck is a quote's signature, signer and PCR values, the key
// parsed before.
func BenchmarkQuoteCheck(b *testing.B) {
	for _, kind := range []string{"ecc", "rsa"} {
		b.Run(kind, func(b *testing.B) {
			s := newSample(b, kind)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.check(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
