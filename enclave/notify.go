package enclave

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A service manager (systemd) holds the lease as well: it hears from the supervisor,
// its main process, that the work has started and, at each renewal, for how long it
// may go on (sd_notify(3), EXTEND_TIMEOUT_USEC). The keeper says it over a socket
// pair that the work never sees, so that the manager need not listen to anybody but
// its main process, and the work cannot extend its own time.

const (
	notifyVar = "NOTIFY_SOCKET"
	// patience is how much later than the keeper the manager ends the work.
	patience = time.Second
)

// newLine makes the socket pair between keeper and supervisor, which keeps
// message boundaries. Both are -1 if there is no manager to tell.
func newLine() (keeper, supervisor int, err error) {
	if os.Getenv(notifyVar) == "" {
		return -1, -1, nil
	}
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("making the line to the service manager: %w", err)
	}
	return p[0], p[1], nil
}

// relay is the supervisor's part: it passes on what the keeper says, until the
// keeper has gone.
func relay(line int) {
	if line < 0 {
		return
	}
	manager, err := net.Dial("unixgram", os.Getenv(notifyVar))
	if err != nil {
		fmt.Fprintf(os.Stderr, "writ: telling the service manager: %v\n", err)
		return
	}
	defer manager.Close()
	var b [256]byte
	for {
		n, err := unix.Read(line, b[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		_ = manager.SetWriteDeadline(time.Now().Add(patience))
		_, _ = manager.Write(b[:n]) // one that does not hear it ends the work sooner
	}
}

// tell says that the work has started, or for how long it goes on. It never waits.
func (k *keeper) tell(started bool, deadline Instant) {
	if k.cfg.Line <= 0 {
		return
	}
	state := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", max(0, deadline.Sub(Now())+patience).Microseconds())
	if started {
		state = "READY=1\n" + state
	}
	_, _ = unix.SendmsgN(k.cfg.Line, []byte(state), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}
