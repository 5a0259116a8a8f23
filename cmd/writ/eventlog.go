package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/tpm/eventlog"
)

func newEventlog() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "eventlog FILE",
		Short: "Parse and replay a measured-boot log",
		Long: `Parse a UEFI measured-boot log and replay it to PCR values in every bank.

FILE is a copy of binary_bios_measurements, "-" reads it from standard input.
A log proves nothing by itself: compare the PCR values with a TPM's quote. An
event is "verified" if its data hashes to the digest that was extended; all
other text is what the node wrote and is marked so.

Exit codes: 0 parsed, also with findings; 1 cannot read FILE; 2 usage;
4 FILE is empty, cut or no boot log.`,
		Example: `  sudo writ eventlog /sys/kernel/security/tpm0/binary_bios_measurements
  writ eventlog eventlog.bin --json | jq '.banks.sha256'
  writ eventlog eventlog.bin --json | jq '.events[] | select(.pcr == 4)'`,
		Args: wantArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := readInput(cmd, args[0], eventlog.MaxSize)
			if err != nil {
				return err
			}
			log, err := eventlog.Parse(b)
			if err != nil {
				return exit(exitInvalid, fmt.Errorf("%s: %w", args[0], err), "")
			}
			out := newEventlogOutput(log)
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), out)
			}
			return out.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// eventlogOutput is the contract of `writ eventlog --json`.
type eventlogOutput struct {
	Banks    map[string]map[string]string `json:"banks"` // bank -> PCR -> hex
	Events   []eventOutput                `json:"events"`
	Findings []finding                    `json:"findings"`
}

type eventOutput struct {
	Index        int               `json:"index"`
	PCR          uint32            `json:"pcr"`
	Type         string            `json:"type"`
	Digests      map[string]string `json:"digests"` // bank -> hex
	DataVerified bool              `json:"data_verified"`
	Description  string            `json:"description"`
}

func newEventlogOutput(log *eventlog.Log) *eventlogOutput {
	out := &eventlogOutput{
		Banks:    map[string]map[string]string{},
		Events:   make([]eventOutput, 0, len(log.Events)),
		Findings: []finding{},
	}
	for _, alg := range log.Algs {
		values, err := log.Replay(alg)
		if err != nil {
			continue // a finding says why
		}
		bank := make(map[string]string, len(values))
		for i, v := range values {
			bank[strconv.Itoa(i)] = hex.EncodeToString(v)
		}
		out.Banks[alg.String()] = bank
	}
	for i := range log.Events {
		e := &log.Events[i]
		digests := make(map[string]string, len(e.Digests))
		for _, d := range e.Digests {
			digests[d.Alg.String()] = hex.EncodeToString(d.Sum)
		}
		out.Events = append(out.Events, eventOutput{i, e.PCR, e.Type.String(), digests, e.DataVerified(), e.Description()})
	}
	for _, f := range log.Findings() {
		out.Findings = append(out.Findings, newFinding(f.Code, f.Event, f.Detail, f.Next))
	}
	return out
}

func (o *eventlogOutput) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, bank := range slices.Sorted(maps.Keys(o.Banks)) {
		fmt.Fprintf(t, "PCR\t%s\n", bank)
		for i := range 24 {
			if v, ok := o.Banks[bank][strconv.Itoa(i)]; ok {
				fmt.Fprintf(t, "%d\t%s\n", i, v)
			}
		}
		fmt.Fprintln(t)
	}
	fmt.Fprint(t, "EVENT\tPCR\tTYPE\tVERIFIED\tDESCRIPTION\n")
	for _, e := range o.Events {
		verified := "no"
		if e.DataVerified {
			verified = "yes"
		}
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\n", e.Index, e.PCR, e.Type, verified, e.Description)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(o.Findings) > 0 {
		fmt.Fprintln(w)
		printFindings(w, o.Findings)
	}
	return nil
}
