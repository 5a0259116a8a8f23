package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/corim"
	"github.com/writ-attestation/writ/verifier/reference"
)

func newReference() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reference",
		Short: "Exchange reference values as CoRIM",
		Long: `Exchange reference values with other verifiers as CoRIM. All else about reference
sets is done with writ reference.`,
		Example: "  writd reference export web.signed.json -o web.corim",
		RunE:    needsCommand,
	}
	cmd.AddCommand(newReferenceExport(), newReferenceImport())
	return cmd
}

func newReferenceExport() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "export SET -o FILE",
		Short: "Write a reference set as an unsigned CoRIM",
		Long: `Write a reference set, signed or not, as an unsigned CoRIM with the PCR values that
its events lead to. What CoRIM cannot hold is left out and said so.`,
		Example: "  writd reference export web.signed.json -o web.corim",
		Args:    wantArgs("FILE"),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return misuse("-o FILE is needed")
			}
			s, err := readReference(args[0])
			if err != nil {
				return err
			}
			b, notes, err := corim.Export(s)
			if err != nil {
				return err
			}
			for _, n := range notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
			}
			return durable.WriteFile(out, b, 0o644)
		}),
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `file`")
	return cmd
}

func newReferenceImport() *cobra.Command {
	var out, name, key string
	cmd := &cobra.Command{
		Use:   "import FILE --name CLASS -o FILE",
		Short: "Read a CoRIM into a reference set",
		Long: `Read the integrity registers of a CoRIM into a reference set of level quote-only:
values do not say which events are behind them, so the set affirms less. It names
no TPM vendor. Complete and read it, then sign it with writ reference sign.

A signed CoRIM is read with its signer's public key (--key, PEM) only.`,
		Example: "  writd reference import vendor.corim --key vendor.pem --name web -o web.json",
		Args:    wantArgs("FILE"),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if out == "" || name == "" {
				return misuse("--name CLASS and -o FILE are needed")
			}
			b, err := readSmall(args[0])
			if err != nil {
				return err
			}
			signer, err := readPublicKey(key)
			if err != nil {
				return err
			}
			s, err := corim.Import(name, b, signer)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "note: no TPM vendor is accepted until tpm.vendors names it")
			return durable.WriteFile(out, append(s.Marshal(), '\n'), 0o644)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "write the set to `file`")
	f.StringVar(&name, "name", "", "machine `class` the set is for")
	f.StringVar(&key, "key", "", "`file` with the signer's public key")
	return cmd
}

// readSmall reads a file of at most 32 MiB.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*reference.MaxSize+1))
	if err == nil && len(b) > 2*reference.MaxSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, 2*reference.MaxSize)
	}
	return b, err
}

// readReference reads a set, signed or not, without what it builds on.
func readReference(path string) (*reference.Set, error) {
	b, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	if signed, _, _, err := reference.Open(b); err == nil {
		return signed.Set, nil
	}
	s, err := reference.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func readPublicKey(path string) (crypto.PublicKey, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(raw)
	if b == nil || b.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s: expected a PEM block PUBLIC KEY", path)
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
