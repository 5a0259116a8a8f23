// Package swtpm makes and runs software TPMs: for tests, `writ dev` and fleets
// of nodes on one machine.
//
// A software TPM proves nothing to anybody: its keys are files. Its maker here
// is a test CA that no production verifier may trust. It needs no root, opens no
// port and ends with the process that started it, however that ends; the
// program `swtpm` (package swtpm of Debian and Ubuntu) must be installed.
package swtpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm/device"
)

// Instance is a running software TPM. Its [Instance.Send] is the transport for
// [device.New]; the other methods are what firmware, the kernel and the power
// button do.
type Instance struct {
	dir  string
	cmd  *exec.Cmd
	mu   sync.Mutex // one exchange at a time on data and ctrl
	data *device.Stream
	ctrl net.Conn

	exited  chan struct{} // closed after exitErr is set
	exitErr error
}

// Start runs the TPM whose state is in dir (see [Manufacture]; an empty or missing
// directory is a new TPM without certificates) and starts it up as firmware
// does. ctx bounds the start only.
func Start(ctx context.Context, dir string) (*Instance, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("starting software TPM: %w", err)
	}
	i, err := spawn(dir)
	if err != nil {
		return nil, fmt.Errorf("starting software TPM: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { i.cmd.Process.Kill() })
	_, err = tpm2.ReadClock{}.Execute(i)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("starting software TPM in %s: %w", dir, errors.Join(err, i.Close(), i.logged()))
	}
	return i, nil
}

// spawn runs swtpm with both channels on inherited socketpairs: no path or port
// to collide on, and swtpm ends by itself when our ends close, also when this
// process is killed.
func spawn(dir string) (*Instance, error) {
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, fmt.Errorf("%w: install it with `apt-get install swtpm` (Debian, Ubuntu) or `dnf install swtpm` (Fedora)", err)
	}
	data, dataFile, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer dataFile.Close()
	ctrl, ctrlFile, err := socketpair()
	if err != nil {
		data.Close()
		return nil, err
	}
	defer ctrlFile.Close()
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--fd", "3", "--ctrl", "type=unixio,clientfd=4",
		"--flags", "not-need-init,startup-clear", "--log", "file="+filepath.Join(dir, logName)+",level=1,truncate")
	cmd.ExtraFiles = []*os.File{dataFile, ctrlFile}
	if err := cmd.Start(); err != nil {
		data.Close()
		ctrl.Close()
		return nil, err
	}
	i := &Instance{dir: dir, cmd: cmd, data: device.NewStream(data), ctrl: ctrl, exited: make(chan struct{})}
	go func() {
		i.exitErr = cmd.Wait()
		close(i.exited)
	}()
	return i, nil
}

const logName = "swtpm.log"

// logged returns what swtpm wrote to its log, as an error.
func (i *Instance) logged() error {
	b, err := os.ReadFile(filepath.Join(i.dir, logName))
	if err != nil || len(b) == 0 {
		return nil
	}
	return errors.New("swtpm says: " + strings.TrimSpace(string(b)))
}

func socketpair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "swtpm")
	f := os.NewFile(uintptr(fds[0]), "swtpm")
	defer f.Close()
	ours, err = net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making socketpair: %w", err)
	}
	return ours, theirs, nil
}

// Send executes one TPM command. It may be called from several goroutines.
func (i *Instance) Send(cmd []byte) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.data.Send(cmd)
}

// held is an Instance whose mutex the caller holds, for several commands that
// nobody's may come between.
type held struct{ *Instance }

func (h held) Send(cmd []byte) ([]byte, error) { return h.data.Send(cmd) }

// ctrlInit is the control channel's CMD_INIT (swtpm_ioctls(3)): power off and on.
const ctrlInit = 2

func (i held) control(command uint32, payload ...uint32) error {
	b := binary.BigEndian.AppendUint32(nil, command)
	for _, p := range payload {
		b = binary.BigEndian.AppendUint32(b, p)
	}
	if err := i.ctrl.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := i.ctrl.Write(b); err != nil {
		return err
	}
	var result [4]byte
	if _, err := io.ReadFull(i.ctrl, result[:]); err != nil {
		return err
	}
	if rc := binary.BigEndian.Uint32(result[:]); rc != 0 {
		return fmt.Errorf("swtpm answered control command %d with 0x%x", command, rc)
	}
	return nil
}

// PowerCycle is the machine's power going off and on. Orderly, the operating
// system told the TPM before (TPM2_Shutdown): its clock then stays safe. PCRs
// are zero again, loaded keys are gone, the reset counter is one more.
func (i *Instance) PowerCycle(orderly bool) error {
	if err := i.restart(orderly, tpm2.TPMSUClear); err != nil {
		return fmt.Errorf("power-cycling software TPM: %w", err)
	}
	return nil
}

// Suspend is the machine going to sleep and waking: PCRs and the reset counter
// stay, the restart counter is one more.
func (i *Instance) Suspend() error {
	if err := i.restart(true, tpm2.TPMSUState); err != nil {
		return fmt.Errorf("suspending software TPM: %w", err)
	}
	return nil
}

func (i *Instance) restart(orderly bool, how tpm2.TPMSU) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if orderly {
		if _, err := (tpm2.Shutdown{ShutdownType: how}).Execute(held{i}); err != nil {
			return err
		}
	}
	if err := (held{i}).control(ctrlInit, 0); err != nil {
		return err
	}
	_, err := tpm2.Startup{StartupType: how}.Execute(held{i})
	return err
}

// Clear is TPM2_Clear, as from the firmware's menu: the storage hierarchy is made
// anew and clock, reset and restart counters are 0. The endorsement hierarchy
// stays, so the same attestation keys come back.
func (i *Instance) Clear() error {
	_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}}.Execute(i)
	if err != nil {
		return fmt.Errorf("clearing software TPM: %w", err)
	}
	return nil
}

// Close powers the TPM off without telling it and waits for swtpm to end. It may
// be called again.
func (i *Instance) Close() error {
	i.data.Close() // without the mutex: it ends an exchange that hangs
	i.ctrl.Close()
	select {
	case <-i.exited:
	case <-time.After(5 * time.Second):
		i.cmd.Process.Kill()
		<-i.exited
		return errors.New("closing software TPM: swtpm did not end, killed")
	}
	return nil
}

// CopyState copies a TPM's state to the directory dst, which must not exist: a
// clone with the same keys and counters. Close the instance on src first, else
// the copy may lack its last changes.
func CopyState(dst, src string) error {
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		return fmt.Errorf("copying software TPM: %w", err)
	}
	return nil
}
