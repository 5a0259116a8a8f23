package tpm_test

import (
	"bytes"
	"crypto"
	"math/rand/v2"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// theirQuote is what go-tpm reads in attest, or nil if it reads no quote of one
// bank there, or not to the last byte.
func theirQuote(b []byte) *tpm.Quote {
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
	if err != nil || a.Magic != tpm2.TPMGeneratedValue {
		return nil
	}
	info, err := a.Attested.Quote()
	if err != nil || len(info.PCRSelect.PCRSelections) != 1 || !bytes.Equal(tpm2.Marshal(a), b) {
		return nil
	}
	sel := info.PCRSelect.PCRSelections[0]
	q := &tpm.Quote{
		Signer: a.QualifiedSigner.Buffer, ExtraData: a.ExtraData.Buffer, Clock: a.ClockInfo.Clock, ResetCount: a.ClockInfo.ResetCount,
		RestartCount: a.ClockInfo.RestartCount, Safe: bool(a.ClockInfo.Safe), Firmware: a.FirmwareVersion, Bank: tpm.Alg(sel.Hash), PCRDigest: info.PCRDigest.Buffer,
	}
	for i := range 8 * len(sel.PCRSelect) {
		if sel.PCRSelect[i/8]&(1<<(i%8)) != 0 {
			q.PCRs = append(q.PCRs, i)
		}
	}
	return q
}

// sameQuote compares what both read, field by field, as bytes.
func sameQuote(a, b *tpm.Quote) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// mutations returns variants of b, the same ones each time: a changed bit or
// byte, a cut, a byte more, a part doubled.
func mutations(b []byte, n int, seed uint64) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([][]byte, n)
	for i := range out {
		m := bytes.Clone(b)
		at := r.IntN(len(m))
		switch r.IntN(6) {
		case 0:
			m = m[:at]
		case 1:
			m = append(m, byte(r.Uint32()))
		case 2:
			m = append(m[:at:at], b[at/2:]...)
		case 3:
			m[at] = byte(r.Uint32())
		default:
			m[at] ^= 1 << r.IntN(8)
		}
		out[i] = m
	}
	return out
}

// TestQuoteAsGoTPMReadsIt compares with tpm2.Unmarshal: what we accept it must
// read the same; what we refuse and it reads must be one of our stricter rules.
func TestQuoteAsGoTPMReadsIt(t *testing.T) {
	t.Parallel()
	accepted := 0
	for n, r := range recordedQuotes(t) {
		for _, b := range append(mutations(r.attest, 150, uint64(n)), r.attest) {
			ours, err := tpm.ParseQuote(b)
			theirs := theirQuote(b)
			switch {
			case err == nil && theirs == nil:
				t.Fatalf("%s: we read a quote in %x, go-tpm does not", r.file, b)
			case err == nil && !sameQuote(ours, theirs):
				t.Fatalf("%s: %x\nwe read     %+v\ngo-tpm reads %+v", r.file, b, ours, theirs)
			case err == nil:
				accepted++
			case theirs != nil && !stricter(theirs):
				t.Fatalf("%s: go-tpm reads a quote in %x, we say: %v", r.file, b, err)
			}
		}
	}
	if accepted < 300 {
		t.Errorf("only %d variants were quotes: the comparison is weak", accepted)
	}
}

// stricter tells whether we refuse q on purpose.
func stricter(q *tpm.Quote) bool {
	tooHigh := len(q.PCRs) > 0 && q.PCRs[len(q.PCRs)-1] > 23
	return tooHigh || q.Bank.Size() == 0 || len(q.PCRDigest) != 32 || len(q.ExtraData) > 66 || len(q.Signer) > 66
}

// TestQuoteAsGoAttestationJudgesIt compares the whole check with
// AKPublic.Verify, on recorded quotes and on damaged ones.
func TestQuoteAsGoAttestationJudgesIt(t *testing.T) {
	t.Parallel()
	for n, r := range recordedQuotes(t) {
		theirs, err := attest.ParseAKPublic(r.rawPublic)
		if err != nil {
			t.Fatal(err)
		}
		compare := func(what string, b, sig []byte, wantValid bool) {
			t.Helper()
			q, err := r.public.VerifyQuote(b, sig)
			values := make(map[int][]byte)
			if err == nil {
				values = r.pcrs(t, q)
				err = tpm.CheckPCRs(q, values)
			}
			if err == nil && !bytes.Equal(q.ExtraData, r.nonce) {
				t.Fatalf("%s: nonce", r.file)
			}
			var pcrs []attest.PCR
			for i := range 24 {
				if v, ok := values[i]; ok {
					hash, _ := q.Bank.Hash()
					pcrs = append(pcrs, attest.PCR{Index: i, Digest: v, DigestAlg: hash})
				}
			}
			if pcrs == nil {
				pcrs = []attest.PCR{{Index: 0, Digest: make([]byte, 32), DigestAlg: crypto.SHA256}}
			}
			theirErr := theirs.Verify(attest.Quote{Quote: b, Signature: sig}, pcrs, r.nonce)
			if (err == nil) != (theirErr == nil) {
				t.Fatalf("%s: %s: we say %v, go-attestation says %v", r.file, what, err, theirErr)
			}
			if wantValid && err != nil {
				t.Fatalf("%s: %v", r.file, err)
			}
		}
		compare("recorded", r.attest, r.sig, r.dir != boots+"/e-grub-sb-race")
		for _, m := range mutations(r.attest, 12, uint64(n)) {
			compare("damaged quote", m, r.sig, false)
		}
		for _, m := range mutations(r.sig, 12, uint64(n)) {
			if len(m) > len(r.sig) {
				continue // they ignore what follows a signature
			}
			compare("damaged signature", r.attest, m, false)
		}
	}
}

// TestPublicAsGoTPMReadsIt compares names and keys with go-tpm.
func TestPublicAsGoTPMReadsIt(t *testing.T) {
	t.Parallel()
	accepted := 0
	for n, dir := range bootDirs(t) {
		for _, name := range []string{"ak_pub.bin", "ak_pub_ecc.bin", "ek_pub_rsa2048.bin", "ek_pub_eccp256.bin"} {
			raw := read(t, dir, name)
			for _, b := range append(mutations(raw, 30, uint64(n)), raw) {
				ours, err := tpm.ParsePublic(b)
				if err != nil {
					continue
				}
				accepted++
				theirs, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
				if err != nil || !bytes.Equal(tpm2.Marshal(theirs), b) {
					t.Fatalf("%s/%s: we read a public area in %x, go-tpm does not: %v", dir, name, b, err)
				}
				theirName, err := tpm2.ObjectName(theirs)
				if err != nil || !bytes.Equal(theirName.Buffer, ours.Name()) {
					t.Fatalf("%s/%s: name %x, go-tpm says %x, %v", dir, name, ours.Name(), theirName, err)
				}
				theirKey, err := tpm2.Pub(*theirs)
				if err != nil || !ours.Key().(interface{ Equal(crypto.PublicKey) bool }).Equal(theirKey) {
					t.Fatalf("%s/%s: key differs from go-tpm's, %v", dir, name, err)
				}
			}
		}
	}
	if accepted < 300 {
		t.Errorf("only %d variants were public areas: the comparison is weak", accepted)
	}
}
