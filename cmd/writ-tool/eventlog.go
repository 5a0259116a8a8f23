package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/tpm"
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
other text is what the node wrote and is marked so. The summary is made of
verified data of one bank; counts are of digests.

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
	Boot     *eventlog.Boot               `json:"boot"`  // in the sha256 bank, else the first that replays
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
	proven := tpm.AlgSHA256
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
		if len(out.Banks) == 1 || alg == tpm.AlgSHA256 {
			proven = alg
		}
	}
	out.Boot = log.Extract(proven)
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
	printBoot(t, o.Boot)
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

// printBoot summarises what the log proves, on a line for each part of the boot
// that there is.
func printBoot(w io.Writer, b *eventlog.Boot) {
	fmt.Fprintf(w, "BOOT\t%s, if a TPM quotes these PCRs\n", b.Bank)
	line := func(name string, parts ...string) {
		if parts = nonempty(parts); len(parts) > 0 {
			fmt.Fprintf(w, "%s\t%s\n", name, strings.Join(parts, ", "))
		}
	}
	if b.Version != nil {
		line("firmware", strconv.Quote(b.Version.Text), count(len(b.Firmware), "blob"))
	}
	sb := b.SecureBoot
	state := "unknown, not on"
	if sb.Known {
		state = map[bool]string{true: "on", false: "off"}[sb.Enabled]
	}
	line("secure boot", state, describeDatabase("PK", sb.PK), describeDatabase("KEK", sb.KEK), describeDatabase("db", sb.DB), describeDatabase("dbx", sb.DBX))
	for _, a := range sb.Authorities {
		if a.Certificate != nil {
			line("authority", fmt.Sprintf("%s %q sha256:%s", strconv.Quote(a.Variable), a.Certificate.Subject, a.Certificate.Fingerprint))
		} else {
			line("authority", fmt.Sprintf("%s program %s", strconv.Quote(a.Variable), a.Hash))
		}
	}
	if sb.SbatLevel != nil {
		line("SBAT level", strconv.Quote(sb.SbatLevel.Text))
	}
	if b.DMAOff {
		line("DMA protection", "off")
	}
	line("programs", count(len(b.Drivers), "driver"), count(len(b.Applications), "application"))
	line("loader", count(len(b.Loader), "text"), count(len(b.Files), "file"))
	for _, t := range b.CommandLines {
		line("command line", strconv.Quote(t.Text))
	}
	for _, s := range b.Sections {
		line("section", fmt.Sprintf("%q %s", s.Name, s.Digest))
	}
	for _, d := range b.Disks {
		line("disk", d.GUID, count(len(d.Partitions), "partition"))
	}
	line("unexplained", count(len(b.Other), "event"))
	line("unverified", count(len(b.Unverified), "event"))
	fmt.Fprintln(w)
}

// count says how many there are, "" if none.
func count(n int, what string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "1 " + what
	}
	if strings.HasSuffix(what, "h") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func nonempty(parts []string) []string {
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" })
}

func describeDatabase(name string, db *eventlog.Database) string {
	if db == nil {
		return name + " not known"
	}
	parts := nonempty([]string{count(len(db.Certificates), "certificate"), count(len(db.Hashes), "hash"), count(db.Others, "other")})
	if len(parts) == 0 {
		return name + " empty"
	}
	return name + " " + strings.Join(parts, " and ")
}
