package device

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kernelTPM returns a file on one end of a packet socket, which keeps messages
// whole as the kernel's TPM driver does, and the other end.
func kernelTPM(t testing.TB) (*file, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &file{fd: fds[0], timeout: time.Minute}
	t.Cleanup(func() {
		f.Close()
		unix.Close(fds[1])
	})
	return f, fds[1]
}

func TestKernelDevice(t *testing.T) {
	t.Parallel()
	f, driver := kernelTPM(t)
	want := bytes.Repeat([]byte{7}, maxResponse)
	answered := make(chan error)
	go func() {
		buf := make([]byte, 100)
		fds := []unix.PollFd{{Fd: int32(driver), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 60_000)
		n, readErr := unix.Read(driver, buf)
		if err = errors.Join(err, readErr); err == nil && string(buf[:n]) == "command" {
			_, err = unix.Write(driver, want)
		}
		answered <- err
	}()
	got, err := f.Send([]byte("command"))
	if err := errors.Join(err, <-answered); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("response of %d bytes, want %d", len(got), len(want))
	}
}

func TestKernelDeviceTimeout(t *testing.T) {
	t.Parallel()
	f, _ := kernelTPM(t)
	f.timeout = time.Millisecond
	if _, err := f.Send([]byte("command")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error %v, want that the deadline is exceeded", err)
	}
}

func TestOversizedResponse(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"\x80\x01\x00\x00\x10\x01\x00\x00\x00\x00", "\x80\x01\x00\x00\x00\x09\x00\x00\x00\x00"} {
		if _, err := ReadMessage(strings.NewReader(header)); err == nil || !strings.Contains(err.Error(), "want 10 to 4096") {
			t.Errorf("error %v, want one about the size", err)
		}
	}
}
