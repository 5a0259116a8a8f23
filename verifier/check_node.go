package verifier

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// nodeCheck is a node as its entries say it is.
type nodeCheck struct {
	enrolled bundle.Enrolled // the last time
	first    uint64          // entry of the first time
	entry    uint64
	at       int64

	eks, aks, devices map[string]uint64 // all it was ever enrolled with: pseudonym or digest -> entry

	status, state, jkt, prev, boot, set  claimed[string]
	counter, seq, ended, base, run, last claimed[uint64]
	deadline, halted                     claimed[int64]
	doubt                                claimed[bool]

	boots bootCheck
}

// takeNode is take for the entries about a node.
func (c *stateCheck) takeNode(ctx context.Context, index uint64, leaf ledger.Leaf, rows map[ledger.Key][]byte) error {
	n := c.nodes[leaf.Subject]
	if leaf.Kind == bundle.NodeEnrolled {
		rec, err := dataOf[bundle.Enrolled](leaf)
		if err == nil {
			c.enrol(leaf, rec, index)
		}
		return err
	}
	if n == nil {
		return fmt.Errorf("%s is about a node that no entry enrols", leaf.Kind)
	}
	switch leaf.Kind {
	case bundle.NodeStatus, bundle.Revoked:
		rec, err := dataOf[bundle.Status](leaf)
		if err != nil {
			return err
		}
		c.openings[rec.Reason] = index
		n.status, n.state, n.ended = say(rec.To, index), say(rec.State, index), say(rec.Seq, index)
		n.counter.value++
		if leaf.Kind == bundle.Revoked {
			c.endRun(leaf.Subject, n, 0, index)
		} else if n.doubt.value {
			n.boot, n.doubt = say(nothing, index), say(false, index)
		}
	case bundle.Decided, bundle.Issued, bundle.Renewed:
		rec, err := dataOf[bundle.Decision](leaf)
		if err != nil {
			return err
		}
		n.counter.value++
		last := n.last.value
		c.decide(n, index, leaf, rec)
		err = c.checkDecision(ctx, n, index, leaf, &rec, rec.Token, rows)
		return cmp.Or(err, n.boots.booted(n, last, index))
	case bundle.Lapsed:
		rec, err := dataOf[bundle.Lapse](leaf)
		if err == nil {
			n.state = say(rec.To, index)
			c.endRun(leaf.Subject, n, 0, index)
		}
		return err
	case bundle.Admitted:
		rec, err := dataOf[bundle.Token](leaf)
		if err != nil {
			return err
		}
		n.seq = say(rec.Seq, index)
		c.noteHalt(index, &rec)
		return c.checkDecision(ctx, n, index, leaf, nil, &rec, rows)
	case bundle.Terminated:
		rec, err := dataOf[bundle.Stop](leaf)
		if issued, ok := c.halts[rec.Admitted]; err == nil && rec.Halted() && ok {
			n.halted = say(max(n.halted.value, issued), index)
		}
		return err
	}
	return nil
}

// nothing is the JSON of no boot.
const nothing = "null"

func (c *stateCheck) enrol(leaf ledger.Leaf, rec bundle.Enrolled, index uint64) {
	n := c.nodes[leaf.Subject]
	if n == nil {
		n = &nodeCheck{first: index, eks: map[string]uint64{}, aks: map[string]uint64{}, devices: map[string]uint64{}}
		n.state, n.jkt, n.prev = say(Initialized, index), say("", index), say("", index)
		n.counter, n.seq, n.ended, n.base, n.run = say(uint64(0), index), say(uint64(0), index), say(uint64(0), index), say(uint64(0), index), say(uint64(0), index)
		n.deadline, n.halted = say(int64(0), index), say(int64(0), index)
		c.nodes[leaf.Subject] = n
	}
	n.enrolled, n.entry, n.at = rec, index, leaf.At
	n.status, n.boot, n.doubt = say(rec.Status, index), say(nothing, index), say(false, index)
	n.counter.value++
	for _, ek := range rec.EK {
		n.eks[ek] = index
	}
	n.aks[rec.AK] = index
	if rec.Device != "" {
		n.devices[rec.Device] = index
	}
	for _, j := range c.joins {
		if j.subject == leaf.Actor {
			j.usedBy = leaf.Subject
		}
	}
}

