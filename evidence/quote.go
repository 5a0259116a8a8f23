package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/writ-attestation/writ/internal/jsonform"
	"github.com/writ-attestation/writ/tpm"
)

// Quote is the quote item, with the member names of CHARRA (RFC 9684,
// tpm20-attestation-response).
type Quote struct {
	Node      string         // certificate-name: the id of the node whose AK signed
	Nonce     []byte         // nonce-value: the challenge it answers
	Attest    []byte         // quote-data: TPMS_ATTEST
	Signature []byte         // quote-signature: TPMT_SIGNATURE
	Bank      tpm.Alg        // of Values
	Values    map[int][]byte // unsigned-pcr-values: a claim until the quoted digest proves it
}

var bankNames = map[tpm.Alg]string{
	tpm.AlgSHA1: "TPM_ALG_SHA1", tpm.AlgSHA256: "TPM_ALG_SHA256",
	tpm.AlgSHA384: "TPM_ALG_SHA384", tpm.AlgSHA512: "TPM_ALG_SHA512",
}

// marshal writes the quote as JSON, in one form.
func (q Quote) marshal() []byte {
	b := make([]byte, 0, 512+len(q.Node)+2*(len(q.Attest)+len(q.Signature))+128*len(q.Values))
	b = jsonform.String(append(b, `{"certificate-name":`...), q.Node)
	b = jsonform.Bytes(append(b, `,"nonce-value":`...), q.Nonce)
	b = jsonform.Bytes(append(b, `,"quote-data":`...), q.Attest)
	b = jsonform.Bytes(append(b, `,"quote-signature":`...), q.Signature)
	b = jsonform.String(append(b, `,"unsigned-pcr-values":[{"tpm20-hash-algo":`...), bankNames[q.Bank])
	b = append(b, `,"pcr-values":`...)
	if len(q.Values) == 0 {
		return append(b, "null}]}"...)
	}
	var room [24]int
	pcrs := room[:0]
	for i := range q.Values {
		pcrs = append(pcrs, i)
	}
	slices.Sort(pcrs)
	for n, i := range pcrs {
		b = append(b, "[,"[min(n, 1)])
		b = strconv.AppendInt(append(b, `{"pcr-index":`...), int64(i), 10)
		b = append(jsonform.Bytes(append(b, `,"pcr-value":`...), q.Values[i]), '}')
	}
	return append(b, "]}]}"...)
}

func parseQuote(b []byte) (Quote, error) {
	var q Quote
	c := &cursor{b: b}
	c.expect(`{"certificate-name":`)
	q.Node = c.text()
	c.expect(`,"nonce-value":`)
	q.Nonce = c.bytes()
	c.expect(`,"quote-data":`)
	q.Attest = c.bytes()
	c.expect(`,"quote-signature":`)
	q.Signature = c.bytes()
	c.expect(`,"unsigned-pcr-values":[{"tpm20-hash-algo":`)
	name := c.text()
	c.expect(`,"pcr-values":`)
	q.Values = map[int][]byte{}
	if !c.skip("null") {
		c.expect("[")
		for more := true; more && c.err == nil; more = c.skip(",") {
			c.expect(`{"pcr-index":`)
			i := c.number()
			c.expect(`,"pcr-value":`)
			q.Values[i] = c.bytes()
			c.expect("}")
		}
		c.expect("]")
	}
	c.expect("}]}")
	if err := c.end(); err != nil {
		return Quote{}, fmt.Errorf("reading the quote: %w", err)
	}
	for a, n := range bankNames {
		if n == name {
			q.Bank = a
		}
	}
	if q.Bank == 0 {
		return Quote{}, fmt.Errorf("reading the quote: unknown PCR bank %.40q", name)
	}
	for i, v := range q.Values {
		if i > 23 || len(v) != q.Bank.Size() {
			return Quote{}, fmt.Errorf("reading the quote: PCR %d with %d bytes is not one of bank %s", i, len(v), q.Bank)
		}
	}
	if !bytes.Equal(q.marshal(), b) {
		return Quote{}, fmt.Errorf("reading the quote: not in the canonical form (PCRs ascending, each once)")
	}
	return q, nil
}

// strict decodes one JSON value without unknown members or trailing bytes.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(b)) {
		return fmt.Errorf("%d bytes after the value", int64(len(b))-d.InputOffset())
	}
	return nil
}
