package enclave

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// manager is systemd's end of NOTIFY_SOCKET.
type manager struct {
	*net.UnixConn
	t *testing.T
}

func newManager(t *testing.T, dir string) (m manager, path string) {
	t.Helper()
	path = filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		t.Fatal(err)
	}
	return manager{c, t}, path
}

// hears returns the next message and who sent it; "" if there is none for so long.
func (m manager) hears(within time.Duration) (state map[string]string, sender int) {
	m.t.Helper()
	b, oob := make([]byte, 512), make([]byte, 512)
	_ = m.SetReadDeadline(time.Now().Add(within))
	n, o, _, _, err := m.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, 0
	}
	state = map[string]string{}
	for line := range strings.SplitSeq(string(b[:n]), "\n") {
		name, value, _ := strings.Cut(line, "=")
		state[name] = value
	}
	messages, err := unix.ParseSocketControlMessage(oob[:o])
	if err != nil || len(messages) != 1 {
		m.t.Fatalf("credentials of a message: %v, %v", messages, err)
	}
	who, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		m.t.Fatal(err)
	}
	return state, int(who.Pid)
}

// TestManagerHoldsTheLease: systemd hears from the main process alone that the work
// has started and, at each renewal, for how long it may go on, which is never
// longer than the token; and nothing once renewing has failed. The work does not
// know where to say such things.
func TestManagerHoldsTheLease(t *testing.T) {
	t.Parallel()
	const life = 5 * time.Second
	a := newAgent(t, life)
	systemd, path := newManager(t, a.dir)
	e := a.prepare(t)
	e.supervised, e.env = true, []string{supervisor.NotifyVar + "=" + path, "WATCHDOG_USEC=1000000"}
	e.start(nil, "sh", "-c", "echo ${NOTIFY_SOCKET-unset}${WATCHDOG_USEC-unset}; exec sleep 60")
	ready, renewals := 0, 0
	for renewals < 3 {
		state, sender := systemd.hears(patient)
		if state == nil {
			t.Fatalf("nothing more after %d renewals\n%s", renewals, e.said())
		}
		if sender != e.cmd.Process.Pid {
			t.Errorf("%v is said by %d, and the main process is %d", state, sender, e.cmd.Process.Pid)
		}
		us, err := strconv.Atoi(state["EXTEND_TIMEOUT_USEC"])
		if left := time.Duration(us) * time.Microsecond; err != nil || left <= supervisor.Patience || left > life+supervisor.Patience {
			t.Errorf("it may go on for %v, and the token lives %v: %v", left, life, state)
		}
		if state["READY"] == "1" {
			ready++
		} else if ready > 0 {
			renewals++
		}
	}
	if ready != 1 {
		t.Errorf("it was ready %d times", ready)
	}
	e.eventually("the work speaks", func() bool { return e.output() != "" })
	if got := strings.TrimSpace(e.output()); got != "unsetunset" {
		t.Errorf("the work finds %q in its environment", got)
	}
	a.answers(unavailable)
	for { // what was said before
		if state, _ := systemd.hears(life); state == nil {
			break
		}
	}
	e.exits(ExitStopped, "")
}

// TestManagerOfRefusedWork: what was refused was never ready, and what ended at
// once was.
func TestManagerOfRefusedWork(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	systemd, path := newManager(t, a.dir)
	run := func() *execution {
		e := a.prepare(t)
		e.supervised, e.env = true, []string{supervisor.NotifyVar + "=" + path}
		return e.start(nil, "true")
	}
	run().exits(0, "")
	ready := false
	for {
		state, _ := systemd.hears(100 * time.Millisecond)
		if state == nil {
			break
		}
		ready = ready || state["READY"] == "1"
	}
	if !ready {
		t.Error("work that ended at once was never ready")
	}
	a.answers(unavailable)
	run().exits(ExitRefused, "run/no-token")
	if state, _ := systemd.hears(100 * time.Millisecond); state != nil {
		t.Errorf("of refused work it was said: %v", state)
	}
}
