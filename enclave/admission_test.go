package enclave

import (
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// admitting is an admission as a keeper has it, and the agent whose key it pins.
func admitting(t *testing.T) (*admission, *fakeAgent) {
	t.Helper()
	a := newAgent(t, 60*time.Second)
	pinned, err := loadTrust(a.trust)
	if err != nil {
		t.Fatal(err)
	}
	here, err := Here()
	if err != nil {
		t.Fatal(err)
	}
	return &admission{trust: pinned, here: here, audience: audience, workload: "sha256:" + strings.Repeat("1", 64), execution: "x", level: E3}, a
}

// grant asks the way a keeper does.
func (m *admission) grant(a *fakeAgent) Grant {
	g := newGrant(m.here)
	a.set(func() {
		g.Token = a.issue(request{Audience: m.audience, Workload: m.workload, Execution: m.execution, Level: m.level.String(), R: g.R})
	})
	return g
}

// The deadline is when it was asked for plus what the token grants, whatever a
// wall clock says; one that is past the token's end can only refuse.
func TestWallClockIrrelevant(t *testing.T) {
	for _, step := range []time.Duration{0, -time.Second, -time.Hour, -10000 * time.Hour, 30 * time.Second} {
		m, a := admitting(t)
		g := m.grant(a)
		deadline, err := m.admit(g, time.Now().Add(step))
		if err != nil || deadline != g.T0.Add(60*time.Second) {
			t.Errorf("clock stepped by %v: deadline %v after the request: %v", step, deadline.Sub(g.T0), err)
		}
	}
	m, a := admitting(t)
	if _, err := m.admit(m.grant(a), time.Now().Add(time.Hour)); token.Code(err) != token.Expired {
		t.Errorf("a token that is past its end on the wall clock: %v", err)
	}
}

func TestGrantFromElsewhere(t *testing.T) {
	for name, move := range map[string]func(g *Grant){
		"another boot":           func(g *Grant) { g.Place.Boot = "00000000-0000-0000-0000-000000000000" },
		"another time namespace": func(g *Grant) { g.Place.TimeNS = "time:[1]" },
		"no place":               func(g *Grant) { g.Place = Place{} },
		"the future":             func(g *Grant) { g.T0 = Now().Add(time.Second) },
		"older than its life":    func(g *Grant) { g.T0 = Now().Add(-61 * time.Second) },
		"another request":        func(g *Grant) { g.R = newGrant(g.Place).R },
		"no request":             func(g *Grant) { g.R = "" },
	} {
		t.Run(name, func(t *testing.T) {
			m, a := admitting(t)
			g := m.grant(a)
			move(&g)
			if d, err := m.admit(g, time.Now()); err == nil {
				t.Errorf("admitted until %v", d)
			}
		})
	}
}

func TestNothingAfterRevocation(t *testing.T) {
	m, a := admitting(t)
	if _, err := m.admit(m.grant(a), time.Now()); err != nil {
		t.Fatal(err)
	}
	if over, err := m.ends(a.event(0), time.Now()); over || err != nil {
		t.Errorf("an event about earlier tokens: over %v, %v", over, err)
	}
	if over, err := m.ends(a.event(a.seq), time.Now().Add(-time.Hour)); !over || err != nil {
		t.Errorf("an event about this token: over %v, %v", over, err)
	}
	if _, err := m.admit(m.grant(a), time.Now()); err == nil {
		t.Error("a token was admitted after the revocation")
	}
}

func TestReplayedGrant(t *testing.T) {
	m, a := admitting(t)
	g := m.grant(a)
	first, err := m.admit(g, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.admit(g, time.Now()); err == nil {
		t.Errorf("admitted twice, until %v and %v", first, again)
	}
}

func TestTrustFile(t *testing.T) {
	a := newAgent(t, time.Second)
	for name, text := range map[string]string{
		"no keys":   `{"v":1,"domain":"test.invalid"}`,
		"empty set": `{"v":1,"domain":"test.invalid","token_keys":{"keys":[]}}`,
		"no domain": `{"v":1,"token_keys":{"keys":[]}}`,
		"version 2": `{"v":2,"domain":"test.invalid"}`,
		"no JSON":   `hello`,
	} {
		path := a.dir + "/bad.json"
		write(t, path, []byte(text), 0o600)
		if _, err := loadTrust(path); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
