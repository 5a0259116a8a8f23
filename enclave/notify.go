package enclave

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// note leaves the deadline where the supervisor finds it when the keeper cannot
// say any more what killed it.
func (k *keeper) note(deadline Instant) {
	if k.cfg.Memo > 0 {
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], uint64(deadline))
		_, _ = unix.Pwrite(k.cfg.Memo, b[:], 0)
	}
}

// tell says that the work has started, or for how long it goes on. It never waits.
func (k *keeper) tell(started bool, deadline Instant) {
	if k.cfg.Line <= 0 {
		return
	}
	state := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", max(0, deadline.Sub(Now())+supervisor.Patience).Microseconds())
	if started {
		state = "READY=1\n" + state
	}
	_, _ = unix.SendmsgN(k.cfg.Line, []byte(state), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}
