package corim_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	rim "github.com/veraison/corim/corim"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/corim"
	"github.com/writ-attestation/writ/verifier/reference"
)

const boot = "../../testdata/boots/c-grub-sb/"

// learnt is a set of the recorded machine, and its PCR values.
func learnt(t testing.TB) (*reference.Set, map[int][]byte) {
	t.Helper()
	raw, err := os.ReadFile(boot + "eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var banks map[string]map[string]string
	if raw, err = os.ReadFile(boot + "pcrs.json"); err == nil {
		err = json.Unmarshal(raw, &banks)
	}
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[int][]byte{}
	for i := range 16 {
		if pcrs[i], err = hex.DecodeString(banks[tpm.AlgSHA256.String()][strconv.Itoa(i)]); err != nil {
			t.Fatal(err)
		}
	}
	s, _, err := reference.Learn("lab", []reference.Sample{{Name: "c-grub-sb", Vendor: "IBM", Log: log, PCRs: pcrs}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, pcrs
}

// TestExportIsWhatTheTPMHolds: the values computed from a set's events are those
// the machine it was learnt from has, and come back by import.
func TestExportIsWhatTheTPMHolds(t *testing.T) {
	s, pcrs := learnt(t)
	s.NotAfter = 1_900_000_000
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	b, notes, err := corim.Export(s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, "PCR 1 is left out") }) {
		t.Errorf("notes %q", notes)
	}
	got, err := corim.Import("lab", b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Level != reference.QuoteOnly || len(got.TPM.Vendors) != 0 || got.NotAfter != s.NotAfter {
		t.Errorf("%s", got.Marshal())
	}
	for i := range 16 {
		p, want := got.PCR(i), hex.EncodeToString(pcrs[i])
		switch i {
		case 1, 5, 10:
			if p.Rule != reference.Ignore {
				t.Errorf("PCR %d: %+v", i, p)
			}
		default:
			if p.Rule != reference.Match || !slices.Equal(p.Values, []string{want}) {
				t.Errorf("PCR %d: %+v, want %s", i, p, want)
			}
		}
	}
	again, _, err := corim.Export(got)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := corim.Import("lab", again, nil); err != nil || back.Digest() != got.Digest() {
		t.Errorf("a set of values does not come back: %v", err)
	}
}

// TestDeniedValueExported: what a set denies is not among the values it exports.
func TestDeniedValueExported(t *testing.T) {
	s, _ := learnt(t)
	d := s.PCR(4).Events[0].Allow[0]
	s.Deny = []reference.Listed{{Digest: d, Why: "withdrawn"}}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	b, _, err := corim.Export(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := corim.Import("lab", b, nil)
	if err != nil || got.PCR(4).Rule != reference.Ignore {
		t.Errorf("%v, %+v", err, got.PCR(4))
	}
}

func TestImportMalformed(t *testing.T) {
	s, _ := learnt(t)
	b, _, err := corim.Export(s)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		corim.Import("lab", b[:i], nil) // must not panic
	}
	if _, err := corim.Import("lab", b, key.Public()); err == nil {
		t.Error("an unsigned CoRIM passes for a signed one")
	}
	for name, c := range map[string][]byte{"empty": {}, "cut": b[:len(b)/2], "other CBOR": {0xa0}, "signed, malformed": {0xd2, 0x84, 0x40}} {
		if _, err := corim.Import("lab", c, nil); err == nil {
			t.Errorf("read: %s", name)
		}
	}
}

// TestForgedSignedCoRIM: a signed one counts under its signer's key only.
func TestForgedSignedCoRIM(t *testing.T) {
	s, _ := learnt(t)
	b, _, err := corim.Export(s)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	enc := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
	signer, err := rim.NewSignerFromJWK(fmt.Appendf(nil, `{"kty":"EC","crv":"P-256","x":%q,"y":%q,"d":%q}`, enc(key.X), enc(key.Y), enc(key.D)))
	if err != nil {
		t.Fatal(err)
	}
	var signed rim.SignedCorim
	if err := signed.UnsignedCorim.FromCBOR(b); err != nil {
		t.Fatal(err)
	}
	signed.Meta = *rim.NewMeta().SetSigner("vendor", nil)
	cose, err := signed.Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := corim.Import("lab", cose, key.Public()); err != nil {
		t.Error(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := corim.Import("lab", cose, other.Public()); err == nil {
		t.Error("another key's signature counts")
	}
	if _, err := corim.Import("lab", cose, nil); err == nil {
		t.Error("a signed CoRIM is read without a key")
	}
	cose[len(cose)-1] ^= 1
	if _, err := corim.Import("lab", cose, key.Public()); err == nil {
		t.Error("a changed signature counts")
	}
}
