package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/writ-attestation/writ/testdata/boots"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// machine is a software TPM that booted a recorded machine's logs, at a unix
// socket where an agent process uses it like a device.
type machine struct {
	name string // "node 1"
	boot string // the recorded machine
	dir  string

	tpm    *swtpm.Instance
	server *swtpm.Server
}

// Files of a machine's directory.
func (m *machine) device() string   { return "swtpm:" + filepath.Join(m.dir, "tpm.sock") }
func (m *machine) eventlog() string { return filepath.Join(m.dir, "eventlog.bin") }
func (m *machine) ima() string      { return filepath.Join(m.dir, "ima.bin") }
func (m *machine) state() string    { return filepath.Join(m.dir, "state") }
func (m *machine) socket() string   { return filepath.Join(m.dir, "agent.sock") }

// bootMachine manufactures a TPM and boots the recorded logs on it.
func bootMachine(ctx context.Context, dir, name, boot string, maker *swtpm.CA) (_ *machine, err error) {
	m := &machine{name: name, boot: boot, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("booting %s from %s: %w", name, boot, err), m.Close())
		}
	}()
	log, list, err := m.logs()
	if err != nil {
		return nil, err
	}
	tpmDir := filepath.Join(dir, "tpm")
	if err := swtpm.Manufacture(ctx, tpmDir, maker, swtpm.Options{}); err != nil {
		return nil, err
	}
	if m.tpm, err = swtpm.Start(ctx, tpmDir); err != nil {
		return nil, err
	}
	if err := m.tpm.ReplayLog(log); err != nil {
		return nil, err
	}
	if err := m.tpm.ReplayIMA(list); err != nil {
		return nil, err
	}
	m.server, err = m.tpm.Serve(filepath.Join(dir, "tpm.sock"))
	return m, err
}

// logs puts the recorded logs where the node's kernel would have them.
func (m *machine) logs() (*eventlog.Log, *ima.List, error) {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, nil, err
	}
	var raw [2][]byte
	for i, name := range []string{"eventlog.bin", "ima.bin"} {
		var err error
		if raw[i], err = boots.FS.ReadFile(m.boot + "/" + name); err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(filepath.Join(m.dir, name), raw[i], 0o644); err != nil {
			return nil, nil, err
		}
	}
	log, err := eventlog.Parse(raw[0])
	if err != nil {
		return nil, nil, err
	}
	list, err := ima.Parse(raw[1])
	return log, list, err
}

// loadForeign measures a boot application nobody knows into PCR 4, as firmware
// or a boot loader does: extended and logged. It returns the event's index.
func (m *machine) loadForeign(program string) (int, error) {
	raw, err := os.ReadFile(m.eventlog())
	if err != nil {
		return 0, err
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		return 0, err
	}
	e := eventlog.Event{Index: len(log.Events), PCR: 4, Type: eventlog.BootServicesApp, Data: []byte(program)}
	for _, alg := range log.Algs {
		h, ok := alg.Hash()
		if !ok {
			return 0, fmt.Errorf("extending bank %s: this build cannot compute it", alg)
		}
		sum := h.New()
		sum.Write([]byte(program))
		e.Digests = append(e.Digests, eventlog.Digest{Alg: alg, Sum: sum.Sum(nil)})
	}
	if err := m.tpm.Extend(4, e.Digests...); err != nil {
		return 0, err
	}
	log.Events = append(log.Events, e)
	return e.Index, os.WriteFile(m.eventlog(), log.Marshal(), 0o644)
}

// Close powers the machine off.
func (m *machine) Close() error {
	var errs []error
	if m.server != nil {
		errs = append(errs, m.server.Close())
	}
	if m.tpm != nil {
		errs = append(errs, m.tpm.Close())
	}
	return errors.Join(errs...)
}
