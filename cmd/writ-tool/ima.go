package main

import (
	"encoding/hex"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
)

const maxIMA = 256 << 20 // bytes; about two million entries

func newIMA() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ima FILE",
		Short: "Parse and replay a Linux IMA measurement list",
		Long: `Parse a measurement list of Linux IMA and replay it to the value of its PCR.

FILE is a copy of binary_runtime_measurements or ascii_runtime_measurements,
"-" reads it from standard input. A list proves nothing by itself: compare the
PCR value with a TPM's quote. The sha256 value is recomputed from the entries,
as the list carries SHA-1 hashes only.

Exit codes: 0 parsed, also with findings; 1 cannot read FILE; 2 usage;
4 FILE is empty or no measurement list; 8 the last entry is cut.`,
		Example: `  sudo writ ima /sys/kernel/security/ima/binary_runtime_measurements
  writ ima ima.bin --json | jq -r .banks.sha256`,
		Args: wantArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := readInput(cmd, args[0], maxIMA)
			if err != nil {
				return err
			}
			parse := ima.Parse
			if ima.IsASCII(b) {
				parse = ima.ParseASCII
			}
			list, err := parse(b)
			if err != nil {
				return exit(exitInvalid, fmt.Errorf("%s: %w", args[0], err), "")
			}
			out := newIMAOutput(list)
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), out)
			} else {
				err = out.print(cmd.OutOrStdout())
			}
			if err == nil && list.Truncated {
				err = exit(exitPartial, fmt.Errorf("%s: the list ends inside a record; %d entries were read", args[0], out.Entries), "copy the list again, in one read")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// imaOutput is the contract of `writ ima --json`.
type imaOutput struct {
	Entries    int               `json:"entries"`
	PCR        int               `json:"pcr"`
	Banks      map[string]string `json:"banks"` // bank -> hex
	Violations int               `json:"violations"`
	Findings   []finding         `json:"findings"`
}

func newIMAOutput(list *ima.List) *imaOutput {
	out := &imaOutput{
		Entries:    len(list.Entries),
		PCR:        list.PCR(),
		Banks:      map[string]string{},
		Violations: list.Violations(),
		Findings:   []finding{},
	}
	if list.TailViolation() {
		out.Entries++ // what it extends is known, though the record was cut
	}
	for _, bank := range []tpm.Alg{tpm.AlgSHA1, tpm.AlgSHA256} {
		out.Banks[bank.String()] = hex.EncodeToString(list.Replay(bank))
	}
	for _, f := range list.Findings() {
		out.Findings = append(out.Findings, newFinding(f.Code, f.Event, f.Detail, f.Next))
	}
	return out
}

func (o *imaOutput) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d entries in PCR %d, %d violations\nsha1    %s\nsha256  %s\n",
		o.Entries, o.PCR, o.Violations, o.Banks["sha1"], o.Banks["sha256"])
	if len(o.Findings) > 0 {
		fmt.Fprintln(w)
		printFindings(w, o.Findings)
	}
	return err
}
