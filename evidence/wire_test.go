package evidence_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/veraison/cmw"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
)

// TestWritesWhatOthersWrite: the encoding is that of the CMW library, and of
// encoding/json for what is within the quote.
func TestWritesWhatOthersWrite(t *testing.T) {
	zero := evidence.New(evidence.Quote{Bank: tpm.AlgSHA256})
	odd := evidence.New(evidence.Quote{Node: "<a&b>\u2028\"\\\x7f\n\u00e9", Nonce: []byte{}, Bank: tpm.AlgSHA384,
		Values: map[int][]byte{10: make([]byte, 48), 2: make([]byte, 48)}})
	for name, e := range map[string]*evidence.Evidence{"all items": sample(t), "log by digest": sampleByDigest(t), "empty": zero, "odd": odd} {
		got := marshal(t, e)
		var in cmw.CMW
		if err := in.Deserialize(got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back, err := in.MarshalJSON()
		if err != nil || !bytes.Equal(back, got) {
			t.Errorf("%s: cmw writes %s (%v), we %s", name, back, err, got)
		}
		if !bytes.Equal(marshal(t, parse(t, got)), got) {
			t.Errorf("%s: does not come back", name)
		}
		var items map[string][]any
		_ = json.Unmarshal(bytes.Replace(got, []byte(`"__cmwc_t":"`+evidence.CollectionType+`",`), nil, 1), &items)
		quote, err := base64.RawURLEncoding.DecodeString(items["quote"][1].(string))
		if err != nil {
			t.Fatal(err)
		}
		var q struct {
			Name      string `json:"certificate-name"`
			Nonce     []byte `json:"nonce-value"`
			Data      []byte `json:"quote-data"`
			Signature []byte `json:"quote-signature"`
			Values    []struct {
				Alg  string `json:"tpm20-hash-algo"`
				PCRs []struct {
					Index int    `json:"pcr-index"`
					Value []byte `json:"pcr-value"`
				} `json:"pcr-values"`
			} `json:"unsigned-pcr-values"`
		}
		if err := json.Unmarshal(quote, &q); err != nil {
			t.Fatal(err)
		}
		if want, err := json.Marshal(q); err != nil || !bytes.Equal(want, quote) {
			t.Errorf("%s: encoding/json writes %s (%v), we %s", name, want, err, quote)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw := marshal(b, sample(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := evidence.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
