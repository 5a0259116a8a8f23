package bundle

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// Policy says which witnesses must have cosigned a checkpoint:
// c2sp.org/tlog-policy, without its log lines, as keys of logs are in the trust
// file. The zero Policy demands none.
type Policy struct {
	Witnesses []PolicyWitness

	groups map[string]group // those of one witness included
	quorum string           // empty: none
}

// PolicyWitness is one witness.
type PolicyWitness struct {
	Name, Key string // vkey of c2sp.org/tlog-cosignature
	URL       string // where add-checkpoint is; empty: it asks for checkpoints itself
}

// group is satisfied when need of its members are.
type group struct {
	need    int
	members []string // empty: a witness
}

// ParsePolicy reads a policy. Names are defined before they are used, so that
// no group contains itself.
func ParsePolicy(text string) (*Policy, error) {
	p := &Policy{groups: map[string]group{}}
	quorum := false
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		var err error
		switch {
		case words[0] == "witness" && (len(words) == 3 || len(words) == 4):
			err = p.witness(words[1:])
		case words[0] == "group" && len(words) > 3:
			err = p.group(words[1], words[2], words[3:])
		case words[0] == "quorum" && len(words) == 2 && !quorum:
			quorum = true
			if p.quorum = words[1]; p.quorum == "none" {
				p.quorum = ""
			} else if _, ok := p.groups[p.quorum]; !ok {
				err = fmt.Errorf("%.100q is not defined", p.quorum)
			}
		default:
			err = fmt.Errorf("expected witness, group or one quorum line, found %.100q", line)
		}
		if err != nil {
			return nil, fmt.Errorf("reading line %d of the witness policy: %w", i+1, err)
		}
	}
	if !quorum && len(p.groups) > 0 {
		return nil, fmt.Errorf("reading the witness policy: no quorum line; write quorum and a name, or none")
	}
	return p, nil
}

func (p *Policy) witness(words []string) error {
	w := PolicyWitness{Name: words[0], Key: words[1]}
	if len(words) == 3 {
		w.URL = words[2]
	}
	if err := ledger.CheckWitnessKey(w.Key); err != nil {
		return err
	}
	for _, other := range p.Witnesses {
		if other.Key == w.Key { // it would count twice
			return fmt.Errorf("the key of %s is that of %s", w.Name, other.Name)
		}
	}
	p.Witnesses = append(p.Witnesses, w)
	return p.define(w.Name, group{})
}

func (p *Policy) group(name, need string, members []string) error {
	g := group{members: members}
	switch need {
	case "all":
		g.need = len(members)
	case "any":
		g.need = 1
	default:
		n, err := strconv.Atoi(need)
		if err != nil || n < 1 || n > len(members) {
			return fmt.Errorf("group %.100s needs %.20q of %d members", name, need, len(members))
		}
		g.need = n
	}
	seen := map[string]bool{}
	for _, m := range members {
		if _, ok := p.groups[m]; !ok || seen[m] {
			return fmt.Errorf("member %.100q is not defined, or twice in the group", m)
		}
		seen[m] = true
	}
	return p.define(name, g)
}

func (p *Policy) define(name string, g group) error {
	if _, ok := p.groups[name]; ok || name == "none" {
		return fmt.Errorf("the name %.100q is taken", name)
	}
	p.groups[name] = g
	return nil
}

// Demands reports that the policy has a quorum.
func (p *Policy) Demands() bool { return p.quorum != "" }

// Cosigned reports whether a checkpoint of the log with keys vkeys carries the
// quorum's cosignatures, and by whom.
func (p *Policy) Cosigned(note []byte, vkeys ...string) (by []string, ok bool) {
	have := map[string]bool{}
	for _, w := range p.Witnesses {
		if _, _, err := ledger.OpenCosigned(note, w.Key, vkeys...); err == nil {
			have[w.Name] = true
			by = append(by, w.Name)
		}
	}
	return by, !p.Demands() || p.met(p.quorum, have)
}

// Since is the time up to which the quorum is known to have seen no other history:
// the oldest cosignature of a checkpoint that it takes, the newest it can do with.
// Those of after at do not count. Without a quorum in it ok is false.
func (p *Policy) Since(note []byte, at time.Time, vkeys ...string) (since time.Time, ok bool) {
	when := map[string]time.Time{}
	for _, w := range p.Witnesses {
		if _, t, err := ledger.OpenCosigned(note, w.Key, vkeys...); err == nil && !t.After(at) {
			when[w.Name] = t
		}
	}
	for _, candidate := range when {
		have := map[string]bool{}
		for name, t := range when {
			have[name] = !t.Before(candidate)
		}
		if p.Demands() && p.met(p.quorum, have) && (!ok || candidate.After(since)) {
			since, ok = candidate, true
		}
	}
	return since, ok
}

// Reachable reports whether witnesses with an address alone can make the quorum.
func (p *Policy) Reachable() bool {
	have := map[string]bool{}
	for _, w := range p.Witnesses {
		have[w.Name] = w.URL != ""
	}
	return !p.Demands() || p.met(p.quorum, have)
}

func (p *Policy) met(name string, have map[string]bool) bool {
	g := p.groups[name]
	if len(g.members) == 0 {
		return have[name]
	}
	n := 0
	for _, m := range g.members {
		if p.met(m, have) {
			n++
		}
	}
	return n >= g.need
}
