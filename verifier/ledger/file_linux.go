package ledger

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// syncData makes a file's content durable, without the time stamps that Sync
// would also wait for.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}

// claim keeps a second verifier away from a guard file, until the file is
// closed or the process has died. A lock that was just given up can seem held for a
// moment, by a child that the process is starting and that has not closed it yet.
func claim(f *os.File) error {
	var err error
	for range 20 {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("guard file %s is in use by another process", f.Name())
	}
	return err
}
