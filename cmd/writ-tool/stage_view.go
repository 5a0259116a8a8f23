package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// view is what the page /demo shows: one event of /demo/state.
type view struct {
	Doing    string    `json:"doing"`    // the act that is played; "": none
	Now      string    `json:"now"`      // what it waits for
	Acts     []string  `json:"acts"`     // that may be asked for
	Life     float64   `json:"life"`     // of a token, seconds
	Level    string    `json:"level"`    // of enforcement
	Verifier string    `json:"verifier"` // "", runs, stopped, frozen
	Job      string    `json:"job"`      // "", runs, stopped
	Node     *nodeView `json:"node"`     // null: none yet
	Story    []chapter `json:"story"`
	Log      []logLine `json:"log"`
}

type nodeView struct {
	ID       string `json:"id"`
	Boot     string `json:"boot"`
	Status   string `json:"status"`
	State    string `json:"state"`
	Deadline int64  `json:"deadline"` // of its last token, Unix seconds
}

// chapter is what came of an act.
type chapter struct {
	Act     string     `json:"act"`
	Title   string     `json:"title"`
	Text    string     `json:"text"`
	At      int64      `json:"at"` // when it was begun, Unix milliseconds
	TookMS  int64      `json:"took_ms"`
	Stop    *stopShown `json:"stop"`    // null: no job was stopped
	Proof   []string   `json:"proof"`   // ids of entries
	Trouble string     `json:"trouble"` // why it did not come to its end
}

// stopShown is a stop as its keeper recorded it, and as seen from here.
type stopShown struct {
	DeadMS int64 `json:"dead_ms"` // from the act to the last process gone
	stopRecord
}

// logLine is an entry as it is listed.
type logLine struct {
	ID    string `json:"id"`
	Index uint64 `json:"index"`
	Kind  string `json:"kind"`
	At    int64  `json:"at"`
	Text  string `json:"text"`
	Other bool   `json:"other"` // of the history that was told instead
}

// keptEntry is an entry and its receipt: /demo/entries/ID.
type keptEntry struct {
	Entry   string `json:"entry"`
	Receipt string `json:"receipt"`
}

func entryID(index uint64, branch string) string { return fmt.Sprintf("%d%s", index, branch) }

// update changes the view and wakes those who follow it.
func (s *stage) update(f func(*view)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.view)
	close(s.changed)
	s.changed = make(chan struct{})
}

// size is how many entries of the first history are known.
func (s *stage) size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(0)
	for _, l := range s.view.Log {
		if !l.Other {
			n = l.Index + 1
		}
	}
	return n
}

