package tpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/bits"
)

const (
	generatedValue = 0xff544347 // TPM_GENERATED_VALUE, Part 2, 6.2
	attestQuote    = 0x8018     // TPM_ST_ATTEST_QUOTE, Part 2, 6.9

	maxName     = 2 + 64 // TPM2B_NAME: nameAlg and the longest digest
	maxData     = 2 + 64 // TPM2B_DATA: sizeof(TPMT_HA)
	pcrCount    = 24     // PC Client Platform TPM Profile, 4.6
	selectBytes = pcrCount / 8
)

// Quote is what a TPM says in TPM2_Quote: a TPMS_ATTEST of type
// TPM_ST_ATTEST_QUOTE (Part 2, 10.12). It is proof of nothing before its
// signature ([Public.VerifyQuote]), signer ([Public.CheckSigner]) and bank
// ([Quote.CheckBank]) are checked and ExtraData is compared with what was
// asked for.
//
// ResetCount, RestartCount and Firmware are plain only in quotes by a key of
// the endorsement or platform hierarchy; else a constant of the key is added
// to them (Part 1, 36.7).
type Quote struct {
	Signer       []byte // qualified name of the signing key: nameAlg and digest
	ExtraData    []byte // the caller's nonce, up to 66 bytes
	Clock        uint64 // milliseconds powered since the last TPM2_Clear
	ResetCount   uint32 // TPM resets since the last TPM2_Clear
	RestartCount uint32 // restarts or resumes since the last reset
	Safe         bool   // Clock was surely never higher than now
	Firmware     uint64 // firmware version, vendor's own format
	Bank         Alg    // the one bank of the selection
	PCRs         []int  // selected PCRs, ascending; may be empty
	PCRDigest    []byte // over the selected PCRs' values in that order, with the hash of the key's scheme: SHA-256 or SHA-384
}

// ParseQuote reads a TPMS_ATTEST. It refuses a wrong magic, any other type,
// more or fewer banks than one, a PCR digest that is neither SHA-256 nor SHA-384,
// a second encoding and trailing bytes. The quote does not share memory with attest.
func ParseQuote(attest []byte) (*Quote, error) {
	r := &reader{b: bytes.Clone(attest)}
	q, err := readQuote(r)
	if err != nil {
		return nil, fmt.Errorf("parsing quote: %w", err)
	}
	return q, nil
}

// attestHead is what every TPMS_ATTEST begins with (Part 2, 10.12.8).
type attestHead struct {
	signer, extraData        []byte
	clock                    uint64
	resetCount, restartCount uint32
	safe                     bool
	firmware                 uint64
}

func readAttest(r *reader, want uint16, what string) (h attestHead) {
	if magic := r.u32("magic"); magic != generatedValue {
		r.fail("magic 0x%08x, want 0x%08x: not made inside a TPM", magic, uint32(generatedValue))
	}
	if typ := r.u16("type"); typ != want {
		r.fail("attestation type 0x%04x, want 0x%04x (%s)", typ, want, what)
	}
	h = attestHead{
		signer:       r.sized(maxName, "qualifiedSigner"),
		extraData:    r.sized(maxData, "extraData"),
		clock:        r.u64("clock"),
		resetCount:   r.u32("resetCount"),
		restartCount: r.u32("restartCount"),
	}
	safe := r.u8("safe") // TPMI_YES_NO, Part 2, 9.2
	if safe > 1 {
		r.fail("safe flag 0x%02x, want 0 or 1", safe)
	}
	h.safe = safe == 1
	h.firmware = r.u64("firmwareVersion")
	return h
}

