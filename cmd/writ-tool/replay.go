package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// replayed is a past decision, judged again.
type replayed struct {
	File     string   `json:"file,omitempty"`
	Index    uint64   `json:"index"`
	Node     string   `json:"node"`
	Kind     string   `json:"kind"`
	At       int64    `json:"at"`
	Decision string   `json:"decision"` // as it was
	Result   string   `json:"result"`   // same, differs, skipped; with another set also: changed
	Now      string   `json:"now,omitempty"`
	Runs     []string `json:"runs,omitempty"` // executions that were let run on it
	Findings []string `json:"findings,omitempty"`
	Detail   string   `json:"detail,omitempty"`
}

type replayOptions struct {
	operatorFlags
	trust, reference string
	from, to         uint64
	set              *reference.Signed
	pinned           *bundle.Trust
	count            map[string]int // by result; "lost" are grants that would be denials
}

func newLogReplay() *cobra.Command {
	o := &replayOptions{count: map[string]int{}}
	cmd := &cobra.Command{
		Use:   "replay --trust FILE [--from N] [--to N] [--reference FILE] [BUNDLE...]",
		Short: "Judge past decisions again from their recorded evidence",
		Long: `Fetch the evidence of every decision in a range of the log, appraise it again and
compare: the verdict must come out byte for byte, and be the one that its entry,
proven to be in the log, records.

With --reference, the decisions on machines of that set's class are judged by
it instead, to see which past runs would fail today (or pass): the executions
that were let run on a decision are named with it.

With BUNDLE files (writ bundle), those decisions are judged, with no network.

Exit codes: 0 all the same; 4 a verdict or proof does not hold; 3 with
--reference, a run that was granted would be denied; 8 some evidence is not kept
any more.`,
		Example: "  writ log replay --trust trust.json --from 1000\n  writ log replay --trust trust.json --reference grub-2.signed.json\n  writ log replay --trust trust.json archive/*.writ.json",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.trust == "" {
				return usageError(cmd, "--trust FILE is needed: recorded evidence vouches for nothing by itself")
			}
			if o.pinned, err = readTrust(cmd, o.trust); err != nil {
				return err
			}
			if o.reference != "" {
				if o.set, err = readSigned(cmd, o.reference); err != nil {
					return err
				}
			}
			if len(args) > 0 {
				err = o.replayFiles(cmd, args)
			} else {
				err = o.replayLog(cmd)
			}
			if err != nil {
				return err
			}
			return o.sum(cmd)
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.trust, "trust", "", "trust `file` of the domain")
	f.StringVar(&o.reference, "reference", "", "judge by this signed reference set `file` instead")
	f.Uint64Var(&o.from, "from", 0, "`index` of the first entry")
	f.Uint64Var(&o.to, "to", 0, "`index` after the last entry (default the log's size)")
	return cmd
}

// past is a decision as the log has it.
type past struct {
	index            uint64
	subject, verdict string
	replayed
}

// replayLog judges the decisions of the log's range. What ran on them may have
// been admitted after its end.
func (o *replayOptions) replayLog(cmd *cobra.Command) error {
	c, err := o.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	names, err := subjects(cmd, c, o.pinned.Domain)
	if err != nil {
		return remoteError(err)
	}
	var decisions []past
	runs := map[uint64][]string{}
	err = auditEntries(cmd, c, o.from, 0, func(index uint64, leaf ledger.Leaf) error {
		if o.to == 0 || index < o.to {
			if p, ok := decisionOf(index, leaf); ok {
				decisions = append(decisions, p)
			}
		}
		return ranOn(runs, index, leaf)
	})
	if err != nil {
		return remoteError(err)
	}
	for _, p := range decisions {
		p.Node, p.Runs = names[p.subject], runs[p.index]
		if err := o.fetch(cmd, c, &p); err != nil {
			return remoteError(err)
		}
		if err := o.print(cmd, &p.replayed); err != nil {
			return err
		}
	}
	return nil
}

