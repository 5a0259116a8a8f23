package verifier

import (
	"slices"
	"testing"
	"time"
)

var states = []string{Initialized, Verified, Synchronized, Constrained, Elevated, FailClosed, Terminated}

// TestIllegalTransitions holds the table against design.md, written out by hand:
// every pair that is not in it is refused and changes nothing (security rule 12).
func TestIllegalTransitions(t *testing.T) {
	legal := map[[2]string]string{
		{Initialized, Verified}:      "an affirming verdict",
		{Verified, Synchronized}:     "its entry committed",
		{Synchronized, Constrained}:  "a warning, or suspended",
		{Constrained, Synchronized}:  "lifted",
		{Synchronized, Elevated}:     "a second verifier, or IMA-complete evidence",
		{Elevated, Synchronized}:     "no longer",
		{FailClosed, Verified}:       "fresh affirming evidence",
		{FailClosed, Terminated}:     "stop confirmed",
		{Synchronized, Synchronized}: "nothing new",
		{Synchronized, Verified}:     "a renewal's verdict",
		{Constrained, Verified}:      "a renewal's verdict",
		{Elevated, Verified}:         "a renewal's verdict",
		{Terminated, Verified}:       "fresh affirming evidence",
	}
	for _, from := range states {
		legal[[2]string{from, FailClosed}] = "contraindicated, lapse, divergence, clone, revoked"
	}
	for _, from := range append(states, "", "unknown") {
		for _, to := range append(states, "", "unknown") {
			n := Node{State: from}
			err := n.move(to)
			if _, ok := legal[[2]string{from, to}]; ok != (err == nil) {
				t.Errorf("from %q to %q: %v", from, to, err)
			}
			if err != nil && n.State != from {
				t.Errorf("a refused move from %q to %q left %q", from, to, n.State)
			}
		}
	}
}

// TestEffective: every combination of status, stored state and deadline: work may
// run only on an active node, in a state that says so, before the deadline.
func TestEffective(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, status := range []string{Pending, Active, Suspended, Revoked, Retired, "", "unknown"} {
		for _, state := range append(states, "", "unknown") {
			for _, deadline := range []int64{0, 999, 1000, 1001} {
				n := Node{Status: status, State: state, Deadline: deadline}
				want := status == Active && deadline > now.Unix() && (state == Synchronized || state == Elevated)
				if n.Legitimate(now) != want {
					t.Errorf("%s, %s, deadline %d: effective %s", status, state, deadline, n.Effective(now))
				}
				if e := n.Effective(now); !want && slices.Contains([]string{Synchronized, Elevated}, e) {
					t.Errorf("%s, %s, deadline %d: effective %s", status, state, deadline, e)
				}
			}
		}
	}
}
