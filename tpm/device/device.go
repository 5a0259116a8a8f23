// Package device talks to a TPM: it reads endorsement keys and PCRs, makes the
// attestation key, quotes and activates credentials.
//
// Nothing else in the program sends TPM commands. Whoever may open the device
// can quote as the node: it belongs to root, or to the agent's own user. A TPM
// has very few slots for keys and sessions (often three each) and /dev/tpm0 and
// a software TPM keep what is not flushed, so every path here flushes what it
// loaded; [TPM.Leaks] tells. No call needs more authority than the empty owner
// and endorsement passwords, and none writes to the TPM's NV.
//
// Calls wait for the TPM, which cannot be interrupted: there is no context.
// Each command is bounded in time instead, see [CommandTimeout].
package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// CommandTimeout bounds one TPM command. RSA keys take a minute on some chips.
const CommandTimeout = 2 * time.Minute

// TPM is one connection to a TPM. Its methods may be called from several
// goroutines; they take turns.
type TPM struct {
	// Trace, if set before first use, is told of every command sent, resent
	// ones included, after its response came. It must not use the TPM itself.
	Trace func(Command)

	mu     sync.Mutex // held for a whole operation: slots are too few to share
	link   transport.TPM
	broken error                  // after a failed exchange responses no longer match commands
	keys   map[tpm2.TPMHandle]any // *AK or *Key: loaded until closed
}

// Command is one exchange with the TPM.
type Command struct {
	Code   uint32 // TPM_CC
	Result uint32 // TPM_RC, 0 for success
	Took   time.Duration
}

// New returns a TPM reached by link, which it owns from here on: [TPM.Close]
// closes it if it is an io.Closer.
func New(link transport.TPM) *TPM {
	return &TPM{link: link, keys: make(map[tpm2.TPMHandle]any)}
}

// Close flushes the keys that are still loaded and closes the
// connection.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for handle := range t.keys {
		errs = append(errs, t.flush(handle))
	}
	clear(t.keys)
	if c, ok := t.link.(io.Closer); ok {
		errs = append(errs, c.Close())
	}
	if t.broken == nil {
		t.broken = errors.New("the connection to the TPM is closed")
	}
	return errors.Join(errs...)
}

// Leaks counts the transient objects and sessions that are loaded in the TPM,
// the keys of this connection that are not closed aside. It is for tests, where nobody
// else uses the TPM: anything but 0 is a bug.
func (t *TPM) Leaks() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, first := range []tpm2.TPMHandle{0x02000000, 0x03000000, 0x80000000} { // loaded, saved sessions; transient objects
		handles, err := t.handles(first, first|0x00ffffff)
		if err != nil {
			return 0, fmt.Errorf("counting loaded handles: %w", err)
		}
		n += len(handles)
	}
	return n - len(t.keys), nil
}

// handles returns the handles the TPM has in use from first to last.
func (t *TPM) handles(first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	var out []tpm2.TPMHandle
	for {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(sender{t})
		if err != nil {
			return nil, explain(err)
		}
		list, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return nil, err
		}
		for _, h := range list.Handle {
			if h > last {
				return out, nil
			}
			out = append(out, h)
		}
		if !r.MoreData || len(list.Handle) == 0 {
			return out, nil
		}
		first = list.Handle[len(list.Handle)-1] + 1
	}
}

// flush unloads a key or session. One that a reset of the TPM took is no error.
func (t *TPM) flush(handle tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(sender{t})
	if err != nil && !errors.Is(err, tpm2.TPMRCHandle) {
		return fmt.Errorf("flushing handle 0x%08x: %w", uint32(handle), explain(err))
	}
	return nil
}

// Response codes that ask for the same command again (Part 2, 6.6.3).
const (
	rcYielded = 0x908
	rcTesting = 0x90a
	rcRetry   = 0x922
)

// sender is the transport of one operation; the TPM's mutex is held.
type sender struct{ *TPM }

// Send sends one command, and again when the TPM asks for it: up to 16 times
// within about four seconds. It never resends for another reason, since the TPM
// may have executed the command.
func (s sender) Send(cmd []byte) ([]byte, error) {
	pause := time.Millisecond
	for try := 1; ; try++ {
		response, err := s.exchange(cmd)
		if err != nil {
			return nil, err
		}
		switch binary.BigEndian.Uint32(response[6:]) {
		case rcYielded, rcTesting, rcRetry:
			if try < 16 {
				time.Sleep(pause)
				pause = min(2*pause, 512*time.Millisecond)
				continue
			}
		}
		return response, nil
	}
}

func (s sender) exchange(cmd []byte) ([]byte, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	start := time.Now()
	response, err := s.link.Send(cmd)
	if err == nil && len(response) < headerSize {
		err = fmt.Errorf("response of %d bytes, want at least %d", len(response), headerSize)
	}
	if err != nil {
		s.broken = &NoTPMError{Err: err, Hint: "the connection is lost; open the TPM again"}
		return nil, s.broken
	}
	if s.Trace != nil {
		s.Trace(Command{Code: binary.BigEndian.Uint32(cmd[6:]), Result: binary.BigEndian.Uint32(response[6:]), Took: time.Since(start)})
	}
	return response, nil
}

// explain adds to a TPM's refusal what can be done about it.
func explain(err error) error {
	for _, known := range []struct {
		code tpm2.TPMRC
		hint string
	}{
		{tpm2.TPMRCObjectMemory, "another program keeps keys loaded: use /dev/tpmrm0, or flush them with `tpm2_flushcontext -t`"},
		{tpm2.TPMRCSessionMemory, "another program keeps sessions open: use /dev/tpmrm0, or flush them with `tpm2_flushcontext -l`"},
		{tpm2.TPMRCBadAuth, "a password is set where Writ needs the empty one (endorsement hierarchy): remove it with `tpm2_changeauth`"},
		{tpm2.TPMRCAuthFail, "a password is set where Writ needs the empty one (endorsement hierarchy): remove it with `tpm2_changeauth`"},
		{tpm2.TPMRCHierarchy, "the endorsement hierarchy is disabled: enable it in the firmware setup"},
		{tpm2.TPMRCInitialize, "the TPM was not started by the firmware; start a software TPM with `--flags startup-clear`"},
		{tpm2.TPMRCReferenceH0, "the key is no longer loaded, the TPM was reset: make it again"},
		{tpm2.TPMRCHandle, "the key is no longer loaded, the TPM was reset: make it again"},
		{tpm2.TPMRCLockout, "the TPM is in dictionary-attack lockout: wait, or reset it with `tpm2_dictionarylockout -c`"},
		{tpm2.TPMRCFailure, "the TPM failed its self-test: power the machine off and on"},
	} {
		if errors.Is(err, known.code) {
			return fmt.Errorf("%w; %s", err, known.hint)
		}
	}
	return err
}
