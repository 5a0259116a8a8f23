package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

func sha(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func TestPublicRoundTrip(t *testing.T) {
	t.Parallel()
	for _, dir := range bootDirs(t) {
		for _, name := range []string{"ak_pub.bin", "ak_pub_ecc.bin", "ek_pub_rsa2048.bin", "ek_pub_eccp256.bin"} {
			raw := read(t, dir, name)
			p := public(t, raw)
			if !bytes.Equal(p.Marshal(), raw) {
				t.Errorf("%s/%s: Marshal differs", dir, name)
			}
			if want := append([]byte{0, 11}, sha(raw)...); !bytes.Equal(p.Name(), want) {
				t.Errorf("%s/%s: name %x, want %x", dir, name, p.Name(), want)
			}
		}
	}
}

// The template is a contract: another byte of it is another key on every node.
func TestAKTemplateVector(t *testing.T) {
	t.Parallel()
	const want = "0023000b000504720000" + // ECC, sha256, attributes, no policy
		"001000" + "18000b" + "0003" + "0010" + // no symmetric, ECDSA sha256, P-256, no kdf
		// printf 'prod.example.org\x00\x00\x00\x07' | sha256sum
		"0020" + "62d2d90922038b3225f611f501e50c7fc2e7548747efa0aeb7a5c57b015ebc18" +
		"0020" + "0000000000000000000000000000000000000000000000000000000000000000"
	if got := hex.EncodeToString(tpm.AKTemplate("prod.example.org", 7)); got != want {
		t.Errorf("template\n%s, want\n%s", got, want)
	}
	seen := make(map[string]bool)
	for _, domain := range []string{"", "a", "b", "a\x00"} {
		for generation := range uint32(3) {
			seen[string(tpm.AKTemplate(domain, generation))] = true
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d different templates, want 12", len(seen))
	}
}

func TestAKWithMissingAttribute(t *testing.T) {
	t.Parallel()
	k := newSoftKey(t)
	if err := tpm.CheckAK(k.public, "d", 0); err != nil {
		t.Fatal(err)
	}
	for bit := range 32 {
		raw := k.public.Marshal()
		attrs := binary.BigEndian.Uint32(raw[4:])
		binary.BigEndian.PutUint32(raw[4:], attrs^1<<bit)
		if err := tpm.CheckAK(public(t, raw), "d", 0); err == nil {
			t.Errorf("AK with attribute bit %d changed accepted", bit)
		}
	}
}

// A key that may sign anything can be made to sign a TPMS_ATTEST somebody wrote.
func TestQuoteByUnrestrictedKey(t *testing.T) {
	t.Parallel()
	k := newSoftKey(t)
	raw := k.public.Marshal()
	for _, bit := range []int{1, 4, 5, 16, 17, 18} { // fixedTPM, fixedParent, origin, restricted, decrypt, sign
		changed := bytes.Clone(raw)
		binary.BigEndian.PutUint32(changed[4:], binary.BigEndian.Uint32(raw[4:])^1<<bit)
		attest := (&tpm.Quote{Bank: tpm.AlgSHA256, PCRDigest: make([]byte, 32)}).Marshal()
		_, err := public(t, changed).VerifyQuote(attest, k.sign(t, attest))
		wantError(t, err, "no attestation key")
	}
}

func TestAKOfAnotherKind(t *testing.T) {
	t.Parallel()
	dir := boots + "/c-grub-sb"
	for _, name := range []string{"ak_pub.bin", "ek_pub_eccp256.bin", "ek_pub_rsa2048.bin"} {
		wantError(t, tpm.CheckAK(public(t, read(t, dir, name)), "d", 0), "differs from the template")
	}
}

// The recorded AKs are children of the EK: their counters are not plain.
func TestAKUnderOwnerHierarchy(t *testing.T) {
	t.Parallel()
	for _, r := range recordedQuotes(t) {
		q, err := r.public.VerifyQuote(r.attest, r.sig)
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, r.public.CheckSigner(q), "primary of the endorsement hierarchy")
	}
	k := newSoftKey(t)
	name := k.public.Name()
	for _, hierarchy := range []uint32{0x40000001, 0x40000007, 0x4000000c} { // owner, null, platform
		parent := binary.BigEndian.AppendUint32(nil, hierarchy)
		q := &tpm.Quote{Signer: append([]byte{0, 11}, sha(append(parent, name...))...)}
		wantError(t, k.public.CheckSigner(q), "primary of the endorsement hierarchy")
	}
	parent := binary.BigEndian.AppendUint32(nil, 0x4000000b)
	q := &tpm.Quote{Signer: append([]byte{0, 11}, sha(append(parent, name...))...)}
	if err := k.public.CheckSigner(q); err != nil {
		t.Fatal(err)
	}
}

// The zero value is no key.
func TestZeroPublic(t *testing.T) {
	t.Parallel()
	var p tpm.Public
	if _, err := p.VerifyQuote(nil, nil); err == nil {
		t.Error("zero key verified a quote")
	}
	if p.CheckSigner(&tpm.Quote{}) == nil || tpm.CheckAK(&p, "", 0) == nil || tpm.CheckEK(&p, nil) == nil {
		t.Error("zero key accepted")
	}
}

func TestMalformedPublic(t *testing.T) {
	t.Parallel()
	dir := boots + "/c-grub-sb"
	ecc, rsa := read(t, dir, "ak_pub_ecc.bin"), read(t, dir, "ak_pub.bin")
	patch := func(b []byte, at int, with ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"TPM2B", append([]byte{0, 88}, ecc...), "key type 0x0058"},
		{"keyed hash", patch(ecc, 0, 0x00, 0x08), "key type 0x0008"},
		{"nameAlg sha1", patch(ecc, 2, 0x00, 0x04), "nameAlg sha1"},
		{"Camellia", patch(ecc, 10, 0x00, 0x26), "symmetric algorithm 0x0026"},
		{"SM2", patch(ecc, 12, 0x00, 0x1b), "scheme 0x001b"},
		{"sha1 scheme", patch(ecc, 14, 0x00, 0x04), "hash sha1"},
		{"P-521", patch(ecc, 16, 0x00, 0x05), "curve 0x0005"},
		{"off the curve", patch(ecc, 30, 0xff), "not on curve"},
		{"short x", append(append(bytes.Clone(ecc[:20]), 0, 31), ecc[23:]...), "31 and 32 bytes"},
		{"RSAES", patch(rsa, 12, 0x00, 0x15), "scheme 0x0015"},
		{"RSA-1024", patch(rsa, 16, 0x04, 0x00), "1024 bits"},
		{"exponent 3", patch(rsa, 18, 0, 0, 0, 3), "exponent 3"},
		{"even modulus", patch(rsa, len(rsa)-1, 2), "not an odd number"},
		{"trailing byte", append(bytes.Clone(ecc), 0), "1 bytes after the end"},
		{"cut", rsa[:100], "bytes left"},
	} {
		_, err := tpm.ParsePublic(c.in)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
}

func FuzzPublic(f *testing.F) {
	for _, dir := range bootDirs(f)[:2] {
		for _, name := range []string{"ak_pub.bin", "ak_pub_ecc.bin", "ek_pub_rsa2048.bin", "ek_pub_eccp256.bin"} {
			f.Add(read(f, dir, name))
		}
	}
	f.Add(tpm.AKTemplate("d", 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := tpm.ParsePublic(b); err == nil && !bytes.Equal(p.Marshal(), b) {
			t.Fatalf("%x parses and marshals to %x", b, p.Marshal())
		}
	})
}
