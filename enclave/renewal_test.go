package enclave

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Every renewal is lost, and the verifier comes back after the deadline: the work is
// dead, and stays it. Its naive twin is TestNaiveRenewalLost.
func TestVerifierUnreachableForGood(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	if s.Deadline > a.until() {
		t.Errorf("the deadline is %v later than the last token", s.Deadline.Sub(a.until()))
	}
	asked := len(a.requests())
	a.answers(nil)
	e.dies(s.Deadline) // looks again
	if n := len(a.requests()); n != asked {
		t.Errorf("%d requests after the end", n-asked)
	}
}

// The agent hands out a token of before the node's reset: the work dies at the deadline
// of the first. Its naive twin is TestNaiveTokenFromBeforeAReset.
func TestTokenFromBeforeAReset(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	first := make(chan Instant, 1)
	a.set(func() {
		a.boot--
		first <- a.latest
	})
	e.exits(ExitStopped, "bootcount")
	e.dies(<-first)
}

// A second machine is a copy of the first, keys, agent and all, and its work is held by
// the first one's tokens: it does not start, and that of the first goes on. Its naive
// twin is TestNaiveSameLeaseOnTwoMachines.
func TestSameLeaseOnTwoMachines(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	given := make(chan string, 1)
	a.answers(func(req request) (int, any) {
		tok := a.issue(req)
		select {
		case given <- tok:
		default:
		}
		return 200, map[string]string{"token": tok}
	})
	e := a.prepare(t).hydra(nil, 4, "sleep")
	tok := <-given
	copied := newAgent(t, 60*time.Second)
	copied.trust = a.trust
	copied.answers(func(request) (int, any) { return 200, map[string]string{"token": tok} })
	ran := filepath.Join(copied.dir, "ran")
	copied.prepare(t).start(nil, "touch", ran).exits(ExitRefused, token.WrongNonce)
	copied.notRun(t)
	e.lives("on the first machine")
}

// The agent is replaced by its next version while a lease lives: the work neither
// notices nor gains by it, and the new agent carries the next renewal. Its naive twin
// is TestNaiveAgentUpgradedMidLease.
func TestAgentUpgradedMidLease(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	if err := a.server.Close(); err != nil { // with every connection, also that of pushes
		t.Fatal(err)
	}
	e.eventually("the keeper notices", func() bool { return strings.Contains(e.said(), "renewing: ") || e.hasEnded() })
	held := a.until()
	_ = os.Remove(a.socket)
	a.serve(t)
	e.eventually("the new agent renews", func() bool { return a.until() > held || e.hasEnded() })
	sleepPast(held)
	e.lives("after the last deadline that the old agent brought")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	e.dies(e.stop(CauseDeadline).Deadline)
}
