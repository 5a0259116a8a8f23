package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

func newReference() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reference",
		Short: "Make, sign and publish reference values",
		Long: `Reference values say which boots and files are good. Learn them from machines
known to be good, read them, sign them, publish them.`,
		RunE: needsCommand,
	}
	cmd.AddCommand(newDiff(), newImport(), newKey(), newLearn(), newPack(), newPublish(), newShow(), newSign(), newTest())
	return cmd
}

func newLearn() *cobra.Command {
	var name, out string
	var recorded []string
	var vary []int
	var pop string
	cmd := &cobra.Command{
		Use:   "learn --name CLASS -o FILE [BUNDLE...]",
		Short: "Learn a reference set from good boots",
		Long: `Learn a reference set for a machine class from bundles (writ bundle, writ
collect) or recorded machines that are known to be good.

Events common to all of them are allowed. What varies between them in PCR 0, 2,
4, 7, 8, 9, 11 or 14 is denied and printed as a question; answer with --vary PCR
to allow every variant seen. Evidence that does not verify is refused.

With --pop tpm the set demands that the key which tokens are bound to lives in the
node's TPM, as writ agent --pop tpm makes it. That is policy and not seen in a boot:
learn does not guess it.`,
		Example: `  writ reference learn --name web -o web.json node1.writ.json node2.writ.json
  writ reference learn --name lab -o lab.json --recorded testdata/boots/c-grub-sb`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" || out == "" || len(args)+len(recorded) == 0 {
				return usageError(cmd, "--name, -o and at least one bundle or --recorded DIR are needed")
			}
			samples, err := readSamples(cmd, args, recorded)
			if err != nil {
				return err
			}
			if pop != "lease" && pop != reference.PoPTPM {
				return usageError(cmd, "--pop takes lease or tpm, found %q", pop)
			}
			set, notes, err := reference.Learn(name, samples, vary)
			if err != nil {
				return err
			}
			if pop == reference.PoPTPM {
				set.PoP = pop
			}
			questions := 0
			for _, n := range notes {
				mark := "note    "
				if n.Question {
					mark, questions = "question", questions+1
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s PCR %d: %s\n", mark, n.PCR, n.Text)
			}
			if err := writeOutput(cmd, out, append(set.Marshal(), '\n'), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "learnt %s from %d boots: %d PCRs, %s; %d questions\n", name, len(samples), len(set.PCRs), files(set), questions)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "machine `class` the set is for")
	f.StringVarP(&out, "output", "o", "", "write the set to `file` (- for standard output)")
	f.StringArrayVar(&recorded, "recorded", nil, "learn from a machine recorded in `dir` (repeatable)")
	f.StringVar(&pop, "pop", "lease", "`where` the key that tokens are bound to must live: lease (anywhere) or tpm")
	f.IntSliceVar(&vary, "vary", nil, "allow every variant seen in this `PCR` (repeatable)")
	return cmd
}

func files(s *reference.Set) string {
	if s.IMA == nil {
		return "no files"
	}
	return fmt.Sprintf("%d files", len(s.IMA.Files))
}

func readSamples(cmd *cobra.Command, bundles, recorded []string) ([]reference.Sample, error) {
	var out []reference.Sample
	add := func(name string, in *appraisal.Input) error {
		s, findings := appraisal.Examine(in)
		if len(findings) > 0 {
			f := findings[0]
			return exit(exitInvalid, fmt.Errorf("%s does not verify: %s: expected %s, found %s", name, f.Code, f.Expected, f.Found), f.Next)
		}
		s.Name = name
		out = append(out, s)
		return nil
	}
	for _, path := range bundles {
		raw, err := readInput(cmd, path, bundle.MaxSize)
		if err != nil {
			return nil, err
		}
		b, err := bundle.Parse(raw)
		if err != nil {
			return nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "")
		}
		if err := add(path, b.Input); err != nil {
			return nil, err
		}
	}
	for _, dir := range recorded {
		in, err := bundle.Recorded(os.DirFS(dir), "recorded.invalid", "", time.Now().Unix())
		if err != nil {
			return nil, exit(exitInvalid, fmt.Errorf("%s: %w", dir, err), "")
		}
		if err := add(filepath.Base(dir), in); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func newShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Print a reference set in words",
		Example: "  writ reference show web.signed.json",
		Args:    wantArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := readSet(cmd, args[0])
			if err != nil {
				return err
			}
			showSet(cmd.OutOrStdout(), s)
			return nil
		},
	}
}

