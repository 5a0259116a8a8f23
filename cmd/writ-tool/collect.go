package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
)

// tpmFlags are the flags of every command that uses the node's TPM.
type tpmFlags struct {
	tpm, eventlog, ima, oslog string
	bank                      tpm.Alg
}

func (t *tpmFlags) add(cmd *cobra.Command) {
	logs := attestor.DefaultLogs()
	f := cmd.Flags()
	f.StringVar(&t.tpm, "tpm", "/dev/tpmrm0", "TPM `device`: /dev/tpmrm0, /dev/tpm0 or swtpm:PATH")
	f.StringVar(&t.eventlog, "eventlog", logs.Event, "UEFI event log `file`")
	f.StringVar(&t.ima, "ima", logs.IMA, "IMA list `file`")
	f.StringVar(&t.oslog, "oslog", logs.OS, "systemd's measurement log `file`")
	f.Func("bank", "PCR `bank` to quote, as the class's reference set demands: sha256 or sha384 (default sha256)", func(s string) (err error) {
		if t.bank, err = tpm.ParseAlg(s); err == nil && t.bank != tpm.AlgSHA256 && t.bank != tpm.AlgSHA384 {
			err = fmt.Errorf("the %s bank proves nothing; want sha256 or sha384", s)
		}
		return err
	})
}

func (t *tpmFlags) logs() attestor.Logs {
	return attestor.Logs{Event: t.eventlog, IMA: t.ima, OS: t.oslog, Bank: t.bank}
}

// open opens the TPM; that there is none has an exit code of its own.
func (t *tpmFlags) open() (*device.TPM, error) {
	d, err := device.Open(t.tpm)
	return d, tpmError(err)
}

func tpmError(err error) error {
	var no *device.NoTPMError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no):
		return exit(exitNoTPM, err, "") // its text ends in what to do
	case errors.Is(err, attestor.ErrNotEnrolled):
		return exit(exitNoTPM, err, "")
	}
	return err
}

func newCollect() *cobra.Command {
	var t tpmFlags
	var dev deviceFlags
	var out, nonceHex, domain string
	cmd := &cobra.Command{
		Use:   "collect -o FILE --nonce HEX",
		Short: "Take evidence of this machine into a file",
		Long: `Take a quote over PCR 0 to 15 and the boot and IMA logs into a bundle, to learn
references from or to verify elsewhere. The quote is made for this purpose only:
no verifier grants a token on it.`,
		Example: `  writ collect -o node.writ.json --nonce $(openssl rand -hex 32)`,
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			nonce, err := hex.DecodeString(nonceHex)
			if err != nil || len(nonce) != 32 {
				return usageError(cmd, "--nonce must be 32 bytes in hexadecimal (64 digits), found %d digits", len(nonceHex))
			}
			if out == "" {
				return usageError(cmd, "-o FILE is needed")
			}
			certs, err := dev.read(cmd)
			if err != nil {
				return err
			}
			d, err := t.open()
			if err != nil {
				return err
			}
			defer d.Close()
			b, err := collect(d, t.logs(), domain, [32]byte(nonce), certs)
			if err != nil {
				return tpmError(err)
			}
			raw, err := b.Marshal()
			if err != nil {
				return err
			}
			return writeOutput(cmd, out, append(raw, '\n'), 0o644)
		},
	}
	t.add(cmd)
	dev.add(cmd)
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "write the bundle to `file` (- for standard output)")
	f.StringVar(&nonceHex, "nonce", "", "32 bytes in `hex`, chosen by whoever will check the evidence")
	f.StringVar(&domain, "domain", "collect.invalid", "trust `domain` whose attestation key signs")
	return cmd
}

func collect(d *device.TPM, logs attestor.Logs, domain string, nonce [32]byte, certs [][]byte) (*bundle.Bundle, error) {
	eks, err := d.EKs()
	if err != nil {
		return nil, err
	}
	node := tpm.NodeID(eks[0].Public)
	ev, ak, err := attestor.Collect(d, logs, domain, 1, node, nonce)
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	now := time.Now().Unix()
	in := &appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: now,
		Challenge: appraisal.Challenge{Domain: domain, Node: node, Nonce: nonce[:], Issued: now, Purpose: evidence.Collection, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{EK: eks[0].Public.Marshal(), AK: ak, Generation: 1}}
	for _, ek := range eks {
		if ek.Certificate != nil {
			in.Prior.EKCertificates = append(in.Prior.EKCertificates, ek.Certificate)
		}
		in.Prior.EKChain = append(in.Prior.EKChain, ek.Chain...)
	}
	iak, err := attestor.DeviceIdentity(d, domain, 1, certs...)
	if err != nil {
		return nil, err
	}
	if iak != nil {
		k := appraisal.IAK(*iak)
		in.Prior.IAK = &k
	}
	v := appraisal.Appraise(in)
	return &bundle.Bundle{V: 1, Input: in, Verdict: v.Marshal()}, nil
}
