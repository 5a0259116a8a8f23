package enclave

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNiceIsKept: what was started with `nice` is as nice after it was urgent. A user
// may not make it less so, and work would not start.
func TestNiceIsKept(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and it ends with the goroutine
		tid := unix.Gettid()
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, 7); err != nil {
			t.Error(err)
			return
		}
		if err := urgent(); err != nil {
			t.Error(err)
			return
		}
		if err := ordinary(); err != nil {
			t.Error(err)
			return
		}
		if prio, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err != nil || 20-prio != 7 {
			t.Errorf("nice %d, expected 7 (%v)", 20-prio, err)
		}
	}()
	<-done
}
