package ledger

import (
	"errors"
	"fmt"
	"os"
	"syscall"
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
// closed or the process has died.
func claim(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("guard file %s is in use by another process", f.Name())
	}
	return err
}
