package verifier

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// deadlines are when the base tokens of nodes expire, at the earliest: a node may have
// renewed since. Whether it has, its row says.
type deadlines struct {
	mu     sync.Mutex
	of     map[string]int64 // by node id
	listed bool             // the nodes of the store are in
}

func (d *deadlines) note(node string, deadline int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == nil {
		d.of = map[string]int64{}
	}
	d.of[node] = max(d.of[node], deadline)
}

func (d *deadlines) forget(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.of, node)
}

// passed are up to limit nodes whose deadline is not after a moment.
func (d *deadlines) passed(at int64, limit int) (nodes []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, deadline := range d.of {
		if deadline <= at {
			if nodes = append(nodes, node); len(nodes) == limit {
				break
			}
		}
	}
	slices.Sort(nodes)
	return nodes
}

const (
	// lapseAfter is how long after its deadline a node is declared to have lapsed: the
	// clocks of verifiers may differ by that much, and nothing waits for it.
	lapseAfter = 2 * time.Second
	// lapseStep is how many nodes one transaction declares.
	lapseStep = 64
)

// Lapse writes that nodes have lapsed whose stored deadline has passed, whichever
// verifier gave them their token and whether or not that one still runs. Of several
// verifiers that see it the first one writes it: under the head lock the node's row
// says whether it was. Call it every second or so.
func (s *Service) Lapse(ctx context.Context) error {
	if err := s.sound(); err != nil {
		return nil // it would not know what has passed, or could not write it
	}
	if err := s.listDeadlines(ctx); err != nil {
		return err
	}
	for {
		nodes := s.deadlines.passed(s.cfg.Now().Add(-lapseAfter).Unix(), lapseStep)
		if len(nodes) == 0 {
			return nil
		}
		over := make([]string, 0, len(nodes))
		for _, id := range nodes {
			n, err := s.Node(ctx, id)
			if err != nil {
				return fmt.Errorf("looking for lapsed nodes: %w", err)
			}
			switch {
			case n.State != Synchronized && n.State != Elevated:
				s.deadlines.forget(id)
			case n.lapsed(s.cfg.Now()):
				over = append(over, id)
			default: // renewed meanwhile
				s.deadlines.note(id, n.Deadline)
			}
		}
		if len(over) == 0 {
			continue
		}
		written, err := s.declare(ctx, over)
		if err != nil {
			return fmt.Errorf("declaring that nodes have lapsed: %w", err)
		}
		if written == 0 { // another verifier was faster, or the nodes were: the next look tells
			return nil
		}
	}
}

// lapsed reports whether a node's stored state has outlived its deadline.
func (n *Node) lapsed(now time.Time) bool {
	return (n.State == Synchronized || n.State == Elevated) && now.Unix() >= n.Deadline+int64(lapseAfter.Seconds())
}

// listDeadlines takes the deadlines of all nodes, once.
func (s *Service) listDeadlines(ctx context.Context) error {
	s.deadlines.mu.Lock()
	listed := s.deadlines.listed
	s.deadlines.mu.Unlock()
	if listed {
		return nil
	}
	for after := ""; ; {
		page, err := s.Nodes(ctx, after, 1000)
		if err != nil {
			return fmt.Errorf("listing deadlines: %w", err)
		}
		for _, n := range page {
			if n.State == Synchronized || n.State == Elevated {
				s.deadlines.note(n.ID, n.Deadline)
			}
			after = n.ID
		}
		if len(page) < 1000 {
			break
		}
	}
	s.deadlines.mu.Lock()
	defer s.deadlines.mu.Unlock()
	s.deadlines.listed = true
	return nil
}

// declare writes that those of the nodes have lapsed that still have under the lock,
// and returns how many that were.
func (s *Service) declare(ctx context.Context, nodes []string) (int, error) {
	keys := make([]ledger.Key, len(nodes))
	for i, id := range nodes {
		keys[i] = nodeKey(id)
	}
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: keys, Build: func(slot ledger.Slot) (change ledger.Change, err error) {
		for _, key := range keys {
			n, ok, err := slotRow[Node](slot, key)
			if err != nil {
				return ledger.Change{}, err
			}
			if !ok || !n.lapsed(slot.At) {
				continue
			}
			run, data := n.Run, bundle.Lapse{From: n.State, Deadline: n.Deadline, Seq: n.Seq}
			if err := n.move(FailClosed); err != nil {
				return ledger.Change{}, err
			}
			n.Run, data.To = 0, n.State
			change.Entries = append(change.Entries, s.entry(bundle.Lapsed, n.ID, "verifier/"+s.cfg.Name, data))
			change.Puts = append(change.Puts, n.puts(run)...)
		}
		return change, nil
	}})
	return len(receipts), err
}