// decide moves the node as a decision does.
func (c *stateCheck) decide(n *nodeCheck, index uint64, leaf ledger.Leaf, rec bundle.Decision) {
	n.state, n.last, n.seq, n.set = say(rec.To, index), say(index, index), say(rec.Seq, index), say(rec.References, index)
	if rec.Token == nil {
		n.ended = say(rec.Seq, index)
		c.endRun(leaf.Subject, n, 0, index)
		return
	}
	c.noteHalt(index, rec.Token)
	n.deadline, n.jkt, n.base = say(rec.Token.Expires, index), say(rec.Token.JKT, index), say(index, index)
	if leaf.Kind == bundle.Issued || n.run.value <= c.state.since.value {
		c.endRun(leaf.Subject, n, index, index)
	}
}

func (c *stateCheck) noteHalt(index uint64, t *bundle.Token) {
	if strings.HasPrefix(t.Exec, bundle.ProveHalt+"-") {
		c.halts[index] = t.Issued
	}
}

// endRun moves the node to another run of legitimacy; the one before is over.
func (c *stateCheck) endRun(subject string, n *nodeCheck, run, index uint64) {
	if old := n.run; old.value != 0 && old.value != run && old.entry >= c.bare {
		c.over[old.value] = subject
	}
	n.run = say(run, index)
}

