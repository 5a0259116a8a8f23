package device

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// AK is an attestation key that is loaded in the TPM until Close.
type AK struct {
	tpm    *TPM
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public []byte
}

// AK derives the attestation key of a domain and generation ([tpm.AKTemplate])
// as a primary key of the endorsement hierarchy and keeps it loaded. The same
// TPM gives the same key each time.
func (t *TPM) AK(domain string, generation uint32) (*AK, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.createPrimary(tpm.AKTemplate(domain, generation))
	if err != nil {
		return nil, fmt.Errorf("making attestation key: %w", err)
	}
	ak := &AK{tpm: t, handle: r.ObjectHandle, name: r.Name, public: r.OutPublic.Bytes()}
	t.keys[ak.handle] = ak
	return ak, nil
}

// createPrimary makes a key of the endorsement hierarchy; flush its handle.
func (t *TPM) createPrimary(template []byte) (*tpm2.CreatePrimaryResponse, error) {
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](template),
	}.Execute(sender{t})
	return r, explain(err)
}

// Public returns the key's TPMT_PUBLIC.
func (k *AK) Public() []byte { return bytes.Clone(k.public) }

// Name returns the key's name: nameAlg and the digest of Public.
func (k *AK) Name() []byte { return bytes.Clone(k.name.Buffer) }

// Close unloads the key. It may be called again.
func (k *AK) Close() error {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	if k.tpm.keys[k.handle] != k {
		return nil
	}
	delete(k.tpm.keys, k.handle)
	return k.tpm.flush(k.handle)
}

var errUnloaded = errors.New("the attestation key is closed: make it again")

// auth authorises the use of the key with its empty password.
func (k *AK) auth() (tpm2.AuthHandle, error) {
	if k.tpm.keys[k.handle] != k {
		return tpm2.AuthHandle{}, errUnloaded
	}
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(nil)}, nil
}

// Quote is [AK.QuoteBank] of the SHA-256 bank.
func (k *AK) Quote(extraData []byte, pcrs []int) (attest, sig []byte, err error) {
	return k.QuoteBank(tpm.AlgSHA256, extraData, pcrs)
}

// QuoteBank has the TPM sign PCRs (0 to 23) of a bank, with extraData of up to
// 64 bytes. It returns a TPMS_ATTEST and a TPMT_SIGNATURE and costs one TPM
// command. Read logs after it: they may only have grown since.
func (k *AK) QuoteBank(bank tpm.Alg, extraData []byte, pcrs []int) (attest, sig []byte, err error) {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	sel, err := selection(bank, pcrs)
	if err != nil {
		return nil, nil, fmt.Errorf("quoting: %w", err)
	}
	key, err := k.auth()
	if err != nil {
		return nil, nil, fmt.Errorf("quoting: %w", err)
	}
	r, err := tpm2.Quote{
		SignHandle:     key,
		QualifyingData: tpm2.TPM2BData{Buffer: extraData},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      sel,
	}.Execute(sender{k.tpm})
	if err != nil {
		return nil, nil, fmt.Errorf("quoting: %w", explain(err))
	}
	attest = r.Quoted.Bytes()
	q, err := tpm.ParseQuote(attest)
	if err != nil {
		return nil, nil, fmt.Errorf("quoting: the TPM answered with what is no quote: %w", err)
	}
	if want := sorted(pcrs); !slices.Equal(q.PCRs, want) {
		return nil, nil, fmt.Errorf("quoting: the TPM quoted PCRs %v of %v: its %s bank is not active, enable it in the firmware setup", q.PCRs, want, q.Bank)
	}
	return attest, tpm2.Marshal(r.Signature), nil
}

// selection returns a selection of one bank, at most 24 PCRs.
func selection(bank tpm.Alg, pcrs []int) (tpm2.TPMLPCRSelection, error) {
	if len(pcrs) == 0 {
		return tpm2.TPMLPCRSelection{}, errors.New("no PCR selected")
	}
	list := make([]uint, len(pcrs))
	for i, n := range pcrs {
		if n < 0 || n > 23 {
			return tpm2.TPMLPCRSelection{}, fmt.Errorf("PCR %d selected, want 0 to 23", n)
		}
		list[i] = uint(n)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgID(bank), PCRSelect: tpm2.PCClientCompatible.PCRs(list...)},
	}}, nil
}

func sorted(pcrs []int) []int {
	return slices.Compact(slices.Sorted(slices.Values(pcrs)))
}
