package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
)

func newLog() *cobra.Command {
	cmd := &cobra.Command{Use: "log", Short: "Read and check the domain's history", RunE: needsCommand}
	cmd.AddCommand(newLogCheckpoint(), newLogEntry(), newLogProve(), newLogVerify(), newLogFsck(), newLogReplay(), newLogWatch(), newLogWitness())
	return cmd
}

// logCommand makes a command that reads one thing of the log. Its bytes, which
// other commands read, go to standard output, or to a file; then a sentence
// about them goes to standard output.
func logCommand(use, short, long string, args cobra.PositionalArgs, read func(cmd *cobra.Command, c *client.Client, args []string) (logItem, error)) *cobra.Command {
	var out string
	cmd := operatorCommand(use, short, long+"\n\nWith -o FILE the bytes go there, and what they say is printed.", args, func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		item, err := read(cmd, c, args)
		if err != nil {
			return err
		}
		if out != "-" || !o.json {
			if err := writeOutput(cmd, out, item.raw, 0o644); err != nil {
				return err
			}
		}
		switch {
		case o.json:
			return writeJSON(cmd.OutOrStdout(), item.json)
		case out != "-":
			_, err = fmt.Fprintln(cmd.OutOrStdout(), item.text)
		}
		return err
	})
	cmd.Flags().StringVarP(&out, "output", "o", "-", "write to `file`")
	return cmd
}

// logItem is something of the log in three forms.
type logItem struct {
	raw  []byte // as it is signed or hashed
	text string // one line
	json any
}

// signedHead is a checkpoint as --json shows it. Who signed it is checked by
// whoever has a trust file: writ log verify, writ log watch.
type signedHead struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
	Note   string `json:"note"`
}

func headOf(note []byte) (signedHead, error) {
	text, _, _ := strings.Cut(string(note), "\n\n")
	c, err := ledger.ParseCheckpoint([]byte(text + "\n"))
	if err != nil {
		return signedHead{}, exit(exitInvalid, fmt.Errorf("reading the verifier's checkpoint: %w", err), "")
	}
	return signedHead{c.Origin, c.Size, c.Root.String(), string(note)}, nil
}

func newLogCheckpoint() *cobra.Command {
	cmd := logCommand("checkpoint", "Print the latest signed checkpoint", "Print the latest signed checkpoint: the log's name, its size, its root, and who\nsigned that. Keep one: a later log must extend it (writ log watch).", wantArgs(), func(cmd *cobra.Command, c *client.Client, _ []string) (logItem, error) {
		note, err := c.Checkpoint(cmd.Context())
		if err != nil {
			return logItem{}, err
		}
		head, err := headOf(note)
		return logItem{note, fmt.Sprintf("%s: %d entries, root %s", head.Origin, head.Size, head.Root), head}, err
	})
	cmd.Example = "  writ log checkpoint\n  writ log checkpoint -o seen.checkpoint"
	return cmd
}

// entryShown is an entry as --json shows it.
type entryShown struct {
	Index   uint64          `json:"index"`
	Kind    string          `json:"kind"`
	At      int64           `json:"at"`
	Subject string          `json:"subject"`
	Actor   string          `json:"actor"`
	Data    json.RawMessage `json:"data"`
}

func newLogEntry() *cobra.Command {
	cmd := logCommand("entry INDEX", "Print an entry of the log", "Print the bytes of an entry, as they are hashed.", wantArgs("INDEX"), func(cmd *cobra.Command, c *client.Client, args []string) (item logItem, err error) {
		i, err := parseIndex(cmd, args[0])
		if err != nil {
			return item, err
		}
		a, err := c.Audit(cmd.Context(), i, i+1)
		if err != nil {
			return item, err
		}
		if len(a.Entries) != 1 {
			return item, exit(exitFailed, fmt.Errorf("no entry %d: the log has %d", i, a.Size), "")
		}
		raw := a.Entries[0].Leaf
		l, err := ledger.ParseLeaf(raw)
		if err != nil {
			return item, exit(exitInvalid, fmt.Errorf("entry %d: %w", i, err), "")
		}
		text := fmt.Sprintf("entry %d: %s at %s, about %s, by %s", i, l.Kind, time.Unix(l.At, 0).UTC().Format(time.RFC3339), l.Subject, l.Actor)
		return logItem{append(append([]byte(nil), raw...), '\n'), text, entryShown{i, l.Kind, l.At, l.Subject, l.Actor, l.Data}}, nil
	})
	cmd.Example = "  writ log entry 17 -o entry.json\n  writ log entry 17 --json | jq .data"
	return cmd
}

