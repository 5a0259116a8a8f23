package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// Link is a decision on a node as the log says it: a base token, a further token or
// a denial.
type Link struct {
	Index    uint64
	At       int64
	Kind     string
	Gone     bool // retention gave up its bytes; nothing below is known
	Decision bundle.Decision
	Token    *bundle.Token // nil: a denial
}

// Chain returns the last decisions on a node, newest first.
func (f *Fleet) Chain(ctx context.Context, id string, below uint64, limit int) ([]Link, error) {
	indexes, err := f.svc.Decisions(ctx, id, below, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Link, 0, len(indexes))
	for _, index := range indexes {
		l, err := f.link(ctx, index)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func (f *Fleet) link(ctx context.Context, index uint64) (Link, error) {
	l := Link{Index: index}
	raw, err := f.svc.Log().Entry(ctx, index)
	if errors.Is(err, ledger.ErrPruned) {
		l.Gone = true
		return l, nil
	}
	if err != nil {
		return l, err
	}
	leaf, err := ledger.ParseLeaf(raw)
	if err != nil {
		return l, fmt.Errorf("reading entry %d: %w", index, err)
	}
	l.Kind, l.At = leaf.Kind, leaf.At
	if leaf.Kind == bundle.Admitted {
		l.Token = new(bundle.Token)
		err = json.Unmarshal(leaf.Data, l.Token)
	} else if err = json.Unmarshal(leaf.Data, &l.Decision); err == nil {
		l.Token = l.Decision.Token
	}
	if err != nil {
		return l, fmt.Errorf("reading entry %d: %w", index, err)
	}
	return l, nil
}

// Boot is what a decision saw of a boot.
type Boot struct {
	Index      uint64
	Verdict    appraisal.Verdict
	Steps      []appraisal.Step
	Components []appraisal.Component
	Set        *reference.Signed // it was judged by; nil: none
	IMA        IMA
	Before     *Before // the boot before; nil: none is known
	Missing    string  // why there is nothing to compare with
}

// IMA is what the kernel measured after boot.
type IMA struct {
	Entries, Violations int // proven
	Files               int // distinct paths
}

// Before is how a boot differs from the one before.
type Before struct {
	Index uint64 // the decision on it that is compared with
	Boot  []Change
	Files []Change
	More  int // changes of files that are left out
}

// Change is one difference: a component or a file that came, went or is another.
type Change struct {
	Change   string // "came", "gone", "changed"
	PCR      int
	Name     string
	Now, Was string // digests
}

// mostChanges bounds the changes of files that are shown.
const mostChanges = 200

// Boot appraises what a decision on a node rested on once more, and compares it with
// the boot before. index is that of a base token or a denial.
func (f *Fleet) Boot(ctx context.Context, n *verifier.Node, index uint64) (*Boot, error) {
	b, err := f.svc.Bundle(ctx, n.ID, int64(index))
	if err != nil {
		return nil, err
	}
	out := &Boot{Index: index, Set: b.Input.References.Set}
	out.Verdict, out.Steps, out.Components = appraisal.Timeline(b.Input)
	files := proven(b.Input, &out.Verdict)
	out.IMA.Entries, out.IMA.Files = len(files.entries), len(files.paths)
	if v := out.Verdict.Boot; v != nil && v.IMA != nil {
		out.IMA.Violations = v.IMA.Violations
	}
	earlier, ok := before(n, index)
	if !ok {
		out.Missing = "no earlier boot of this node was recorded"
		return out, nil
	}
	prior, err := f.svc.Bundle(ctx, n.ID, int64(earlier))
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
		out.Missing = "the evidence of the boot before is not kept any more: " + r.Detail
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	verdict, _, components := appraisal.Timeline(prior.Input)
	out.Before = &Before{Index: earlier, Boot: differences(components, out.Components)}
	out.Before.Files = files.since(proven(prior.Input, &verdict))
	if more := len(out.Before.Files) - mostChanges; more > 0 {
		out.Before.Files, out.Before.More = out.Before.Files[:mostChanges], more
	}
	return out, nil
}

// before is the last decision on the boot before the one that index is of.
func before(n *verifier.Node, index uint64) (uint64, bool) {
	for i := len(n.Boots) - 1; i > 0; i-- {
		if n.Boots[i].First <= index {
			return n.Boots[i-1].Last, true
		}
	}
	return 0, false
}

// differences says what came, went or changed from one boot to the next. A component
// that went and one that came with the same PCR and name are one that changed.
func differences(was, now []appraisal.Component) []Change {
	count := map[appraisal.Component]int{}
	key := func(c appraisal.Component) appraisal.Component {
		return appraisal.Component{PCR: c.PCR, Type: c.Type, Digest: c.Digest}
	}
	for _, c := range was {
		count[key(c)]++
	}
	var out []Change
	for _, c := range now {
		if count[key(c)]--; count[key(c)] < 0 {
			out = append(out, Change{Change: "came", PCR: c.PCR, Name: c.Type + ": " + c.What, Now: c.Digest})
		}
	}
	clear(count)
	for _, c := range now {
		count[key(c)]++
	}
	for _, c := range was {
		if count[key(c)]--; count[key(c)] >= 0 {
			continue
		}
		name := c.Type + ": " + c.What
		if i := slices.IndexFunc(out, func(o Change) bool { return o.Change == "came" && o.PCR == c.PCR && o.Name == name }); i >= 0 {
			out[i].Change, out[i].Was = "changed", c.Digest
			continue
		}
		out = append(out, Change{Change: "gone", PCR: c.PCR, Name: name, Was: c.Digest})
	}
	return out
}

// files are the entries of an IMA list that a quote has proven, and the last digest
// of each path.
type files struct {
	entries []ima.Entry
	paths   map[string]string
	order   []string
}

func proven(in *appraisal.Input, v *appraisal.Verdict) files {
	out := files{paths: map[string]string{}}
	content := in.Evidence.Item(evidence.IMALog).Content
	if v.Boot == nil || v.Boot.IMA == nil || v.Boot.IMA.Offset > uint64(len(content)) || v.Boot.IMA.Offset == 0 {
		return out
	}
	l, err := ima.Parse(content[:v.Boot.IMA.Offset])
	if err != nil {
		return out // the verdict says so
	}
	out.entries = l.Entries
	for i := range l.Entries {
		e := &l.Entries[i]
		if e.Violation || e.IsBootAggregate() {
			continue
		}
		if _, ok := out.paths[e.Path]; !ok {
			out.order = append(out.order, e.Path)
		}
		out.paths[e.Path] = string(reference.AppendDigest(nil, e))
	}
	return out
}

// legible escapes what would make one name look like another: control characters, and
// those that turn the direction of writing.
func legible(name string) string {
	q := strconv.Quote(name)
	return q[1 : len(q)-1]
}

// since says how files differ from those of an earlier list. A file that is not in
// this one may not have been used yet.
func (f files) since(earlier files) []Change {
	var out []Change
	for _, path := range f.order {
		switch was, ok := earlier.paths[path]; {
		case !ok:
			out = append(out, Change{Change: "came", PCR: 10, Name: legible(path), Now: f.paths[path]})
		case was != f.paths[path]:
			out = append(out, Change{Change: "changed", PCR: 10, Name: legible(path), Now: f.paths[path], Was: was})
		}
	}
	for _, path := range earlier.order {
		if _, ok := f.paths[path]; !ok {
			out = append(out, Change{Change: "gone", PCR: 10, Name: legible(path), Was: earlier.paths[path]})
		}
	}
	return out
}