func showSet(w io.Writer, s *reference.Set) {
	sum := s.Digest()
	fmt.Fprintf(w, "%s generation %d\ndigest      %x\nrequired    %v\ntpm vendors %v\n%ssecure boot %s\n%s", s.Name, s.Generation, sum, s.Required, s.TPM.Vendors, makers(s.TPM.DeviceMakers), s.SecureBoot, possession(s))
	for _, b := range s.Base {
		fmt.Fprintf(w, "builds on   %s generation >= %d %s\n", b.Name, b.Generation, b.Digest)
	}
	for _, p := range s.PCRs {
		fmt.Fprintf(w, "PCR %-2d %s %s\n", p.PCR, p.Rule, p.Why)
		for _, e := range p.Events {
			fmt.Fprintf(w, "    %s\n", e.Label)
			for _, d := range e.Allow {
				fmt.Fprintf(w, "        allow %s\n", d)
			}
			if len(e.Allow) == 0 {
				fmt.Fprintf(w, "        denied: nothing is allowed here\n")
			}
		}
	}
	fmt.Fprintf(w, "IMA    %s\n", files(s))
	showIMA(w, s.IMA)
}

func showIMA(w io.Writer, m *reference.IMA) {
	if m == nil {
		return
	}
	for _, l := range m.Lists {
		fmt.Fprintf(w, "    allow list %s %s\n", l.Digest, l.Name)
	}
	if m.Signed != "" {
		fmt.Fprintf(w, "    signed     %s: files signed by %d keys\n", m.Signed, len(m.Keys))
	}
	for _, b := range m.Buffers {
		fmt.Fprintf(w, "    buffer     %s\n", b.Path)
	}
	for _, x := range m.Exclude {
		fmt.Fprintf(w, "    excluded   %s: %s (executables is affirmed at 3 at most)\n", x.Pattern, x.Why)
	}
}

// readSet reads a set, signed or not.
func readSet(cmd *cobra.Command, path string) (*reference.Set, error) {
	raw, err := readInput(cmd, path, 2*reference.MaxSize)
	if err != nil {
		return nil, err
	}
	raw = trimNewline(raw)
	if err := wantJSON(path, raw, "a reference set", "writ reference learn writes one"); err != nil {
		return nil, err
	}
	var probe struct {
		Payload *json.RawMessage `json:"payload"`
	}
	if json.Unmarshal(raw, &probe) == nil && probe.Payload != nil {
		s, err := reference.Read(raw)
		if err != nil {
			return nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "")
		}
		return s.Set, nil
	}
	s, err := reference.Parse(raw)
	if err != nil {
		return nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "")
	}
	return s, nil
}

func readSigned(cmd *cobra.Command, path string) (*reference.Signed, error) {
	raw, err := readInput(cmd, path, 2*reference.MaxList)
	if err != nil {
		return nil, err
	}
	if err := wantJSON(path, raw, "a signed reference set", "sign it: writ reference sign"); err != nil {
		return nil, err
	}
	s, layers, lists, err := reference.Open(trimNewline(raw))
	if err != nil {
		return nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "sign it: writ reference sign")
	}
	if len(layers)+len(lists) == 0 {
		return s, nil
	}
	if s, err = s.Complete(layers, lists); err != nil {
		return nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "pack it again: writ reference pack")
	}
	return s, nil
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}