func newLogProve() *cobra.Command {
	cmd := logCommand("prove INDEX", "Print the proof that an entry is in the log", "Print the proof (c2sp.org/tlog-proof) that an entry stands in the log: its place,\nthe hashes beside its way up the tree, and the signed checkpoint.", wantArgs("INDEX"), func(cmd *cobra.Command, c *client.Client, args []string) (item logItem, err error) {
		i, err := parseIndex(cmd, args[0])
		if err != nil {
			return item, err
		}
		text, err := c.Proof(cmd.Context(), i)
		if err != nil {
			return item, err
		}
		p, err := ledger.ParseProof(text)
		if err != nil {
			return item, exit(exitInvalid, fmt.Errorf("reading the verifier's proof: %w", err), "")
		}
		head, err := headOf(p.Note)
		if err != nil {
			return item, err
		}
		shown := struct {
			Index uint64 `json:"index"`
			signedHead
			Proof string `json:"proof"`
		}{p.Index, head, text}
		return logItem{[]byte(text), fmt.Sprintf("entry %d of %s, by %d hashes under a checkpoint of %d entries", p.Index, head.Origin, len(p.Path), head.Size), shown}, nil
	})
	cmd.Example = "  writ log prove 17 -o proof.txt"
	return cmd
}

func parseIndex(cmd *cobra.Command, s string) (uint64, error) {
	i, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		return 0, usageError(cmd, "INDEX %q is not a number of an entry", s)
	}
	return i, nil
}

// provenEntry is what writ log verify --json prints.
type provenEntry struct {
	Result string `json:"result"` // verified, invalid
	Error  string `json:"error,omitempty"`
	Index  uint64 `json:"index"`
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
	Kind   string `json:"kind"`
	At     int64  `json:"at"`
}

func newLogVerify() *cobra.Command {
	var trust string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify ENTRY PROOF --trust FILE",
		Short: "Check offline that an entry is in the log",
		Long: `Check offline, by a trust file's log keys, that the entry in file ENTRY (writ log
entry) stands in the log as file PROOF (writ log prove) says.

Exit codes: 0 verified; 4 it does not hold.`,
		Example: `  writ log entry 17 -o entry.json; writ log prove 17 -o proof.txt
  writ log verify entry.json proof.txt --trust trust.json`,
		Args: wantArgs("ENTRY", "PROOF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if trust == "" {
				return usageError(cmd, "--trust FILE is needed")
			}
			t, err := readTrust(cmd, trust)
			if err != nil {
				return err
			}
			entry, err := readInput(cmd, args[0], 1<<17)
			if err != nil {
				return err
			}
			proof, err := readInput(cmd, args[1], 1<<20)
			if err != nil {
				return err
			}
			p, err := proveEntry(string(proof), trimNewline(entry), t)
			if asJSON {
				return errors.Join(writeJSON(cmd.OutOrStdout(), p), silently(err))
			}
			if err != nil {
				return exit(exitInvalid, err, "")
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "verified: entry %d of %s, under a checkpoint of %d entries: %s at %s\n", p.Index, p.Origin, p.Size, p.Kind, time.Unix(p.At, 0).UTC().Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().StringVar(&trust, "trust", "", "trust `file` of the domain")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// silently is for an error that the output has told.
func silently(err error) error {
	if err == nil {
		return nil
	}
	return exit(exitInvalid, nil, "")
}

func proveEntry(proof string, entry []byte, t *bundle.Trust) (provenEntry, error) {
	index, cp, err := t.CheckProof(proof, entry)
	var leaf ledger.Leaf
	if err == nil {
		leaf, err = ledger.ParseLeaf(entry)
	}
	if err != nil {
		return provenEntry{Result: "invalid", Error: err.Error()}, err
	}
	return provenEntry{Result: "verified", Index: index, Origin: cp.Origin, Size: cp.Size, Root: cp.Root.String(), Kind: leaf.Kind, At: leaf.At}, nil
}
