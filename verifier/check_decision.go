package verifier

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

// checkDecision holds what is stored of a decision, or of a further token, against
// its entry: the verdict, what it rested on, and the claims that a retry would sign
// again. d is nil for a further token, t for a denial.
func (c *stateCheck) checkDecision(ctx context.Context, n *nodeCheck, index uint64, leaf ledger.Leaf, d *bundle.Decision, t *bundle.Token, rows map[ledger.Key][]byte) error {
	c.isOne[index] = true
	where := fmt.Sprintf("decision at entry %d", index)
	bad := func(format string, args ...any) {
		c.decisions[index] = append(c.decisions[index], ledger.Problem{Where: where, Detail: fmt.Sprintf(format, args...)})
	}
	if t != nil && n.prev.known && n.prev.entry >= c.bare && t.Prev != n.prev.value {
		bad("its token follows the token %q, the claims kept at entry %d are of %q", t.Prev, n.prev.entry, n.prev.value)
	}
	if d != nil { // unless the verdict can be read
		n.boot.known, n.doubt.known = false, false
	}
	if t != nil {
		n.prev.known = false
	}
	id, ok := c.ids[leaf.Subject]
	if index < c.given.Evidence || !ok {
		return nil
	}
	c.report.Decisions++
	raw := rows[decisionKey(id, index)]
	if raw == nil {
		bad("it has no row that can be read, and no entry says that retention gave it up")
		return nil
	}
	var row decision
	if err := decode(raw, &row); err != nil {
		return err
	}
	if t != nil {
		c.checkClaims(n, index, &row, t, bad)
	} else if row.Claims != nil {
		bad("it is a denial, and claims of a token are kept with it")
	}
	if d != nil {
		c.checkVerdict(ctx, n, index, &row, d, bad)
		c.checkInput(ctx, &row, bad)
	}
	return nil
}

// checkClaims holds the claims against what the entry says of the token.
func (c *stateCheck) checkClaims(n *nodeCheck, index uint64, row *decision, t *bundle.Token, bad func(string, ...any)) {
	if row.Claims == nil {
		bad("the claims of its token are not kept")
		return
	}
	k := row.Claims
	is := bundle.Token{ID: k.ID, Audience: k.Audience, Issued: k.IssuedAt, Expires: k.Expires, Seq: k.Writ.Seq, Prev: k.Writ.Prev, JKT: k.Confirm.JKT, X5T: k.Confirm.X5T, Exec: k.Writ.Execution, Workload: k.Writ.Workload, Level: k.Writ.Level, Epoch: k.Writ.Epoch, Key: row.Key,
		Parent: t.Parent, Keeper: t.Keeper, Image: t.Image, Argv: t.Argv, Base: t.Base, WorkloadBasis: t.WorkloadBasis, KeeperBasis: t.KeeperBasis} // what claims do not have
	if row.Key == "" {
		is.Key = t.Key
	}
	if is != *t || uint64(k.Writ.Log.Index) != index {
		bad("the claims kept are %+v, the entry says %+v", is, *t)
	}
	input, err := token.Prepare(*k, row.KID)
	if err != nil {
		bad("the claims kept are not those of a token: %v", err)
		return
	}
	sum := token.Digest(input)
	n.prev = say(base64.RawURLEncoding.EncodeToString(sum[:]), index)
}

// checkVerdict holds the verdict against the entry, and takes from it what the node
// is judged by the next time.
func (c *stateCheck) checkVerdict(ctx context.Context, n *nodeCheck, index uint64, row *decision, d *bundle.Decision, bad func(string, ...any)) {
	if row.Verdict != d.Verdict {
		bad("its verdict is %s; the entry says %s", row.Verdict, d.Verdict)
		return
	}
	name := d.Verdict
	if row.Within {
		name = row.Input
	}
	raw, wrong := c.blob(ctx, name)
	if wrong != "" {
		bad("its verdict %s %s", d.Verdict, wrong)
		return
	}
	if row.Within {
		var err error
		if raw, err = verdictIn(raw, d.Verdict); err != nil {
			bad("its verdict %s: %v", d.Verdict, err)
			return
		}
	}
	var v appraisal.Verdict
	if err := json.Unmarshal(raw, &v); err != nil {
		bad("its verdict %s cannot be read: %v", d.Verdict, err)
		return
	}
	if v.Decision != d.Decision || v.Tier != d.Tier || v.At != d.At || v.Inputs.Evidence != d.Evidence || v.Inputs.References != d.References {
		bad("its verdict %s is of other evidence, or another decision, than the entry says", d.Verdict)
		return
	}
	doubt := !v.Granted() && cloned(&v)
	n.doubt = say(doubt, index)
	if !doubt {
		n.boot = say(string(encode(v.Next())), index)
	}
}

// checkInput looks for everything a decision rested on.
func (c *stateCheck) checkInput(ctx context.Context, row *decision, bad func(string, ...any)) {
	raw, wrong := c.blob(ctx, row.Input)
	if wrong != "" {
		bad("its input %s %s", row.Input, wrong)
		return
	}
	var in storedInput
	if err := json.Unmarshal(raw, &in); err != nil {
		bad("its input %s cannot be read: %v", row.Input, err)
		return
	}
	for _, sum := range in.shares() {
		if wrong := c.lacks(ctx, sum); wrong != "" {
			bad("evidence %s, which it rests on, %s", sum, wrong)
		}
	}
}

// needs notes blobs that are not there, or not what they were.
func (c *stateCheck) needs(ctx context.Context, where, what string, sums ...string) {
	for _, sum := range sums {
		if sum == "" {
			continue
		}
		if wrong := c.lacks(ctx, sum); wrong != "" {
			c.problem(where, "blob %s, which %s rests on, %s", sum, what, wrong)
		}
	}
}

// blob reads a blob and hashes it; wrong says what is wrong with it.
func (c *stateCheck) blob(ctx context.Context, sum string) (b []byte, wrong string) {
	h, ok := digest(sum)
	if !ok {
		return nil, "is not named by a digest"
	}
	b, err := c.store.Blob(ctx, h)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		wrong = "is missing"
	case err != nil:
		wrong = "cannot be read: " + err.Error()
	case hexSum(b) != sum:
		wrong = "is damaged: its bytes have another hash"
	}
	if _, ok := c.blobs[sum]; !ok {
		c.report.Blobs++
	}
	c.blobs[sum] = wrong
	return b, wrong
}

// lacks says what is wrong with a blob. Those that decisions share are read once.
func (c *stateCheck) lacks(ctx context.Context, sum string) (wrong string) {
	if wrong, ok := c.blobs[sum]; ok {
		return wrong
	}
	_, wrong = c.blob(ctx, sum)
	return wrong
}

// compareDecisions looks for rows of decisions that no entry speaks of.
func (c *stateCheck) compareDecisions(ctx context.Context) error {
	return c.each(ctx, kindDecision, func(id string, _ []byte) error {
		node, digits, _ := strings.Cut(id, "/")
		index, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return err
		}
		if index >= c.bare && !c.isOne[index] {
			c.problem(fmt.Sprintf("decision at entry %d", index), "there is a row of it for node %s, and the entry is none", node)
		}
		return nil
	})
}

// compareEvidence: what decisions shared is there as long as its row is.
func (c *stateCheck) compareEvidence(ctx context.Context) error {
	return c.each(ctx, kindEvidence, func(id string, _ []byte) error {
		if wrong := c.lacks(ctx, id); wrong != "" {
			c.problem("evidence "+id, "its blob %s", wrong)
		}
		return nil
	})
}
