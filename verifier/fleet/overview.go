package fleet

import (
	"slices"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier"
)

// Overview is a domain at a glance.
type Overview struct {
	Ready    bool // every node was read
	Size     uint64
	At       int64 // of the last entry that is in
	Nodes    int
	States   map[string]int // effective
	Statuses map[string]int
	Tokens   int // that count now
	Coverage []Coverage
	Denials  []Denial // newest first
	Acts     []Act    // newest first
	Minutes  []Minute // oldest first
	Samples  []Sample // oldest first
	Peers    []Peer
}

// Coverage is how many nodes of a class are judged by which set.
type Coverage struct {
	Class                               string
	Reference                           *verifier.Reference // in force; nil: none
	Nodes, Current, Earlier, Never, Let int                 // Let: legitimate now
}

// Sample is how many nodes were in which state at a moment.
type Sample struct {
	At     int64
	States []int // as in [States]
	Tokens int
}

// Peer is a verifier, and the last entry that this process has seen about it.
type Peer struct {
	verifier.Peer
	Entry uint64
	Known bool // whether there is such an entry
}

// counts is what one pass over the nodes finds.
type counts struct {
	second   int64
	states   map[string]int
	statuses map[string]int
	coverage []Coverage
}

// Overview counts at most once a second.
func (f *Fleet) Overview() Overview {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.counts(now)
	out := Overview{Ready: f.ready, Size: f.size, At: f.at, Nodes: len(f.order), States: c.states, Statuses: c.statuses, Tokens: f.tokens(now), Coverage: c.coverage,
		Acts: slices.Clone(f.acts), Minutes: slices.Clone(f.minutes), Samples: slices.Clone(f.samples)}
	for i := len(f.denied) - 1; i >= 0; i-- {
		out.Denials = append(out.Denials, *f.denied[i])
	}
	slices.Reverse(out.Acts)
	for _, p := range f.peers {
		index, ok := f.seen[p.LogKey]
		out.Peers = append(out.Peers, Peer{p, index, ok})
	}
	return out
}

// counts passes over the nodes, if a second has gone by or something has changed.
// What it returns is not changed any more.
func (f *Fleet) counts(now time.Time) *counts {
	if f.counted != nil && f.counted.second == now.Unix() {
		return f.counted
	}
	c := &counts{second: now.Unix(), states: map[string]int{}, statuses: map[string]int{}}
	classes := map[string]*Coverage{}
	for name, ref := range f.refs {
		classes[name] = &Coverage{Class: name, Reference: &ref}
	}
	for _, n := range f.order {
		state := n.effective(now)
		c.states[state]++
		c.statuses[n.status]++
		k := classes[n.class]
		if k == nil {
			k = &Coverage{Class: n.class}
			classes[n.class] = k
		}
		k.add(f.judged(n), state)
	}
	for _, k := range classes {
		c.coverage = append(c.coverage, *k)
	}
	slices.SortFunc(c.coverage, func(a, b Coverage) int { return strings.Compare(a.Class, b.Class) })
	f.counted = c
	return c
}

func (k *Coverage) add(judged, state string) {
	k.Nodes++
	switch judged {
	case JudgedCurrent:
		k.Current++
	case JudgedEarlier:
		k.Earlier++
	default:
		k.Never++
	}
	if state == verifier.Synchronized || state == verifier.Elevated {
		k.Let++
	}
}

// tokens counts those that have not expired, and forgets the others.
func (f *Fleet) tokens(now time.Time) (total int) {
	for expires, n := range f.alive {
		if expires <= now.Unix() {
			delete(f.alive, expires)
			continue
		}
		total += n
	}
	return total
}

// sample notes the counts of now, if it is time to.
func (f *Fleet) sample() {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := len(f.samples) - 1; i >= 0 && now.Unix()-f.samples[i].At < int64(sampling.Seconds()) {
		return
	}
	c := f.counts(now)
	s := Sample{At: now.Unix(), Tokens: f.tokens(now)}
	for _, name := range States {
		s.States = append(s.States, c.states[name])
	}
	f.samples = append(f.samples, s)
	f.samples = f.samples[max(0, len(f.samples)-mostSample):]
}
