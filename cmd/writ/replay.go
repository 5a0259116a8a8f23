package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	Index    uint64   `json:"index"`
	Node     string   `json:"node"`
	Kind     string   `json:"kind"`
	At       int64    `json:"at"`
	Decision string   `json:"decision"` // as it was
	Result   string   `json:"result"`   // same, differs, skipped; with another set also: changed
	Now      string   `json:"now,omitempty"`
	Findings []string `json:"findings,omitempty"`
	Detail   string   `json:"detail,omitempty"`
}

type replayOptions struct {
	operatorFlags
	trust, reference string
	from, to         uint64
	set              *reference.Signed
	pinned           *bundle.Trust
}

func newLogReplay() *cobra.Command {
	o := new(replayOptions)
	cmd := &cobra.Command{
		Use:   "replay --trust FILE [--from N] [--to N] [--reference FILE]",
		Short: "Judge past decisions again from their recorded evidence",
		Long: `Fetch the evidence of every decision in a range of the log, appraise it again and
compare: the verdict must come out byte for byte, and be the one that its entry,
proven to be in the log, records.

With --reference, the decisions on machines of that set's class are judged by
it instead, to see which past runs would fail today (or pass).

Exit codes: 0 all the same; 4 a verdict or proof does not hold; 3 with
--reference, a run that was granted would be denied; 8 some evidence is not kept
any more.`,
		Example: "  writ log replay --trust trust.json --from 1000\n  writ log replay --trust trust.json --reference grub-2.signed.json",
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
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
			c, err := o.dial(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			return remoteError(o.replay(cmd, c))
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

func (o *replayOptions) replay(cmd *cobra.Command, c *client.Client) error {
	names, err := subjects(cmd, c, o.pinned.Domain)
	if err != nil {
		return err
	}
	count := map[string]int{}
	err = auditEntries(cmd, c, o.from, o.to, func(index uint64, leaf ledger.Leaf) error {
		if leaf.Kind != bundle.Decided && leaf.Kind != bundle.Issued && leaf.Kind != bundle.Renewed {
			return nil
		}
		r := replayed{Index: index, Node: names[leaf.Subject], Kind: leaf.Kind, At: leaf.At}
		if err := o.one(cmd, c, &r, leaf); err != nil {
			return err
		}
		count[r.Result]++
		if r.Result == "changed" && r.Now != appraisal.Grant {
			count["lost"]++
		}
		return o.print(cmd, &r)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d the same, %d changed, %d differ, %d skipped\n", count["same"], count["changed"], count["differs"], count["skipped"])
	switch {
	case count["differs"] > 0:
		return exit(exitInvalid, fmt.Errorf("%d decisions do not hold", count["differs"]), "")
	case count["lost"] > 0:
		return exit(exitDenied, fmt.Errorf("%d past grants would be denied by %s", count["lost"], o.reference), "")
	case count["skipped"] > 0:
		return exit(exitPartial, fmt.Errorf("%d decisions could not be judged again", count["skipped"]), "")
	}
	return nil
}

// one judges one decision again. Its error ends the replay; what is wrong with
// the decision is in r.
func (o *replayOptions) one(cmd *cobra.Command, c *client.Client, r *replayed, leaf ledger.Leaf) error {
	var d bundle.Decision
	if err := json.Unmarshal(leaf.Data, &d); err != nil {
		r.Result, r.Detail = "differs", err.Error()
		return nil
	}
	r.Decision = d.Decision
	raw, err := c.Bundle(cmd.Context(), r.Node, int64(r.Index))
	if refusal := (*protocol.Refusal)(nil); errors.As(err, &refusal) || r.Node == "" {
		r.Result, r.Detail = "skipped", fmt.Sprintf("its evidence is not to be had: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		r.Result, r.Detail = "differs", err.Error()
		return nil
	}
	if sum := sha256.Sum256(b.Verdict); hex.EncodeToString(sum[:]) != d.Verdict {
		r.Result, r.Detail = "differs", "the verifier shows another verdict than the log records"
		return nil
	}
	for _, check := range bundle.Verify(b, o.pinned).Checks {
		if check.Result == bundle.Fail {
			r.Result, r.Detail = "differs", check.Name+": "+check.Detail
			return nil
		}
	}
	r.Result = "same"
	if o.set != nil {
		o.rejudge(r, b.Input)
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
		r.Findings = append(r.Findings, f.Code)
	}
}

func (o *replayOptions) print(cmd *cobra.Command, r *replayed) error {
	if o.json {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	line := fmt.Sprintf("%d %s %s %s: %s", r.Index, r.Node, r.Kind, r.Decision, r.Result)
	if r.Now != "" && r.Now != r.Decision {
		line += ", now " + r.Now
	}
	if len(r.Findings) > 0 {
		line += " (" + strings.Join(r.Findings, ", ") + ")"
	}
	if r.Detail != "" {
		line += ": " + r.Detail
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
