package supervisor

import (
	"errors"
	"fmt"
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
	NotifyVar = "NOTIFY_SOCKET"
	// Patience is how much later than the keeper the manager ends the work.
	Patience = time.Second
)

// newLine makes the socket pair between keeper and supervisor, which keeps
// message boundaries. Both are -1 if there is no manager to tell.
func newLine() (keeper, supervisor int, err error) {
	if os.Getenv(NotifyVar) == "" {
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
	manager, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(manager)
		patience := unix.NsecToTimeval(int64(Patience))
		err = errors.Join(unix.SetsockoptTimeval(manager, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
			unix.Connect(manager, &unix.SockaddrUnix{Name: os.Getenv(NotifyVar)})) // "@" is an abstract one
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "writ: telling the service manager: %v\n", err)
		return
	}
	var b [256]byte
	for {
		n, err := unix.Read(line, b[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		_, _ = unix.Write(manager, b[:n]) // one that does not hear it ends the work sooner
	}
}
