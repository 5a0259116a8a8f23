package main

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/tpm"
)

// deviceFlags name certificates of a device that its TPM does not carry.
type deviceFlags struct{ iak, idevid string }

func (d *deviceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.iak, "iak-cert", "", "`file` with the device's IAK certificate, then its issuers' (PEM, or one in DER), if the TPM does not carry them")
	f.StringVar(&d.idevid, "idevid-cert", "", "`file` with the device's IDevID certificate, then its issuers'")
}

// read returns the certificates in DER; which is which, their keys tell.
func (d *deviceFlags) read(cmd *cobra.Command) ([][]byte, error) {
	var out [][]byte
	for _, path := range []string{d.iak, d.idevid} {
		if path == "" {
			continue
		}
		raw, err := readInput(cmd, path, 1<<16)
		if err != nil {
			return nil, err
		}
		certs, err := parseCertificates(raw)
		if err != nil {
			return nil, exit(exitUsage, fmt.Errorf("%s: %w", path, err), "")
		}
		out = append(out, certs...)
	}
	return out, nil
}

func parseCertificates(raw []byte) (out [][]byte, err error) {
	b, rest := pem.Decode(raw)
	if b == nil {
		b, rest = &pem.Block{Type: "CERTIFICATE", Bytes: raw}, nil
	}
	for ; b != nil; b, rest = pem.Decode(rest) {
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("expected certificates, found %q", b.Type)
		}
		if _, err := tpm.ParseCertificate(b.Bytes); err != nil {
			return nil, err
		}
		out = append(out, b.Bytes)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%d bytes after the last certificate", len(rest))
	}
	return out, nil
}
