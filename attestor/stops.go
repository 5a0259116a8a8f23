package attestor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

const (
	stopsDir    = "stops" // one file each, in the order they are to be recorded
	maxStops    = 10_000  // waiting; more are refused
	causeKilled = "keeper-killed"
)

// Stopped keeps a stop record until a verifier has recorded it, over restarts
// and for as long as no verifier answers.
func (a *Agent) Stopped(stop bundle.Stop) error {
	if err := stop.Check(); err != nil {
		return err
	}
	a.stopping.Lock()
	defer a.stopping.Unlock()
	dir := filepath.Join(a.cfg.Dir, stopsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping a stop record: %w", err)
	}
	waiting, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("keeping a stop record: %w", err)
	}
	if len(waiting) >= maxStops {
		return fmt.Errorf("keeping a stop record: %d wait already; look why no verifier takes them", len(waiting))
	}
	b, err := json.Marshal(stop)
	if err != nil {
		return fmt.Errorf("keeping a stop record: %w", err)
	}
	name := fmt.Sprintf("%020d-%s.json", time.Now().UnixNano(), stop.Exec)
	if err := durable.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		return fmt.Errorf("keeping a stop record: %w", err)
	}
	a.keepers.stopped(stop.Exec)
	select {
	case a.stops <- struct{}{}:
	default: // deliver looks anyway
	}
	return nil
}

// deliver hands stop records to the verifiers until ctx is done.
func (a *Agent) deliver(ctx context.Context) {
	for pause := time.Second; ; {
		err := a.deliverAll(ctx)
		if err != nil {
			a.cfg.Log.DebugContext(ctx, "stop records wait", "error", err)
			pause = min(2*pause, 30*time.Second)
		} else {
			pause = time.Second
		}
		next := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-a.stops:
			next.Stop()
		case <-next.C:
		}
	}
}

// deliverAll hands over what waits, the oldest first. What a verifier refuses it
// would refuse for ever: that is said and put away. The token that proves us may
// have been ended, which is often why the work stopped.
func (a *Agent) deliverAll(ctx context.Context) error {
	dir := filepath.Join(a.cfg.Dir, stopsDir)
	waiting, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("reading the stop records: %w", err)
	}
	for _, w := range waiting {
		path := filepath.Join(dir, w.Name())
		if filepath.Ext(path) != ".json" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading a stop record: %w", err)
		}
		var stop bundle.Stop
		if err := json.Unmarshal(b, &stop); err != nil {
			return errors.Join(fmt.Errorf("reading the stop record %s: %w", path, err), os.Rename(path, path+".bad"))
		}
		err = a.report(ctx, stop)
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Code == protocol.RequestRefused {
			a.cfg.Log.ErrorContext(ctx, "a stop record was refused", "exec", stop.Exec, "file", path+".refused", "error", err)
			if err := os.Rename(path, path+".refused"); err != nil {
				return fmt.Errorf("putting a refused stop record away: %w", err)
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing a recorded stop: %w", err)
		}
	}
	return nil
}

func (a *Agent) report(ctx context.Context, stop bundle.Stop) error {
	a.mu.Lock()
	last := a.last
	a.mu.Unlock()
	if last == "" {
		return protocol.Refuse(protocol.TokenRevoked, "the node has no token to record the stop with")
	}
	var lost []error
	for i := range a.cfg.Verifiers {
		key, _ := a.holder()
		_, err := a.cfg.Verifiers[(a.preferred()+i)%len(a.cfg.Verifiers)].Stopped(ctx, last, key, stop)
		if r := (*protocol.Refusal)(nil); err == nil || errors.As(err, &r) {
			return err
		}
		lost = append(lost, err)
	}
	return errors.Join(lost...)
}

// await speaks for a keeper that stopped watching, unless it comes back or has
// left a word of its own: it was killed, by somebody or by the kernel's timer,
// and its work died with it as far as anybody can tell from here.
func (a *Agent) await(ctx context.Context, end bundle.Stop) {
	back := time.NewTimer(a.cfg.Absence)
	defer back.Stop()
	select {
	case <-ctx.Done():
		return
	case <-back.C:
	}
	if !a.keepers.gone(end.Exec) {
		return
	}
	err := a.Stopped(end)
	a.cfg.Log.WarnContext(ctx, "a keeper vanished; the end of its work is not confirmed", "exec", end.Exec, "error", err)
}
