package device_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// counters fails unless the quote's counters are reset and restart, and equal
// those the TPM shows unsigned: an endorsement-hierarchy key's are plain.
func counters(t testing.TB, dev *device.TPM, reset, restart uint32, safe bool) uint64 {
	t.Helper()
	ak, p := makeAK(t, dev)
	q := quote(t, ak, p)
	if err := ak.Close(); err != nil {
		t.Fatal(err)
	}
	if q.ResetCount != reset || q.RestartCount != restart || q.Safe != safe {
		t.Fatalf("reset %d restart %d safe %v, want %d %d %v", q.ResetCount, q.RestartCount, q.Safe, reset, restart, safe)
	}
	c, err := dev.Clock()
	if err != nil {
		t.Fatal(err)
	}
	if c.ResetCount != reset || c.RestartCount != restart || c.Safe != safe || c.Clock < q.Clock {
		t.Fatalf("unsigned clock %+v differs from the quote's %+v", c, q)
	}
	return q.Clock
}

func TestRebootWithinLease(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	dev := open(t, i)
	c, err := dev.Clock()
	if err != nil {
		t.Fatal(err)
	}
	first := c.ResetCount
	before := counters(t, dev, first, 0, true)
	for n, step := range []struct {
		do             func() error
		reset, restart uint32
		safe           bool
	}{
		{func() error { return i.PowerCycle(true) }, first + 1, 0, true},
		{i.Suspend, first + 1, 1, true},
		{i.Suspend, first + 1, 2, true},
		{func() error { return i.PowerCycle(true) }, first + 2, 0, true},
		{func() error { return i.PowerCycle(false) }, first + 3, 0, false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		after := counters(t, dev, step.reset, step.restart, step.safe)
		if step.safe && after < before {
			t.Fatalf("step %d: clock went from %d to %d", n, before, after)
		}
		before = after
	}
}

// The AK keeps its name while counters start anew: they alone cannot tell a
// cleared TPM from an earlier boot of the same one.
func TestClearedTPM(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	if err := i.PowerCycle(true); err != nil {
		t.Fatal(err)
	}
	dev := open(t, i)
	ak, _ := makeAK(t, dev)
	name := ak.Name()
	if err := ak.Close(); err != nil {
		t.Fatal(err)
	}
	if err := i.Clear(); err != nil {
		t.Fatal(err)
	}
	counters(t, dev, 0, 0, true)
	again, _ := makeAK(t, dev)
	defer again.Close()
	if !bytes.Equal(again.Name(), name) {
		t.Fatalf("AK %x after the clear, %x before", again.Name(), name)
	}
}

func TestClonedState(t *testing.T) {
	t.Parallel()
	ca, err := swtpm.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "original")
	if err := swtpm.Manufacture(t.Context(), dir, ca, swtpm.Options{}); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	if err := swtpm.CopyState(clone, dir); err != nil {
		t.Fatal(err)
	}
	var clocks [2]device.Clock
	var names [2][]byte
	for n, dir := range []string{dir, clone} {
		dev := open(t, start(t, dir))
		ak, _ := makeAK(t, dev)
		defer ak.Close()
		names[n] = ak.Name()
		if clocks[n], err = dev.Clock(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(names[0], names[1]) || clocks[0].ResetCount != clocks[1].ResetCount || clocks[0].RestartCount != clocks[1].RestartCount {
		t.Fatalf("clone %x %+v differs from the original %x %+v", names[1], clocks[1], names[0], clocks[0])
	}
}

func TestQuoteAfterReset(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	dev := device.New(transportOnly{i})
	ak, _ := makeAK(t, dev)
	if err := i.PowerCycle(true); err != nil {
		t.Fatal(err)
	}
	_, _, err := ak.Quote(nil, pcrs16)
	if err == nil || !strings.Contains(err.Error(), "the TPM was reset: make it again") {
		t.Fatalf("error %v, want one that says to make the key again", err)
	}
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		t.Fatalf("error %v hides the TPM's response code", err)
	}
	if err := ak.Close(); err != nil {
		t.Fatalf("closing a key the reset took: %v", err)
	}
	fresh, p := makeAK(t, dev)
	quote(t, fresh, p)
	if err := fresh.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := dev.Leaks(); n != 0 || err != nil {
		t.Fatalf("%d handles leaked, %v", n, err)
	}
}
