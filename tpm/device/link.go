package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

const (
	headerSize  = 10   // tag, size, code (Part 1, 18.2)
	maxResponse = 4096 // TPM_PT_MAX_RESPONSE_SIZE of PC Client TPMs
)

// NoTPMError says that a TPM cannot be reached. Hint says what to do about it.
type NoTPMError struct {
	Path string // as given to Open; empty once it was open
	Err  error
	Hint string
}

func (e *NoTPMError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("talking to the TPM: %v: %s", e.Err, e.Hint)
	}
	return fmt.Sprintf("opening TPM %s: %v: %s", e.Path, e.Err, e.Hint)
}

func (e *NoTPMError) Unwrap() error { return e.Err }

// Open opens "/dev/tpmrm0", "/dev/tpm0", or the unix socket of a software TPM as
// "swtpm:PATH", and checks that a TPM answers. What keeps it from doing so is a
// [*NoTPMError].
func Open(path string) (*TPM, error) {
	link, probe, err := openLink(path)
	if err != nil {
		return nil, &NoTPMError{Path: path, Err: err, Hint: openHint(path, err)}
	}
	if _, err := (tpm2.ReadClock{}).Execute(probe); err != nil {
		link.Close()
		hint := openHint(path, err)
		if errors.Is(err, tpm2.TPMRCInitialize) {
			hint = "it was never started; start a software TPM with `--flags startup-clear`"
		}
		return nil, &NoTPMError{Path: path, Err: err, Hint: hint}
	}
	return New(link), nil
}

// openLink returns the connection, and the same with a short timeout.
func openLink(path string) (link transport.TPMCloser, probe transport.TPM, err error) {
	const probeTimeout = 3 * time.Second
	socket, ok := strings.CutPrefix(path, "swtpm:")
	if !ok {
		f, err := openDevice(path)
		if err != nil {
			return nil, nil, err
		}
		return f, f, nil
	}
	conn, err := net.DialTimeout("unix", socket, probeTimeout)
	if err != nil {
		return nil, nil, err
	}
	return &Stream{conn: conn, timeout: CommandTimeout}, &Stream{conn: conn, timeout: probeTimeout}, nil
}

func openHint(path string, err error) string {
	socket, soft := strings.CutPrefix(path, "swtpm:")
	var timeout net.Error
	switch {
	case soft && len(socket) > 107: // sun_path, unix(7)
		return fmt.Sprintf("the socket's path has %d bytes, 107 are allowed: use a shorter one", len(socket))
	case soft && errors.As(err, &timeout) && timeout.Timeout():
		return "swtpm serves one client at a time: end the other one"
	case soft && errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return "start the software TPM first"
	case errors.Is(err, fs.ErrNotExist):
		return "no TPM here: enable it in the firmware setup, or give swtpm:PATH for a software TPM"
	case errors.Is(err, fs.ErrPermission):
		return "run as root, or as a user of the group that owns it (usermod -aG tss USER)"
	case errors.Is(err, syscall.EBUSY):
		return "another program holds it: use /dev/tpmrm0"
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV), errors.Is(err, errNoDevice):
		return "no TPM here: give /dev/tpmrm0, /dev/tpm0 or swtpm:PATH"
	}
	return "check that a TPM 2.0 is there and answers"
}

// Stream exchanges TPM commands over a connection to a software TPM: a unix
// socket or one end of a socketpair. It is not safe for concurrent use.
type Stream struct {
	conn    net.Conn
	timeout time.Duration
}

// NewStream returns a Stream over conn, which it owns from here on.
func NewStream(conn net.Conn) *Stream { return &Stream{conn: conn, timeout: CommandTimeout} }

// Close closes the connection.
func (s *Stream) Close() error { return s.conn.Close() }

// Send writes cmd and reads one response. After an error the connection is of no
// more use: a late response would be taken for that of the next command.
func (s *Stream) Send(cmd []byte) ([]byte, error) {
	if err := s.conn.SetDeadline(time.Now().Add(s.timeout)); err != nil {
		return nil, err
	}
	if _, err := s.conn.Write(cmd); err != nil {
		return nil, err
	}
	return ReadMessage(s.conn)
}

// ReadMessage reads one TPM command or response, whose header says its length.
func ReadMessage(r io.Reader) ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header[2:])
	if n < headerSize || n > maxResponse {
		return nil, fmt.Errorf("TPM message of %d bytes, want %d to %d", n, headerSize, maxResponse)
	}
	msg := make([]byte, n)
	copy(msg, header[:])
	if _, err := io.ReadFull(r, msg[headerSize:]); err != nil {
		return nil, err
	}
	return msg, nil
}

var errNoDevice = errors.New("not a device")

// file is a kernel TPM device. It is non-blocking, since read and write would
// otherwise wait for the TPM with no bound (kernel before 4.20: they do).
type file struct {
	fd      int
	timeout time.Duration
}

func openDevice(path string) (*file, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Mode()&os.ModeCharDevice == 0 {
		return nil, errNoDevice
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &file{fd: fd, timeout: CommandTimeout}, nil
}

func (f *file) Close() error { return unix.Close(f.fd) }

// Send writes cmd and reads one response, each in one piece as the driver wants.
func (f *file) Send(cmd []byte) ([]byte, error) {
	if n, err := retryEINTR(func() (int, error) { return unix.Write(f.fd, cmd) }); err != nil {
		return nil, err
	} else if n != len(cmd) {
		return nil, fmt.Errorf("the driver took %d of %d bytes", n, len(cmd))
	}
	if err := f.await(time.Now().Add(f.timeout)); err != nil {
		return nil, err
	}
	buf := make([]byte, maxResponse)
	n, err := retryEINTR(func() (int, error) { return unix.Read(f.fd, buf) })
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// await waits until there is a response to read.
func (f *file) await(deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("no response within %s: %w", f.timeout, os.ErrDeadlineExceeded)
		}
		fds := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

func retryEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