// decisionOf reads an entry if it is a decision.
func decisionOf(index uint64, leaf ledger.Leaf) (past, bool) {
	if leaf.Kind != bundle.Decided && leaf.Kind != bundle.Issued && leaf.Kind != bundle.Renewed {
		return past{}, false
	}
	p := past{index: index, subject: leaf.Subject, replayed: replayed{Index: index, Kind: leaf.Kind, At: leaf.At}}
	var d bundle.Decision
	if err := json.Unmarshal(leaf.Data, &d); err != nil {
		p.Result, p.Detail = "differs", err.Error()
	}
	p.Decision, p.verdict = d.Decision, d.Verdict
	return p, true
}

// ranOn adds the execution that an entry lets run to those of the decision that
// it rests on.
func ranOn(runs map[uint64][]string, index uint64, leaf ledger.Leaf) error {
	var t *bundle.Token
	base := index
	switch leaf.Kind {
	case bundle.Admitted:
		t = new(bundle.Token)
		if err := json.Unmarshal(leaf.Data, t); err != nil {
			return exit(exitInvalid, fmt.Errorf("entry %d: %w", index, err), "")
		}
		base = t.Base
	case bundle.Issued, bundle.Renewed:
		var d bundle.Decision
		if err := json.Unmarshal(leaf.Data, &d); err != nil {
			return nil // the decision itself will tell
		}
		t = d.Token
	}
	if t != nil && t.Exec != "" && !slices.Contains(runs[base], t.Exec) {
		runs[base] = append(runs[base], t.Exec)
	}
	return nil
}

// fetch gets a decision's bundle and judges it. Its error ends the replay; what
// is wrong with the decision is in p.
func (o *replayOptions) fetch(cmd *cobra.Command, c *client.Client, p *past) error {
	if p.Result != "" {
		return nil
	}
	raw, err := c.Bundle(cmd.Context(), p.Node, int64(p.index))
	if refusal := (*protocol.Refusal)(nil); errors.As(err, &refusal) || p.Node == "" {
		p.Result, p.Detail = "skipped", fmt.Sprintf("its evidence is not to be had: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		p.Result, p.Detail = "differs", err.Error()
		return nil
	}
	if sum := sha256.Sum256(b.Verdict); hex.EncodeToString(sum[:]) != p.verdict {
		p.Result, p.Detail = "differs", "the verifier shows another verdict than the log records"
		return nil
	}
	o.judge(&p.replayed, b)
	return nil
}

// replayFiles judges the decisions in bundles.
func (o *replayOptions) replayFiles(cmd *cobra.Command, files []string) error {
	for _, file := range files {
		raw, err := readInput(cmd, file, bundle.MaxSize)
		if err != nil {
			return err
		}
		r := replayed{Result: "differs"}
		b, err := bundle.Parse(raw)
		if err == nil {
			r, err = o.recorded(b)
		}
		if err != nil {
			r.Detail = err.Error()
		}
		r.File = file
		if err := o.print(cmd, &r); err != nil {
			return err
		}
	}
	return nil
}

// recorded judges one bundle.
func (o *replayOptions) recorded(b *bundle.Bundle) (replayed, error) {
	if len(b.Entry) == 0 {
		return replayed{Result: "skipped"}, errors.New("the bundle holds no log entry: it was collected offline, not decided by a verifier")
	}
	p, err := ledger.ParseProof(b.Receipt)
	if err != nil {
		return replayed{Result: "differs"}, err
	}
	leaf, err := ledger.ParseLeaf(b.Entry)
	if err != nil {
		return replayed{Result: "differs"}, err
	}
	d, ok := decisionOf(p.Index, leaf)
	if !ok {
		return replayed{Result: "differs"}, fmt.Errorf("entry %d is %s, not a decision", p.Index, leaf.Kind)
	}
	r := d.replayed
	r.Node = b.Input.Challenge.Node
	runs := map[uint64][]string{}
	if err := ranOn(runs, p.Index, leaf); err != nil {
		return r, err
	}
	if r.Runs = runs[p.Index]; r.Result == "" {
		o.judge(&r, b)
	}
	return r, nil
}

// judge appraises one decision again, whose bundle is b.
func (o *replayOptions) judge(r *replayed, b *bundle.Bundle) {
	for _, check := range bundle.Verify(b, o.pinned).Checks {
		if check.Result == bundle.Fail {
			r.Result, r.Detail = "differs", check.Name+": "+check.Detail
			return
		}
	}
	r.Result = "same"
	if o.set != nil {
		o.rejudge(r, b.Input)
	}
}

// sum tells how many came out how, and ends the command accordingly.
func (o *replayOptions) sum(cmd *cobra.Command) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "%d the same, %d changed, %d differ, %d skipped\n", o.count["same"], o.count["changed"], o.count["differs"], o.count["skipped"])
	switch {
	case o.count["differs"] > 0:
		return exit(exitInvalid, fmt.Errorf("%d decisions do not hold", o.count["differs"]), "")
	case o.count["lost"] > 0:
		return exit(exitDenied, fmt.Errorf("%d past grants would be denied by %s", o.count["lost"], o.reference), "")
	case o.count["skipped"] > 0:
		return exit(exitPartial, fmt.Errorf("%d decisions could not be judged again", o.count["skipped"]), "")
	}
	return nil
}