// lines are the ids of entries from an index on that are of these kinds.
func (s *stage) lines(from uint64, kinds ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for _, l := range s.view.Log {
		if l.Index >= from && !l.Other && slices.Contains(kinds, l.Kind) {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

// written waits for an entry of a kind at an index or after it.
func (s *stage) written(ctx context.Context, from uint64, kind string) error {
	return s.dev.wait(ctx, 30*time.Second, "an entry "+kind, "verifier", func() (bool, error) { return len(s.lines(from, kind)) > 0, nil })
}

// follower reads the node and the log of a play.
type follower struct {
	address string // of the verifier
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func (w *follower) stop() {
	if w != nil {
		w.cancel()
		w.done.Wait()
	}
}

// follow begins to read the node and the log.
func (s *stage) follow(ctx context.Context) error {
	d, n := s.dev, s.dev.nodes[0]
	trust, err := os.ReadFile(filepath.Join(n.state(), "trust.json"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.trust = trust
	s.mu.Unlock()
	if err := s.keep(ctx, d.operator, 0, ""); err != nil {
		return err
	}
	s.look(ctx, d.operator, n)
	s.update(func(v *view) { v.Verifier = "runs" })
	on, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.watch = &follower{address: hostOf(d.ready.Verifier), cancel: cancel}
	c := d.operator // another one takes its place when the verifier starts again; this one goes on
	s.watch.done.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-on.Done():
				return
			case <-tick.C: // a verifier that is away is asked again
				_ = s.keep(on, c, s.size(), "")
				s.look(on, c, n)
			}
		}
	})
	return nil
}

// look reads the node's row.
func (s *stage) look(ctx context.Context, c *client.Client, n *devNode) {
	got, err := c.Node(ctx, n.id)
	if err != nil {
		return
	}
	now := nodeView{got.ID, n.boot, got.Status, got.State, got.Deadline}
	s.mu.Lock()
	same := s.view.Node != nil && *s.view.Node == now
	s.mu.Unlock()
	if !same {
		s.update(func(v *view) {
			v.Node = &now
			if v.Doing == "" {
				v.Acts = v.possible()
			}
		})
	}
}

// keep reads entries from an index on, each with its receipt. Of the other history
// only those that the first does not have.
func (s *stage) keep(ctx context.Context, c *client.Client, from uint64, branch string) error {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return err
	}
	head, err := headOf(note)
	if err != nil || head.Size <= from {
		return err
	}
	a, err := c.Audit(ctx, from, head.Size)
	if err != nil {
		return err
	}
	var lines []logLine
	kept := map[string]keptEntry{}
	for i, e := range a.Entries {
		index := from + uint64(i)
		leaf, err := ledger.ParseLeaf(e.Leaf)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if s.has(entryID(index, ""), string(e.Leaf)) {
			continue
		}
		receipt, err := c.Proof(ctx, index)
		if err != nil {
			return err
		}
		id := entryID(index, branch)
		kept[id] = keptEntry{string(e.Leaf), receipt}
		lines = append(lines, logLine{id, index, leaf.Kind, leaf.At, told(leaf.Kind, leaf.Data), branch != ""})
	}
	s.mu.Lock()
	for id, e := range kept {
		s.kept[id] = e
	}
	s.mu.Unlock()
	if len(lines) > 0 {
		s.update(func(v *view) { v.Log = append(v.Log, lines...) })
	}
	return nil
}

func (s *stage) has(id, entry string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[id].Entry == entry
}

// handler serves the view, what it names, and takes acts. Who may ask is decided by
// writd dev, which alone reaches the socket.
func (s *stage) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /demo/state", s.serveState)
	mux.HandleFunc("GET /demo/domain", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		trust := s.trust
		s.mu.Unlock()
		if trust == nil {
			http.Error(w, `{"detail":"the demonstration has not begun"}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(trust)
	})
	mux.HandleFunc("GET /demo/entries/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		e, ok := s.kept[r.PathValue("id")]
		s.mu.Unlock()
		if !ok {
			http.Error(w, `{"detail":"the demonstration has no such entry; it may have begun anew"}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(e)
	})
	mux.HandleFunc("POST /demo/acts/{act}", func(w http.ResponseWriter, r *http.Request) {
		if !s.ask(r.PathValue("act")) {
			http.Error(w, `{"detail":"that cannot be done now"}`, http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("{}"))
	})
	return mux
}

// ask accepts an act that is possible now; no other is until it has been played.
func (s *stage) ask(act string) bool {
	ok := false
	s.update(func(v *view) {
		if ok = v.Doing == "" && slices.Contains(v.Acts, act); ok {
			v.Doing, v.Now, v.Acts = act, "", []string{}
		}
	})
	if ok {
		s.asked <- act // one fits, and there is never another
	}
	return ok
}

// serveState sends the view whenever it has changed.
func (s *stage) serveState(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	beat := time.NewTicker(5 * time.Second)
	defer beat.Stop()
	for {
		s.mu.Lock()
		raw, err := json.Marshal(s.view)
		changed := s.changed
		s.mu.Unlock()
		if err == nil {
			_, err = fmt.Fprintf(w, "data: %s\n\n", raw)
		}
		if err == nil {
			err = control.Flush()
		}
		if err != nil {
			return // the reader has gone
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-beat.C:
		}
	}
}