func (c *stateCheck) compareNodes(ctx context.Context) error {
	seen := map[string]bool{}
	if err := c.each(ctx, kindNode, func(id string, value []byte) error {
		var row Node
		if err := decode(value, &row); err != nil {
			return err
		}
		subject := c.subject(id)
		seen[subject] = true
		c.ids[subject] = id
		n := c.nodes[subject]
		switch {
		case n == nil:
			c.problem("node "+id, "no entry enrols it")
		case row.ID != id:
			c.problem("node "+id, "its row is that of node %.64q", row.ID)
		default:
			c.report.Nodes++
			c.compareNode(ctx, "node "+id, n, &row)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, subject := range slices.Sorted(maps.Keys(c.nodes)) {
		if !seen[subject] {
			c.problem("node with pseudonym "+subject, "entry %d enrols it, and it has no row that can be read", c.nodes[subject].entry)
		}
	}
	return nil
}

func (c *stateCheck) compareNode(ctx context.Context, where string, n *nodeCheck, row *Node) {
	enrolled := func(what string, is, was any) {
		if is != was {
			c.problem(where, "its %s is %v; entry %d enrols it with %v", what, is, n.entry, was)
		}
	}
	enrolled("class", row.Class, n.enrolled.Class)
	enrolled("attestation key", hexSum(row.AK), n.enrolled.AK)
	enrolled("key generation", row.Generation, n.enrolled.Generation)
	enrolled("enrolment", row.Entry, n.entry)
	enrolled("time of enrolment", row.Enrolled, n.at)
	var eks []string
	for _, ek := range row.EKs {
		eks = append(eks, c.subject(ekID(ek)))
	}
	enrolled("endorsement keys", strings.Join(eks, " "), strings.Join(n.enrolled.EK, " "))
	device := ""
	if row.Device != nil {
		device = c.subject(row.Device.key().ID)
	}
	enrolled("device", device, n.enrolled.Device)

	differs(c, where, "status", n.status, row.Status)
	differs(c, where, "state", n.state, row.State)
	differs(c, where, "agent's key", n.jkt, row.JKT)
	differs(c, where, "last token", n.prev, row.Prev)
	differs(c, where, "number of decisions", claimed[uint64]{n.counter.value, n.first, true}, row.Counter)
	differs(c, where, "last sequence number", n.seq, row.Seq)
	differs(c, where, "last ended sequence number", n.ended, row.Ended)
	differs(c, where, "last grant", n.base, row.Base)
	differs(c, where, "run of legitimacy", n.run, row.Run)
	differs(c, where, "deadline", n.deadline, row.Deadline)
	differs(c, where, "last proof of halt", n.halted, row.Halted)
	differs(c, where, "doubt about its TPM", n.doubt, row.Doubt)
	differs(c, where, "proven boot", n.boot, string(encode(row.Boot)))
	if row.Last != nil {
		differs(c, where, "last decision", n.last, row.Last.Index)
		if row.Last.References != "" { // else its row is of before that was noted
			differs(c, where, "set of the last decision", n.set, row.Last.References)
		}
	} else if n.last.known {
		c.problem(where, "it has no last decision; entry %d is one", n.last.entry)
	}
	c.compareBoots(where, n, row.Boots)
	if row.Boot != nil {
		c.needs(ctx, where, "its state", append([]string{row.Boot.BootLog}, row.IMAChunks...)...)
	}
}

// compareSubjects holds the rows that say whose a pseudonym is against the nodes. A
// node that enrolled before they were kept has none.
func (c *stateCheck) compareSubjects(ctx context.Context) error {
	return c.each(ctx, kindSubject, func(id string, value []byte) error {
		var node string
		if err := decode(value, &node); err != nil {
			return err
		}
		if c.subject(node) != id || c.nodes[id] == nil {
			c.problem(kindSubject+" "+id, "its row says that it is of node %.64q, which no entry says", node)
		}
		return nil
	})
}

// compareKeysOfNodes holds the rows that say whose a key or a device is against the
// enrolments: one too few lets another node take it, one too many keeps it out.
func (c *stateCheck) compareKeysOfNodes(ctx context.Context) error {
	for _, k := range []struct {
		kind, name string
		of         func(*nodeCheck) map[string]uint64
		logged     func(id string) string
	}{
		{kindEK, "endorsement key", func(n *nodeCheck) map[string]uint64 { return n.eks }, c.subject},
		{kindAK, "attestation key", func(n *nodeCheck) map[string]uint64 { return n.aks }, func(id string) string { return id }},
		{kindDevice, "device", func(n *nodeCheck) map[string]uint64 { return n.devices }, c.subject},
	} {
		rows := map[string]string{} // as the log has it -> pseudonym of the node
		if err := c.each(ctx, k.kind, func(id string, value []byte) error {
			var node string
			if err := decode(value, &node); err != nil {
				return err
			}
			rows[k.logged(id)] = c.subject(node)
			if n := c.nodes[c.subject(node)]; n == nil || !has(k.of(n), k.logged(id)) {
				c.problem(k.kind+" "+id, "its row says that it is of node %.64q, which no entry says", node)
			}
			return nil
		}); err != nil {
			return err
		}
		for subject, n := range c.nodes {
			for logged, entry := range k.of(n) {
				if rows[logged] != subject {
					c.problem(k.name+" "+logged, "entry %d enrols it with node %s, and no row says so", entry, cmp.Or(c.ids[subject], subject))
				}
			}
		}
	}
	return nil
}

func has(m map[string]uint64, k string) bool { _, ok := m[k]; return ok }

// compareOver: a run of legitimacy that is over and not said to be would be read
// from status lists as one that goes on.
func (c *stateCheck) compareOver(ctx context.Context) error {
	rows := map[uint64]bool{}
	if err := c.each(ctx, kindOver, func(id string, value []byte) error {
		run, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return err
		}
		var node string
		if err := decode(value, &node); err != nil {
			return err
		}
		rows[run] = true
		if subject, ok := c.over[run]; run >= c.bare && (!ok || subject != c.subject(node)) {
			c.problem(kindOver+" "+id, "the run of node %.64q that entry %d began is said to be over, which no entry says", node, run)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, run := range slices.Sorted(maps.Keys(c.over)) {
		if !rows[run] {
			c.problem(fmt.Sprintf("%s %020d", kindOver, run), "the run of node %s that entry %d began is over, and no row says so", c.ids[c.over[run]], run)
		}
	}
	return nil
}
