package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/rules"
)

func newDiff() *cobra.Command {
	return &cobra.Command{
		Use:     "diff OLD NEW",
		Short:   "Say in words how two reference sets differ",
		Long:    "Say in words what NEW allows (+), no longer allows (-) or changes (~), event by\nevent and file by file.\n\nExit codes: 0 equal; 1 they differ; 4 a file is no reference set.",
		Example: "  writ reference diff web-7.json web-8.json",
		Args:    wantArgs("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var sets [2]*reference.Set
			for i, path := range args {
				var err error
				if sets[i], err = readSet(cmd, path); err != nil {
					return err
				}
			}
			lines := reference.Diff(sets[0], sets[1])
			for _, l := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), l)
			}
			if len(lines) > 0 {
				return exit(exitFailed, nil, "")
			}
			return nil
		},
	}
}

func newTest() *cobra.Command {
	var recorded, with []string
	var cases, trust string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test SET [BUNDLE...]",
		Short: "Try a reference set on evidence before it is in force",
		Long: `Judge bundles and recorded machines by a reference set, signed or not, and say who
would be denied and by which event. With --trust, EK certificates are held against
the trust file's roots; without, that finding is left out and said so.

--cases FILE tests the set's own rules: a JSON array of
{"name","facts":{...},"expect":{"<rule>":true|false}} where facts have the shape
rules see them in (node, tpm, secure_boot, pcrs, events, ima, boot; unproven names the
members of boot that nothing proves).

Exit codes: 0 all would pass; 3 some would be denied, or a case fails; 4 malformed.`,
		Example: `  writ reference test web-8.json fleet/*.writ.json --trust trust.json
  writ reference test lab.json --recorded testdata/boots/e-grub-sb-cmdline
  writ reference test web-8.json --cases web-cases.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args)+len(recorded) == 1 && cases == "" {
				return usageError(cmd, "give evidence (bundles, --recorded DIR) or --cases FILE")
			}
			signed, err := readCandidate(cmd, args[0], with)
			if err != nil {
				return err
			}
			var t *bundle.Trust
			if trust != "" {
				if t, err = readTrust(cmd, trust); err != nil {
					return err
				}
			}
			trials, err := tryAll(cmd, signed, t, args[1:], recorded)
			if err != nil {
				return err
			}
			failed, err := runCases(cmd, signed.Set, cases)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), trials)
			} else {
				err = printTrials(cmd, trials, t == nil)
			}
			if err != nil {
				return err
			}
			if failed > 0 || slices.ContainsFunc(trials, func(t trial) bool { return !t.Pass }) {
				return exit(exitDenied, nil, "")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&recorded, "recorded", nil, "try a machine recorded in `dir` (repeatable)")
	f.StringArrayVar(&with, "with", nil, "allow list, or set that it builds on, in `file` (repeatable)")
	f.StringVar(&cases, "cases", "", "`file` with cases for the set's rules")
	f.StringVar(&trust, "trust", "", "trust `file` with the EK roots")
	f.BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// unsigned wraps a set so that it can be judged by before anybody signed it.
func unsigned(s *reference.Set) (*reference.Signed, error) {
	env, err := reference.Sign(s)
	if err != nil {
		return nil, err
	}
	return reference.Read(env)
}

// trial is what a set would do to one piece of evidence.
type trial struct {
	Evidence string              `json:"evidence"`
	Pass     bool                `json:"pass"`
	Tier     string              `json:"tier"`
	Findings []appraisal.Finding `json:"findings"`
}

func tryAll(cmd *cobra.Command, set *reference.Signed, t *bundle.Trust, bundles, recorded []string) ([]trial, error) {
	trials := []trial{}
	try := func(name string, in *appraisal.Input) {
		in.References.Set, in.Prior.Class = set, set.Name
		v := bundle.Judge(in, t).Verdict
		findings := v.Findings
		if t == nil { // no maker can be known without a trust file
			findings = slices.DeleteFunc(slices.Clone(findings), func(f appraisal.Finding) bool {
				return f.Code == "tpm/ek-certificate" || f.Code == "claim/not-affirming" && f.Expected == "hardware affirming"
			})
		}
		trials = append(trials, trial{name, len(findings) == 0, v.Tier, findings})
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
		try(path, b.Input)
	}
	for _, dir := range recorded {
		in, err := bundle.Recorded(os.DirFS(dir), "recorded.invalid", set.Name, time.Now().Unix())
		if err != nil {
			return nil, exit(exitInvalid, fmt.Errorf("%s: %w", dir, err), "")
		}
		try(filepath.Base(dir), in)
	}
	return trials, nil
}

func printTrials(cmd *cobra.Command, trials []trial, noTrust bool) error {
	w := cmd.OutOrStdout()
	denied := 0
	for _, t := range trials {
		if t.Pass {
			fmt.Fprintf(w, "pass  %s\n", t.Evidence)
			continue
		}
		denied++
		fmt.Fprintf(w, "deny  %s\n", t.Evidence)
		for _, f := range t.Findings {
			fmt.Fprintf(w, "      %s%s\n        expected %s\n        found    %s\n", f.Code, place(f), f.Expected, f.Found)
		}
	}
	if len(trials) > 0 {
		fmt.Fprintf(w, "%d would pass, %d would be denied\n", len(trials)-denied, denied)
	}
	if noTrust && len(trials) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "note: without --trust, EK certificates were not judged")
	}
	return nil
}

// ruleCase is one test of a set's rules.
type ruleCase struct {
	Name   string          `json:"name"`
	Facts  rules.Facts     `json:"facts"`
	Expect map[string]bool `json:"expect"`
}

func runCases(cmd *cobra.Command, set *reference.Set, path string) (failed int, err error) {
	if path == "" {
		return 0, nil
	}
	raw, err := readInput(cmd, path, 4<<20)
	if err != nil {
		return 0, err
	}
	var cases []ruleCase
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&cases); err != nil {
		return 0, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "see writ reference test --help for the form")
	}
	for _, c := range cases {
		for _, name := range slices.Sorted(maps.Keys(c.Expect)) {
			r := set.Rule(name)
			if r == nil {
				return 0, exit(exitInvalid, fmt.Errorf("%s: case %q speaks of rule %q, which the set does not have", path, c.Name, name), "")
			}
			got, err := r.Holds(&c.Facts)
			word := "ok   "
			if got = got && err == nil; got != c.Expect[name] {
				word, failed = "FAIL ", failed+1
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s %s: rule %s holds: %v, expected %v\n", word, c.Name, name, got, c.Expect[name])
		}
	}
	return failed, nil
}