func (h *attestHead) append(b []byte, typ uint16) []byte {
	b = binary.BigEndian.AppendUint32(b, generatedValue)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = appendSized(b, h.signer)
	b = appendSized(b, h.extraData)
	b = binary.BigEndian.AppendUint64(b, h.clock)
	b = binary.BigEndian.AppendUint32(b, h.resetCount)
	b = binary.BigEndian.AppendUint32(b, h.restartCount)
	if h.safe {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return binary.BigEndian.AppendUint64(b, h.firmware)
}

func readQuote(r *reader) (*Quote, error) {
	h := readAttest(r, attestQuote, "quote")
	q := &Quote{Signer: h.signer, ExtraData: h.extraData, Clock: h.clock, ResetCount: h.resetCount, RestartCount: h.restartCount, Safe: h.safe, Firmware: h.firmware}
	q.Bank, q.PCRs = readSelection(r)
	q.PCRDigest = r.sized(sha512.Size384, "pcrDigest")
	if n := len(q.PCRDigest); r.err == nil && n != sha256.Size && n != sha512.Size384 {
		r.fail("PCR digest of %d bytes, want the %d of SHA-256 or the %d of SHA-384", n, sha256.Size, sha512.Size384)
	}
	return q, r.end()
}

// readSelection reads a TPML_PCR_SELECTION of exactly one bank (Part 2, 10.9.7).
func readSelection(r *reader) (bank Alg, pcrs []int) {
	if n := r.u32("number of PCR banks"); r.err == nil && n != 1 {
		r.fail("quote over %d PCR banks, want exactly one", n)
	}
	bank = Alg(r.u16("PCR bank"))
	if n := r.u8("sizeofSelect"); r.err == nil && n != selectBytes {
		r.fail("PCR selection of %d bytes, want %d", n, selectBytes)
	}
	sel := r.take(selectBytes, "PCR selection")
	if r.err == nil && bank.Size() == 0 {
		r.fail("quote over unknown PCR bank 0x%04x", uint16(bank))
	}
	if r.err != nil {
		return 0, nil
	}
	pcrs = make([]int, 0, bits.OnesCount8(sel[0])+bits.OnesCount8(sel[1])+bits.OnesCount8(sel[2]))
	for i := range pcrCount {
		if sel[i/8]&(1<<(i%8)) != 0 {
			pcrs = append(pcrs, i)
		}
	}
	return bank, pcrs
}

// Marshal is the inverse of [ParseQuote].
func (q *Quote) Marshal() []byte {
	h := attestHead{q.Signer, q.ExtraData, q.Clock, q.ResetCount, q.RestartCount, q.Safe, q.Firmware}
	b := h.append(nil, attestQuote)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(q.Bank))
	var sel [selectBytes]byte
	for _, i := range q.PCRs {
		sel[i/8] |= 1 << (i % 8)
	}
	b = append(append(b, selectBytes), sel[:]...)
	return appendSized(b, q.PCRDigest)
}

// CheckBank refuses a bank that cannot serve as proof: SHA-1, for which PCR
// values can be forged by collision, and those this build cannot recompute.
func (q *Quote) CheckBank() error {
	switch q.Bank {
	case AlgSHA256, AlgSHA384, AlgSHA512:
		return nil
	}
	return fmt.Errorf("quote over the %s bank proves nothing, want sha256, sha384 or sha512: quote another bank", q.Bank)
}

// CheckPCRs tells whether values are the PCRs that were quoted: there is one of
// the bank's size for each selected PCR and none besides, and together, in
// selection order, they hash to the quoted digest. An empty selection proves
// nothing and is an error. Values that pass are as authentic as the quote.
func CheckPCRs(q *Quote, values map[int][]byte) error {
	if len(q.PCRs) == 0 {
		return fmt.Errorf("checking PCRs: the quote selects none")
	}
	h := sha256.New()
	if len(q.PCRDigest) == sha512.Size384 {
		h = sha512.New384()
	}
	for _, i := range q.PCRs {
		v, ok := values[i]
		if !ok {
			return fmt.Errorf("checking PCRs: PCR %d was quoted and its value is missing", i)
		}
		if len(v) != q.Bank.Size() {
			return fmt.Errorf("checking PCRs: value of PCR %d has %d bytes, want the %d of %s", i, len(v), q.Bank.Size(), q.Bank)
		}
		h.Write(v)
	}
	if len(values) > len(q.PCRs) {
		return fmt.Errorf("checking PCRs: %d values for %d quoted PCRs %v: one outside of the signed selection is unproven", len(values), len(q.PCRs), q.PCRs)
	}
	if sum := h.Sum(nil); !bytes.Equal(sum, q.PCRDigest) {
		return fmt.Errorf("checking PCRs: the values hash to %x, the TPM quoted %x", sum, q.PCRDigest)
	}
	return nil
}
