package enclave

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// At level E1 there are no namespaces and no cgroup to be had: a container whose
// runtime denies both. But the container has a PID namespace already, and if
// `writ run` is its first process, its supervisor is PID 1: when it ends, the
// kernel kills everything in the container. So the keys are
//
//  1. K wakes at the deadline and kills everything but itself and PID 1, in one
//     system call that no fork escapes.
//  2. The kernel's timer kills K; PID 1 sees that and ends. It fires also while K
//     is stopped.
//  3. PID 1 waits for the deadline itself, and ends; so does the starter of the
//     work.
//
// What nobody answers for is K and PID 1 both stopped: from within the container
// the kernel does not let anybody stop PID 1, from outside it can be done.

// initialPIDNS is the PID namespace of the machine itself (PROC_PID_INIT_INO).
const initialPIDNS = "pid:[4026531836]"

// trySole reports whether PID 1 is this keeper's supervisor, in a PID namespace
// that is not the machine's: whoever asks for less must not get everything killed.
func trySole(said bool) error {
	if !said || os.Getppid() != 1 {
		return errors.New("writ run is not the first process (PID 1) of a container")
	}
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil || ns == initialPIDNS {
		return fmt.Errorf("PID 1 is the machine's (%s, %v)", ns, err)
	}
	name, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		return fmt.Errorf("looking at PID 1: %w", err)
	}
	if string(name) != supervisor.Name+"\n" {
		return errors.New("PID 1 is not the supervisor of this keeper")
	}
	return tryFuse()
}

// sole reports whether the container is all that holds the work.
func (k *keeper) sole() bool { return k.level == E1 }

// killEverybody sends SIGKILL to every process of the namespace but this one and
// PID 1. The kernel holds off forks meanwhile. It allocates nothing.
func killEverybody() {
	_, _, _ = unix.RawSyscall(unix.SYS_KILL, ^uintptr(0), uintptr(unix.SIGKILL), 0)
}

// alone reports whether nothing is left but this process and PID 1.
func alone() bool { return errors.Is(unix.Kill(-1, 0), unix.ESRCH) }
