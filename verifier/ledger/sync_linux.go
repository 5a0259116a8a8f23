package ledger

import (
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
