package appraisal

import (
	"bytes"
	"fmt"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/reference"
)

// Examine proves evidence without judging it: the quote is authentic, its PCR
// values count, the boot log and the IMA list replay to them. What it returns
// is fit to learn reference values from; with findings it is not.
func Examine(in *Input) (reference.Sample, []Finding) {
	a, findings := Authenticate(in)
	if a == nil {
		return reference.Sample{}, findings
	}
	r := &run{in: in, quote: a.quote}
	if !r.values() {
		return reference.Sample{}, r.findings
	}
	r.counters()
	r.bootLog()
	values := in.Evidence.Quote.Values
	s := reference.Sample{Name: in.Challenge.Node, Bank: r.bank, PCRs: values}
	if r.log == nil {
		return s, r.findings
	}
	s.Log = r.log.log
	for _, pcr := range r.quote.PCRs {
		want, logged := r.log.replay[pcr]
		if _, more := r.later.values[pcr]; more {
			want = r.value(pcr)
			for _, e := range r.later.events[pcr] {
				s.Later = append(s.Later, *e.Event)
			}
		}
		if got := values[pcr]; logged && !bytes.Equal(want, got) {
			r.pcr(bootReplay, pcr, fmt.Sprintf("%x (quoted)", got), fmt.Sprintf("%x (replayed from the log)", want), "take the evidence anew: its log does not explain what the TPM measured")
		}
	}
	if list := in.Evidence.Item(evidence.IMALog).Content; len(list) > 0 {
		l, err := ima.Parse(list)
		if err != nil {
			r.pcr(imaMalformed, imaPCR, "an IMA list", err.Error(), "take the evidence anew")
			return s, r.findings
		}
		n, _, ok := l.Prefix(r.bank, nil, values[imaPCR])
		if !ok {
			r.pcr(imaReplay, imaPCR, fmt.Sprintf("%x (quoted)", values[imaPCR]), fmt.Sprintf("no prefix of %d entries replays to it", len(l.Entries)), "take the evidence anew: quote first, then read the list")
		}
		s.IMA = l.Entries[:n]
	}
	if in.Prior.IAK != nil {
		for _, c := range certs([][]byte{in.Prior.IAK.Certificate}) {
			s.Maker = tpm.DeviceMaker(c)
		}
	}
	for _, c := range certs(in.Prior.EKCertificates) {
		s.Vendor, _, _ = tpm.Vendor(c)
	}
	return s, r.findings
}
