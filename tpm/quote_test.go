package tpm_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

func TestRecordedQuotes(t *testing.T) {
	t.Parallel()
	proven := 0
	for _, r := range recordedQuotes(t) {
		q, err := r.public.VerifyQuote(r.attest, r.sig)
		if err != nil {
			t.Errorf("%s: %v", r.file, err)
			continue
		}
		if !bytes.Equal(q.ExtraData, r.nonce) {
			t.Errorf("%s: extraData %x, want the nonce %x", r.file, q.ExtraData, r.nonce)
		}
		if !bytes.Equal(q.Marshal(), r.attest) {
			t.Errorf("%s: Marshal differs", r.file)
		}
		if len(q.PCRs) != 16 || q.PCRs[15] != 15 {
			t.Errorf("%s: PCRs %v, want 0-15", r.file, q.PCRs)
		}
		if weak := q.CheckBank() != nil; weak != (q.Bank == tpm.AlgSHA1) {
			t.Errorf("%s: bank %s refused: %v", r.file, q.Bank, weak)
		}
		if err := tpm.CheckPCRs(q, r.pcrs(t, q)); err == nil {
			proven++
		} else if r.dir != boots+"/e-grub-sb-race" { // PCR 10 moved between quote and read
			t.Errorf("%s: %v", r.file, err)
		}
	}
	if proven < 40 {
		t.Errorf("%d quotes with proven PCR values, want at least 40", proven)
	}
}

func TestForgedMagic(t *testing.T) {
	t.Parallel()
	k := newSoftKey(t)
	q := tpm.Quote{Signer: k.public.Name(), Bank: tpm.AlgSHA256, PCRs: []int{0}, PCRDigest: make([]byte, 32)}
	for at, want := range map[int]string{0: "not made inside a TPM", 4: "attestation type"} {
		forged := q.Marshal()
		forged[at] ^= 0x01
		_, err := k.public.VerifyQuote(forged, k.sign(t, forged))
		wantError(t, err, want)
	}
}

func TestQuoteOfAnotherKey(t *testing.T) {
	t.Parallel()
	k, other := newSoftKey(t), newSoftKey(t)
	q := tpm.Quote{Signer: k.public.Name(), Bank: tpm.AlgSHA256, PCRs: []int{0}, PCRDigest: make([]byte, 32)}
	attest := q.Marshal()
	sig := other.sign(t, attest)
	_, err := k.public.VerifyQuote(attest, sig)
	wantError(t, err, "signature does not match")

	// A quote by the key's twin under another parent, or by another key whose
	// signature was somehow accepted: the qualified signer tells.
	wantError(t, k.public.CheckSigner(&q), "qualified signer")
}

func TestReplayedQuote(t *testing.T) {
	t.Parallel()
	dir := boots + "/c-grub-sb"
	k := public(t, read(t, dir, "ak_pub_ecc.bin"))
	attest, sig := read(t, dir, "quote_ecc.bin"), read(t, dir, "sig_ecc.bin")
	q, err := k.VerifyQuote(attest, sig)
	if err != nil {
		t.Fatal(err)
	}
	// An old quote keeps its nonce; with today's nonce put in its place the
	// signature no longer holds.
	q.ExtraData = bytes.Repeat([]byte{7}, 32)
	_, err = k.VerifyQuote(q.Marshal(), sig)
	wantError(t, err, "signature does not match")
}

func TestTooFewPCRs(t *testing.T) {
	t.Parallel()
	q, values := quotedZeros(0, 1, 7)
	delete(values, 7)
	wantError(t, tpm.CheckPCRs(q, values), "PCR 7 was quoted and its value is missing")

	q.PCRs, values = nil, nil
	wantError(t, tpm.CheckPCRs(q, values), "selects none")
}

func TestValueOutsideSelection(t *testing.T) {
	t.Parallel()
	q, values := quotedZeros(0, 1, 7)
	if err := tpm.CheckPCRs(q, values); err != nil {
		t.Fatal(err)
	}
	values[10] = make([]byte, 32)
	wantError(t, tpm.CheckPCRs(q, values), "outside of the signed selection")

	// Bytes moved from one value to the next hash to the same digest.
	q, values = quotedZeros(0, 1)
	values[0], values[1] = make([]byte, 31), make([]byte, 33)
	wantError(t, tpm.CheckPCRs(q, values), "31 bytes")
}

func TestSHA1Bank(t *testing.T) {
	t.Parallel()
	q := &tpm.Quote{Bank: tpm.AlgSHA1}
	wantError(t, q.CheckBank(), "proves nothing")
	for _, bank := range []tpm.Alg{0, tpm.AlgSM3, 0x7777} {
		if (&tpm.Quote{Bank: bank}).CheckBank() == nil {
			t.Errorf("bank %s accepted", bank)
		}
	}
}

// quotedZeros is a quote, unsigned, over PCRs that are all zero.
func quotedZeros(pcrs ...int) (*tpm.Quote, map[int][]byte) {
	values := make(map[int][]byte)
	var all []byte
	for _, i := range pcrs {
		values[i] = make([]byte, 32)
		all = append(all, values[i]...)
	}
	return &tpm.Quote{Bank: tpm.AlgSHA256, PCRs: pcrs, PCRDigest: sha(all)}, values
}

func TestMalformedQuotes(t *testing.T) {
	t.Parallel()
	good := tpm.Quote{Signer: []byte{0, 11}, ExtraData: []byte{1}, Bank: tpm.AlgSHA256, PCRs: []int{0, 23}, PCRDigest: make([]byte, 32)}
	if _, err := tpm.ParseQuote(good.Marshal()); err != nil {
		t.Fatal(err)
	}
	hexed := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const head, mid = "ff544347" + "8018", "0000000000000000" + "00000000" + "00000000"
	digest := "0020" + hex.EncodeToString(make([]byte, 32))
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", "reading magic"},
		{"long extraData", head + "0000" + "0043", "at most 66"},
		{"safe flag", head + "0000" + "0000" + mid + "02", "safe flag"},
		{"no bank", head + "0000" + "0000" + mid + "01" + "0000000000000000" + "00000000", "exactly one"},
		{"two banks", head + "0000" + "0000" + mid + "01" + "0000000000000000" + "00000002" + "000b03ffff00" + "000403ffff00" + digest, "exactly one"},
		{"unknown bank", head + "0000" + "0000" + mid + "01" + "0000000000000000" + "00000001" + "777703ffff00" + digest, "unknown PCR bank"},
		{"short selection", head + "0000" + "0000" + mid + "01" + "0000000000000000" + "00000001" + "000b02ffff" + digest, "selection of 2 bytes"},
		{"SHA-1 PCR digest", head + "0000" + "0000" + mid + "01" + "0000000000000000" + "00000001" + "000b03ffff00" + "0014" + "00000000000000000000" + "00000000000000000000", "PCR digest of 20 bytes"},
		{"trailing byte", hex.EncodeToString(good.Marshal()) + "00", "1 bytes after the end"},
		{"cut", hex.EncodeToString(good.Marshal()[:60]), "bytes left"},
	} {
		_, err := tpm.ParseQuote(hexed(c.in))
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
}

func FuzzQuote(f *testing.F) {
	for _, r := range recordedQuotes(f) {
		f.Add(r.attest)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := tpm.ParseQuote(b); err == nil && !bytes.Equal(q.Marshal(), b) {
			t.Fatalf("%x parses and marshals to %x", b, q.Marshal())
		}
	})
}