// rejudge appraises by the other set what was decided by its class's set then.
func (o *replayOptions) rejudge(r *replayed, in *appraisal.Input) {
	if in.Prior.Class != o.set.Name {
		r.Detail = fmt.Sprintf("class %s, not %s", in.Prior.Class, o.set.Name)
		return
	}
	in.References.Set = o.set
	v := appraisal.Appraise(in)
	if r.Now = v.Decision; r.Now == r.Decision {
		return
	}
	r.Result = "changed"
	for _, f := range v.Findings {
		if !slices.Contains(r.Findings, f.Code) {
			r.Findings = append(r.Findings, f.Code)
		}
	}
}

func (o *replayOptions) print(cmd *cobra.Command, r *replayed) error {
	o.count[r.Result]++
	if r.Result == "changed" && r.Now != appraisal.Grant {
		o.count["lost"]++
	}
	if o.json {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	line := fmt.Sprintf("%d %s %s %s: %s", r.Index, r.Node, r.Kind, r.Decision, r.Result)
	switch {
	case r.Kind == "":
		line = r.File + ": " + r.Result
	case r.File != "":
		line = r.File + ": " + line
	}
	if r.Now != "" && r.Now != r.Decision {
		line += ", now " + r.Now
	}
	if len(r.Findings) > 0 {
		line += " (" + strings.Join(r.Findings, ", ") + ")"
	}
	if r.Detail != "" {
		line += ": " + r.Detail
	}
	if len(r.Runs) > 0 && r.Result != "same" {
		line += "; ran: " + strings.Join(r.Runs, ", ")
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}

// subjects maps the pseudonyms of the log to the nodes' names.
func subjects(cmd *cobra.Command, c *client.Client, domain string) (map[string]string, error) {
	names := map[string]string{}
	for after := ""; ; {
		page, err := c.Nodes(cmd.Context(), after, 500)
		if err != nil {
			return nil, err
		}
		for _, n := range page.Nodes {
			names[bundle.Subject(domain, n.ID)] = n.ID
		}
		if after = page.Next; after == "" {
			return names, nil
		}
	}
}

// auditEntries calls f with the entries from index from up to to (0: the log's
// size), in order.
func auditEntries(cmd *cobra.Command, c *client.Client, from, to uint64, f func(index uint64, leaf ledger.Leaf) error) error {
	for to == 0 || from < to {
		end := from + 256
		if to > 0 {
			end = min(end, to)
		}
		page, err := c.Audit(cmd.Context(), from, end)
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Code == protocol.Pruned {
			fmt.Fprintf(cmd.ErrOrStderr(), "writ: entries %d to %d were given up by retention\n", from, end-1)
			from = end
			continue
		}
		if err != nil {
			return err
		}
		if to == 0 {
			to = page.Size
		}
		for _, e := range page.Entries {
			leaf, err := ledger.ParseLeaf(e.Leaf)
			if err != nil {
				return exit(exitInvalid, fmt.Errorf("entry %d: %w", e.Index, err), "")
			}
			if err := f(e.Index, leaf); err != nil {
				return err
			}
			from = e.Index + 1
		}
		if len(page.Entries) == 0 {
			break
		}
	}
	return nil
}
