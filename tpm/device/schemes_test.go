package device_test

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// TestQuotesOfEveryScheme has a TPM quote with keys of each kind that machines
// and makers use, over both banks. What each signed is proof under its own key
// and scheme only.
func TestQuotesOfEveryScheme(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	type signed struct {
		key         *tpm.Public
		attest, sig []byte
	}
	var all []signed
	for _, hash := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
		for _, k := range []struct {
			scheme tpm2.TPMAlgID
			bits   tpm2.TPMKeyBits
			curve  tpm2.TPMECCCurve
		}{
			{scheme: tpm2.TPMAlgRSASSA, bits: 2048}, {scheme: tpm2.TPMAlgRSAPSS, bits: 2048}, {scheme: tpm2.TPMAlgRSASSA, bits: 3072},
			{scheme: tpm2.TPMAlgRSAPSS, bits: 3072}, {scheme: tpm2.TPMAlgECDSA, curve: tpm2.TPMECCNistP256}, {scheme: tpm2.TPMAlgECDSA, curve: tpm2.TPMECCNistP384},
		} {
			bank := tpm.AlgSHA384
			if len(all)%2 == 0 {
				bank = tpm.AlgSHA256
			}
			public, attest, sig := quoteWith(t, i, signing(k.scheme, hash, k.bits, k.curve), bank)
			p, err := tpm.ParsePublic(public)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p.Marshal(), public) {
				t.Errorf("scheme %#x: Marshal differs", k.scheme)
			}
			q, err := p.VerifyQuote(attest, sig)
			if err != nil {
				t.Fatalf("scheme %#x, %d bits, curve %d, hash %#x: %v", k.scheme, k.bits, k.curve, hash, err)
			}
			values := map[int][]byte{0: make([]byte, bank.Size()), 7: make([]byte, bank.Size())}
			if err := tpm.CheckPCRs(q, values); err != nil || q.Bank != bank || !bytes.Equal(q.Marshal(), attest) {
				t.Errorf("bank %s, want %s: %v", q.Bank, bank, err)
			}
			if err := p.CheckSigner(q); err != nil {
				t.Error(err)
			}
			all = append(all, signed{p, attest, sig})
		}
	}
	for n, s := range all {
		for m, other := range all {
			if _, err := s.key.VerifyQuote(other.attest, other.sig); n != m && err == nil {
				t.Errorf("key %d accepts the quote of key %d", n, m)
			}
		}
	}
}

// signing is a restricted signing key's template.
func signing(scheme, hash tpm2.TPMAlgID, bits tpm2.TPMKeyBits, curve tpm2.TPMECCCurve) tpm2.TPMTPublic {
	attributes := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true}
	p := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: hash, ObjectAttributes: attributes}
	if scheme == tpm2.TPMAlgECDSA {
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve,
			Scheme: tpm2.TPMTECCScheme{Scheme: scheme, Details: tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})}})
		return p
	}
	p.Type = tpm2.TPMAlgRSA
	details := tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash})
	if scheme == tpm2.TPMAlgRSAPSS {
		details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash})
	}
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: bits, Scheme: tpm2.TPMTRSAScheme{Scheme: scheme, Details: details}})
	return p
}

// quoteWith derives a key of the endorsement hierarchy and quotes PCRs 0 and 7.
func quoteWith(t *testing.T, i *swtpm.Instance, template tpm2.TPMTPublic, bank tpm.Alg) (public, attest, sig []byte) {
	t.Helper()
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(i)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: []byte("nonce")},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgID(bank), PCRSelect: tpm2.PCClientCompatible.PCRs(0, 7)}}},
	}.Execute(i)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(i); err != nil {
		t.Fatal(err)
	}
	return key.OutPublic.Bytes(), r.Quoted.Bytes(), tpm2.Marshal(r.Signature)
}
