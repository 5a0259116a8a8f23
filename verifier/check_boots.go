package verifier

import (
	"encoding/json"

	"github.com/writ-attestation/writ/verifier/appraisal"
)

// bootCheck is a node's list of boots as its decisions say it is.
type bootCheck struct {
	node   Node   // its Boot and Boots alone
	broken bool   // the verdict of a decision since the list began is not known
	since  uint64 // where the list begins when it was broken: that boot may have begun before
}

// booted takes the next decision: its index, and that of the one before.
func (b *bootCheck) booted(n *nodeCheck, last, index uint64) error {
	switch {
	case !n.doubt.known: // what it proved is not there any more
		*b = bootCheck{broken: true}
		return nil
	case n.doubt.value: // nothing of it becomes the node's state
		return nil
	}
	var boot *appraisal.Boot
	if err := json.Unmarshal([]byte(n.boot.value), &boot); err != nil {
		return err
	}
	if b.broken && len(b.node.Boots) == 0 && boot != nil {
		b.since = index
	}
	b.node.Boot = boot
	b.node.booted(last, index)
	return nil
}

// compareBoots holds a node's list of boots against its decisions, from the latest
// one back, as far as those are known.
func (c *stateCheck) compareBoots(where string, n *nodeCheck, row []BootSpan) {
	for i := 1; i < len(row); i++ {
		if row[i-1].First >= row[i].First || row[i-1].Last >= row[i].First || row[i-1].Last < row[i-1].First {
			c.problem(where, "its boots %+v and %+v are not one after the other", row[i-1], row[i])
		}
	}
	derived, whole := n.boots.node.Boots, !n.boots.broken
	for len(derived) > 0 && derived[0].First < c.bare {
		derived = derived[1:]
	}
	if whole = (whole && c.bare == 0) || len(derived) == rememberedBoots; len(row) < len(derived) || whole && len(row) != len(derived) {
		c.problem(where, "it has %d boots; its decisions were on %d", len(row), len(derived))
		return
	}
	row = row[len(row)-len(derived):]
	for i, was := range derived {
		is := row[i]
		if bounded := i == 0 && (was.First == n.boots.since || c.bare > 0); bounded && is.First < was.First {
			is.First = was.First
		}
		if is != was {
			c.problem(where, "its boot %+v is not the one that its decisions were on, %+v", row[i], was)
		}
	}
}
