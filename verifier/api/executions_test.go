package api

import "testing"

// TestAliveExecutions: what an operator is told will die is what has a token now, of
// that node, and not what has ended.
func TestAliveExecutions(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	other := d.machine("c-grub-sb")
	d.enrol(other, "grub")
	run := func(exec string) {
		t.Helper()
		if _, err := c.Token(t.Context(), base, n.key, n.request(exec)); err != nil {
			t.Fatal(err)
		}
	}
	run("00000000000000000000000000000001")
	run("00000000000000000000000000000002")
	for node, want := range map[string]int{"": 2, n.id: 2, other.id: 0} {
		alive, err := d.first.Alive(t.Context(), node)
		if err != nil || alive.More || len(alive.Executions) != want {
			t.Errorf("of %q: %+v, %v; expected %d", node, alive, err, want)
		}
	}
	d.ahead.Add(int64(d.svc.TokenLife()) * 2)
	if alive, err := d.first.Alive(t.Context(), ""); err != nil || len(alive.Executions) != 0 {
		t.Errorf("after the deadline: %+v, %v", alive, err)
	}
}
