package enclave

import (
	"testing"
	"time"
)

// A keeper names its own program in each request, whoever has digested it: its
// supervisor, or it.
func TestKeeperMeasured(t *testing.T) {
	t.Parallel()
	self, err := Digest(keeperPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, supervised := range []bool{true, false} {
		a := newAgent(t, time.Minute)
		e := a.prepare(t)
		e.supervised = supervised
		e.start(nil, "true").exits(0, "")
		a.set(func() {
			if len(a.keepers) == 0 || a.keepers[0] != self {
				t.Errorf("supervised %v: the requests name %q, expected %s", supervised, a.keepers, self)
			}
		})
	}
}
