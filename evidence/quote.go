package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

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

type quoteJSON struct {
	Name      string     `json:"certificate-name"`
	Nonce     []byte     `json:"nonce-value"`
	Data      []byte     `json:"quote-data"`
	Signature []byte     `json:"quote-signature"`
	Values    []bankJSON `json:"unsigned-pcr-values"`
}

type bankJSON struct {
	Alg  string    `json:"tpm20-hash-algo"`
	PCRs []pcrJSON `json:"pcr-values"`
}

type pcrJSON struct {
	Index int    `json:"pcr-index"`
	Value []byte `json:"pcr-value"`
}

var bankNames = map[tpm.Alg]string{
	tpm.AlgSHA1: "TPM_ALG_SHA1", tpm.AlgSHA256: "TPM_ALG_SHA256",
	tpm.AlgSHA384: "TPM_ALG_SHA384", tpm.AlgSHA512: "TPM_ALG_SHA512",
}

func (q Quote) marshal() []byte {
	j := quoteJSON{Name: q.Node, Nonce: q.Nonce, Data: q.Attest, Signature: q.Signature, Values: []bankJSON{{Alg: bankNames[q.Bank]}}}
	j.Values[0].PCRs = slices.Grow([]pcrJSON(nil), len(q.Values)) // nil, thus null, without values
	for i, v := range q.Values {
		j.Values[0].PCRs = append(j.Values[0].PCRs, pcrJSON{i, v})
	}
	slices.SortFunc(j.Values[0].PCRs, func(a, b pcrJSON) int { return a.Index - b.Index })
	b, err := json.Marshal(j)
	if err != nil {
		panic("evidence: a quote of strings and bytes does not marshal: " + err.Error())
	}
	return b
}

func parseQuote(b []byte) (Quote, error) {
	var j quoteJSON
	if err := strict(b, &j); err != nil {
		return Quote{}, fmt.Errorf("reading the quote: %w", err)
	}
	if len(j.Values) != 1 {
		return Quote{}, fmt.Errorf("reading the quote: expected the values of one PCR bank, found %d", len(j.Values))
	}
	q := Quote{Node: j.Name, Nonce: j.Nonce, Attest: j.Data, Signature: j.Signature, Values: map[int][]byte{}}
	for a, name := range bankNames {
		if name == j.Values[0].Alg {
			q.Bank = a
		}
	}
	if q.Bank == 0 {
		return Quote{}, fmt.Errorf("reading the quote: unknown PCR bank %.40q", j.Values[0].Alg)
	}
	for _, p := range j.Values[0].PCRs {
		if p.Index < 0 || p.Index > 23 || len(p.Value) != q.Bank.Size() {
			return Quote{}, fmt.Errorf("reading the quote: PCR %d with %d bytes is not one of bank %s", p.Index, len(p.Value), q.Bank)
		}
		q.Values[p.Index] = p.Value
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
