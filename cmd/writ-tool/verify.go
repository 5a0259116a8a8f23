package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

func newVerify() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify FILE --trust FILE",
		Short: "Check a bundle offline: evidence, verdict, history and token",
		Long: `Check everything a bundle claims, with no network: that the evidence, judged
again, gives the same verdict byte for byte, that the verdict is an entry of the
domain's log, that the token rests on it, and that every key involved is one the
trust file holds. A bundle proves what was decided, not that a token is alive.

With --recorded DIR, evidence that other tools recorded (quote.bin, sig.bin,
nonce.hex, ak_pub.bin, pcrs.json, eventlog.bin, ima.bin) is judged instead. Its
quote signed a bare nonce, so no verifier would ever grant on it.

Exit codes: 0 verified; 3 denied; 4 invalid, or FILE malformed; 8 partial:
nothing failed, but something could not be checked; 1 cannot read; 2 usage.

--explain prints every step of the appraisal with what went into it. A step that
the reference set itself leaves out (a PCR it ignores) is shown as skipped, with
the set's reason, and does not change the exit code.`,
		Example: `  writ verify node.writ.json --trust trust.json
  writ verify node.writ.json --trust trust.json --explain
  writ verify --recorded testdata/boots/c-grub-sb --reference grub.signed.json --trust trust.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || (len(args) == 1) == (o.recorded != "") {
				return usageError(cmd, "expected one bundle FILE, or --recorded DIR instead; found %d files and --recorded %q", len(args), o.recorded)
			}
			if o.recorded == "" && o.trust == "" {
				return usageError(cmd, "--trust FILE is needed: a bundle's own keys vouch for nothing")
			}
			report, err := o.verify(cmd, args)
			if err != nil {
				return err
			}
			if o.json {
				err = writeJSON(cmd.OutOrStdout(), report)
			} else {
				err = printReport(cmd.OutOrStdout(), report, o.explain)
			}
			if err != nil {
				return err
			}
			return reportExit(report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.trust, "trust", "", "trust `file` of the domain (from provisioning, or GET /v1/domain)")
	f.StringVar(&o.recorded, "recorded", "", "judge evidence recorded in `dir` by other tools")
	f.StringVar(&o.reference, "reference", "", "judge by this signed reference set `file` instead of the one in the bundle")
	f.BoolVar(&o.explain, "explain", false, "show every step with its inputs, what was expected and found, and what to do")
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

type verifyOptions struct {
	trust, recorded, reference string
	explain, json              bool
}

func (o *verifyOptions) verify(cmd *cobra.Command, args []string) (*bundle.Report, error) {
	var trust *bundle.Trust
	if o.trust != "" {
		var err error
		if trust, err = readTrust(cmd, o.trust); err != nil {
			return nil, err
		}
	}
	var set *reference.Signed
	if o.reference != "" {
		var err error
		if set, err = readSigned(cmd, o.reference); err != nil {
			return nil, err
		}
	}
	if o.recorded != "" {
		return o.judgeRecorded(trust, set)
	}
	raw, err := readInput(cmd, args[0], bundle.MaxSize)
	if err != nil {
		return nil, err
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		return nil, exit(exitInvalid, fmt.Errorf("%s: %w", args[0], err), "a bundle is what writ bundle NODE -o FILE, or writ collect, has written; get it again")
	}
	if set == nil {
		return o.explained(bundle.Verify(b, trust), b.Input), nil
	}
	b.Input.References.Set = set
	return o.explained(bundle.Judge(b.Input, trust), b.Input), nil
}

func (o *verifyOptions) judgeRecorded(trust *bundle.Trust, set *reference.Signed) (*bundle.Report, error) {
	class := ""
	if set != nil {
		class = set.Name
	}
	if _, err := os.Stat(o.recorded); err != nil {
		return nil, inputError(o.recorded, err)
	}
	in, err := bundle.Recorded(os.DirFS(o.recorded), "recorded.invalid", class, time.Now().Unix())
	if err != nil {
		return nil, exit(exitInvalid, fmt.Errorf("%s: %w", o.recorded, err), "")
	}
	in.References.Set = set
	return o.explained(bundle.Judge(in, trust), in), nil
}

// explained adds the steps of the appraisal to a report, if they are wanted.
func (o *verifyOptions) explained(r *bundle.Report, in *appraisal.Input) *bundle.Report {
	if o.explain {
		r.Explain(in)
	}
	return r
}

func readTrust(cmd *cobra.Command, path string) (*bundle.Trust, error) {
	raw, err := readInput(cmd, path, 4<<20)
	if err != nil {
		return nil, err
	}
	t, err := bundle.ParseTrust(raw)
	if err != nil {
		return nil, exit(exitUsage, fmt.Errorf("%s: %w", path, err), "provisioning writes one, or get it from the domain: GET /v1/domain")
	}
	return t, nil
}

func reportExit(r *bundle.Report) error {
	switch r.Result {
	case bundle.ResultVerified:
		return nil
	case bundle.ResultDenied:
		return exit(exitDenied, nil, "")
	case bundle.ResultPartial:
		return exit(exitPartial, nil, "")
	}
	return exit(exitInvalid, nil, "")
}

func printReport(w io.Writer, r *bundle.Report, explain bool) error {
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%-8s %-11s %s\n", c.Result, c.Name, c.Detail)
	}
	if len(r.Steps) > 0 {
		fmt.Fprintf(w, "\nappraisal, step by step:\n")
	}
	for _, c := range r.Steps {
		fmt.Fprintf(w, "%-8s %-14s %s\n", c.Result, c.Name, strings.ReplaceAll(c.Detail, "\n", "\n"+strings.Repeat(" ", 24)))
	}
	v := r.Verdict
	fmt.Fprintf(w, "\n%s: %s (%s, binding %s)\n", r.Result, v.Decision, v.Tier, v.Binding)
	for _, name := range appraisal.Names() {
		value := v.Vector.Claim(name)
		fmt.Fprintf(w, "  %-18s %3d %s\n", name, value, appraisal.TierOf(value))
	}
	for _, f := range v.Findings {
		fmt.Fprintf(w, "\n%s%s\n", f.Code, place(f))
		if explain {
			fmt.Fprintf(w, "  expected  %s\n  found     %s\n  next      %s\n", f.Expected, f.Found, f.Next)
		} else {
			fmt.Fprintf(w, "  found     %s\n", f.Found)
		}
	}
	if len(v.Findings) > 0 && !explain {
		fmt.Fprintf(w, "\n--explain shows what was expected and what to do\n")
	}
	return nil
}

func place(f appraisal.Finding) string {
	s := ""
	if f.PCR != nil {
		s += fmt.Sprintf(" PCR %d", *f.PCR)
	}
	if f.Event != nil {
		s += fmt.Sprintf(" event %d", *f.Event)
	}
	return s
}
