package enclave

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// newPage makes the deadline page: one word the keeper writes and the namespace
// init reads. After it is sealed nobody can map it for writing again, not even
// through the descriptor that the init inherits.
func newPage() (*word, *os.File, error) {
	fd, err := unix.MemfdCreate("writ-deadline", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("making the deadline page: %w", err)
	}
	f := os.NewFile(uintptr(fd), "deadline page")
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		return nil, nil, fmt.Errorf("making the deadline page: %w", err)
	}
	w, err := mapPage(f, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, nil, err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, nil, fmt.Errorf("sealing the deadline page: %w", err)
	}
	return w, f, nil
}

// mapPage maps a deadline page for the life of the process.
func mapPage(f *os.File, prot int) (*word, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, pageSize, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the deadline page: %w", err)
	}
	return (*word)(unsafe.Pointer(&b[0])), nil
}
