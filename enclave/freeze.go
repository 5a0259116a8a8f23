package enclave

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// freezeLead is how long before the deadline the keeper begins to freeze, so
// that nothing runs after it: each process has to get the processor to stop. Were
// it later, the init would end the work first.
const freezeLead = 100 * time.Millisecond

// freezes reports that the work is to be held still at its deadline, for whoever
// wants to look at it, before it is killed.
func (k *keeper) freezes() bool { return k.cfg.FreezeFor > 0 && k.group != nil }

// ring is when the keeper wakes for a deadline.
func (k *keeper) ring(deadline Instant) Instant {
	if k.freezes() {
		return deadline.Add(-freezeLead)
	}
	return deadline
}

// freeze holds the work still from the deadline on, and returns true when it is
// to be killed: FreezeFor later, when it is revoked, or at once if it could not
// be held. It returns false if a renewal came before the deadline after all. The
// kernel's timer is moved only after everything is known to stand still.
func (k *keeper) freeze() bool {
	deadline := k.page.deadline()
	if !k.group.freeze(deadline) {
		return true
	}
	end := deadline.Add(k.cfg.FreezeFor)
	_ = k.fuse.set(end.Add(k.grace))
	for Now() < deadline {
		sleepUntil(deadline)
	}
	if later := k.page.deadline(); later > deadline {
		_ = k.fuse.set(later.Add(k.grace))
		_ = k.bell.set(k.ring(later))
		k.group.thaw()
		return false
	}
	k.frozen = deadline
	k.warn("frozen at its deadline; it is killed in %v", k.cfg.FreezeFor)
	_ = k.bell.set(end)
	fds := []unix.PollFd{{Fd: int32(k.pidfd), Events: unix.POLLIN}, {Fd: int32(k.bell.fd), Events: unix.POLLIN}}
	for Now() < end && k.ordered.Load() == 0 && fds[0].Revents == 0 {
		_, _ = unix.Poll(fds, -1)
		k.bell.clear()
	}
	return true
}

// freeze stops everything in the group and reports whether it stood still before
// the given instant.
func (g *group) freeze(by Instant) bool {
	if os.WriteFile(filepath.Join(g.dir, "cgroup.freeze"), []byte{'1'}, 0) != nil {
		return false
	}
	for Now() < by {
		var b [128]byte
		n, err := unix.Pread(int(g.events.Fd()), b[:], 0)
		if err == nil && bytes.Contains(b[:n], []byte("frozen 1")) {
			return true
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(g.events.Fd()), Events: unix.POLLPRI}}, 1)
	}
	return false
}

func (g *group) thaw() {
	_ = os.WriteFile(filepath.Join(g.dir, "cgroup.freeze"), []byte{'0'}, 0)
}