func newSign() *cobra.Command {
	var key, out string
	var lists []string
	var generation uint64
	var valid time.Duration
	var create bool
	cmd := &cobra.Command{
		Use:   "sign FILE --key KEY -o OUT",
		Short: "Sign a reference set",
		Long: `Sign a reference set with an Ed25519 key (PEM, PKCS #8), as writ reference key
makes one. --create-key makes it if the file does not exist; its public half
belongs into the verifiers' reference_keys (writ reference key prints it).`,
		Example: `  writ reference sign web.json --key reference.pem -o web.signed.json`,
		Args:    wantArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" || out == "" {
				return usageError(cmd, "--key and -o are needed")
			}
			s, err := readSet(cmd, args[0])
			if err != nil {
				return err
			}
			if err := nameLists(cmd, s, lists); err != nil {
				return err
			}
			if generation > 0 {
				s.Generation = generation
			}
			if valid > 0 {
				s.NotAfter = time.Now().Add(valid).Unix()
			}
			k, err := signingKey(cmd, key, create)
			if err != nil {
				return err
			}
			env, err := reference.Sign(s, k)
			if err != nil {
				return err
			}
			if err := writeOutput(cmd, out, append(env, '\n'), 0o644); err != nil {
				return err
			}
			sum := s.Digest()
			fmt.Fprintf(cmd.ErrOrStderr(), "signed %s generation %d, digest %s, key %s\n", s.Name, s.Generation, hex.EncodeToString(sum[:]), reference.KeyID(k.Public().(ed25519.PublicKey)))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "private key `file`")
	f.StringVarP(&out, "output", "o", "", "write the signed set to `file` (- for standard output)")
	f.Uint64Var(&generation, "generation", 0, "set the generation; it must exceed the one in force")
	f.DurationVar(&valid, "valid", 0, "let the set expire after this long")
	f.StringArrayVar(&lists, "list", nil, "name the allow list in `file` in the set (repeatable); publish it with writ reference pack")
	f.BoolVar(&create, "create-key", false, "make the key if the file does not exist")
	return cmd
}

func newKey() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "key -o FILE",
		Short:   "Make a key to sign reference sets with",
		Long:    "Make an Ed25519 key in FILE (PEM, mode 0600) and print its public half, which\nbelongs into the verifiers' reference_keys. An existing file is kept and shown.",
		Example: "  writ reference key -o reference.pem",
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError(cmd, "-o FILE is needed")
			}
			k, _, err := loadKey(out, true)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), reference.FormatKey(k.Public().(ed25519.PublicKey)))
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "private key `file`")
	return cmd
}

// signingKey is loadKey that shows what it made.
func signingKey(cmd *cobra.Command, path string, create bool) (ed25519.PrivateKey, error) {
	k, made, err := loadKey(path, create)
	if made && err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "made %s; its public key:\n%s", path, reference.FormatKey(k.Public().(ed25519.PublicKey)))
	}
	return k, err
}

// loadKey reads a key, or makes it where there is none and create says so.
func loadKey(path string, create bool) (k ed25519.PrivateKey, made bool, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		k, err := makeKey(path)
		return k, true, err
	}
	if err != nil {
		hint := "writ reference key -o FILE makes one"
		if errors.Is(err, fs.ErrPermission) {
			hint = "a private key is its owner's alone: run this as that user"
		}
		return nil, false, exit(exitUsage, fmt.Errorf("reading the key %s: %w", path, unwrapPath(err)), hint)
	}
	b, _ := pem.Decode(raw)
	if b == nil {
		return nil, false, exit(exitUsage, fmt.Errorf("reading the key %s: not PEM", path), "")
	}
	any, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, false, exit(exitUsage, fmt.Errorf("reading the key %s: %w", path, err), "")
	}
	k, ok := any.(ed25519.PrivateKey)
	if !ok {
		return nil, false, exit(exitUsage, fmt.Errorf("reading the key %s: expected an Ed25519 key", path), "writ reference key makes one")
	}
	return k, false, nil
}

func makeKey(path string) (ed25519.PrivateKey, error) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return k, durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// writeOutput writes data to a file, or to standard output for "-".
func writeOutput(cmd *cobra.Command, path string, data []byte, mode os.FileMode) error {
	if path == "-" {
		_, err := cmd.OutOrStdout().Write(data)
		return err
	}
	return durable.WriteFile(path, data, mode)
}

// possession is the line about the key of proof of possession, if the set demands one.
func possession(s *reference.Set) string {
	if s.PoP == "" {
		return ""
	}
	return fmt.Sprintf("pop         %s: the key that tokens are bound to lives in the TPM\n", s.PoP)
}

// makers is the line about makers of devices, if there are any.
func makers(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("device makers %q\n", names)
}
