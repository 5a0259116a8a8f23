package bundle

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
)

// Recorded reads a machine that another tool recorded (the layout of
// testdata/boots) into an input whose quote signed the bare nonce. No verifier
// grants on such evidence. The machine class is what the caller says it is.
//
//	quote.bin sig.bin nonce.hex ak_pub.bin pcrs.json [eventlog.bin] [ima.bin] [ek_pub_*.bin ek_cert_*.der ca/issuercert.pem]
func Recorded(dir fs.FS, domain, class string, at int64) (*appraisal.Input, error) {
	read := func(name string) ([]byte, error) {
		b, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("reading the recorded machine: %w", err)
		}
		return b, nil
	}
	var files [4][]byte
	for i, name := range []string{"quote.bin", "sig.bin", "nonce.hex", "ak_pub.bin"} {
		var err error
		if files[i], err = read(name); err != nil {
			return nil, err
		}
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(files[2])))
	if err != nil {
		return nil, fmt.Errorf("reading nonce.hex: %w", err)
	}
	values, err := recordedPCRs(read, files[0])
	if err != nil {
		return nil, err
	}
	ev := evidence.New(evidence.Quote{Node: "recorded", Nonce: nonce, Attest: files[0], Signature: files[1], Bank: tpm.AlgSHA256, Values: values})
	for _, l := range []struct{ label, file string }{{evidence.UEFILog, "eventlog.bin"}, {evidence.IMALog, "ima.bin"}, {evidence.OSLog, "tpm2-measure.log"}} {
		if b, err := fs.ReadFile(dir, l.file); err == nil && len(b) > 0 {
			ev.Set(l.label, evidence.Item{Content: b})
		}
	}
	in := &appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: at,
		Challenge: appraisal.Challenge{Domain: domain, Node: "recorded", Nonce: nonce, Issued: at, Purpose: evidence.Collection, Binding: appraisal.BoundRaw},
		Prior:     appraisal.Prior{AK: files[3], Class: class}}
	return in, recordedEK(dir, &in.Prior)
}

// recordedPCRs takes the values read beside the quote; the digest in the quote
// decides whether they count.
func recordedPCRs(read func(string) ([]byte, error), attest []byte) (map[int][]byte, error) {
	raw, err := read("pcrs.json")
	if err != nil {
		return nil, err
	}
	var banks map[string]map[string]string
	if err := json.Unmarshal(raw, &banks); err != nil {
		return nil, fmt.Errorf("reading pcrs.json: %w", err)
	}
	q, err := tpm.ParseQuote(attest)
	if err != nil {
		return nil, fmt.Errorf("reading quote.bin: %w", err)
	}
	values := map[int][]byte{}
	for _, p := range q.PCRs {
		v, err := hex.DecodeString(banks[q.Bank.String()][strconv.Itoa(p)])
		if err != nil || len(v) != q.Bank.Size() {
			return nil, fmt.Errorf("reading pcrs.json: no value of PCR %d in bank %s", p, q.Bank)
		}
		values[p] = v
	}
	return values, nil
}

func recordedEK(dir fs.FS, p *appraisal.Prior) error {
	pub, err := fs.ReadFile(dir, "ek_pub_rsa2048.bin")
	if err != nil {
		return nil // recorded without: the certificate check will say so
	}
	p.EK = pub
	certs, err := fs.Glob(dir, "ek_cert_*.der")
	if err != nil {
		return err
	}
	for _, name := range certs {
		der, err := fs.ReadFile(dir, name)
		if err != nil {
			return fmt.Errorf("reading the recorded machine: %w", err)
		}
		p.EKCertificates = append(p.EKCertificates, der)
	}
	if issuer, err := fs.ReadFile(dir, "ca/issuercert.pem"); err == nil {
		der, err := ParseCertificatePEM(string(issuer))
		if err != nil {
			return fmt.Errorf("reading ca/issuercert.pem: %w", err)
		}
		p.EKChain = append(p.EKChain, der)
	}
	return nil
}
