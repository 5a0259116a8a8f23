package supervisor

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A measurement says which file was digested. The keeper's program is digested while it
// starts, and not by itself when others wait for it; it takes the digest only if it was
// executed from that very file, which nobody has written to since it was looked at. Either
// way it is the word of whoever started the keeper.
type measurement struct {
	Dev, Ino  uint64
	Size      int64
	Sec, Nsec int64 // last change (ctime)
	SHA256    [32]byte
}

func identify(f *os.File) (m measurement, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return m, err
	}
	return measurement{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Sec: int64(st.Ctim.Sec), Nsec: int64(st.Ctim.Nsec)}, nil
}

// measure begins to digest a program, and returns where the keeper reads the result.
// Nothing is to be read there if it could not be done.
func measure(program string) (*os.File, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for the keeper's digest: %w", err)
	}
	go func() {
		defer ours.Close()
		f, err := os.Open(program)
		if err != nil {
			return
		}
		defer f.Close()
		m, err := identify(f)
		if err != nil {
			return
		}
		if m.SHA256, err = sum(f, m.Size); err == nil {
			_ = binary.Write(ours, binary.NativeEndian, m)
		}
	}()
	return theirs, nil
}

// Digest is the digest, "sha256:" and hexadecimal, of the program that this process
// executes: what its supervisor has measured, if that is this program, or its own.
// measured is the descriptor the supervisor left, or 0.
func Digest(measured int) (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("digesting the keeper: %w", err)
	}
	defer f.Close()
	self, err := identify(f)
	if err != nil {
		return "", fmt.Errorf("digesting the keeper: %w", err)
	}
	var said measurement
	if measured > 0 {
		pipe := os.NewFile(uintptr(measured), "measurement")
		if binary.Read(pipe, binary.NativeEndian, &said) != nil {
			said = measurement{}
		}
		_ = pipe.Close()
		self.SHA256 = said.SHA256
	}
	if self != said {
		if self.SHA256, err = sum(f, self.Size); err != nil {
			return "", fmt.Errorf("digesting the keeper: %w", err)
		}
	}
	return "sha256:" + hex.EncodeToString(self.SHA256[:]), nil
}

// sum reads a file through the page cache, where a program that starts is anyway.
func sum(f *os.File, size int64) (digest [32]byte, err error) {
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return digest, err
	}
	return sha256.Sum256(b), unix.Munmap(b)
}
