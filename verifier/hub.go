package verifier

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// hub hands signed events to the streams of the nodes they concern. An event
// missed here is only late: the token's deadline is what stops work.
type hub struct {
	mu   sync.Mutex
	subs map[string]map[chan Message]bool // by node; "": of all nodes
	past []said                           // the events that may still matter, oldest first
	told map[uint64]bool                  // indexes of the entries they are of
}

// Message is what a stream is told: a signed event (kind "revocation"), or what the
// log proves of token keys (kind "keys", a JSON list of rotation.Entry).
type Message struct{ Kind, Data string }

// said is an event that was published.
type said struct {
	at    time.Time
	index uint64 // of the entry it is of; 0: of none
	event string
}

func (h *hub) init() {
	h.subs, h.told = map[string]map[chan Message]bool{}, map[uint64]bool{}
}

// knows reports whether an entry's event was published.
func (h *hub) knows(index uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told[index]
}

func (h *hub) subscribe(node string) (<-chan Message, func()) {
	c := make(chan Message, 16)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[node] == nil {
		h.subs[node] = map[chan Message]bool{}
	}
	h.subs[node][c] = true
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.subs[node][c] {
			delete(h.subs[node], c)
			close(c)
		}
	}
}

// publish never waits: a stream that does not keep up is closed, and its reader
// connects again. An event is kept for as long as a token that it ends could live.
// What was said of an entry is not said again: whoever did the act and whoever read
// of it in the log may both come with it.
func (h *hub) publish(index uint64, node, event string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if index != 0 && h.told[index] {
		return
	}
	m := Message{Kind: "revocation", Data: event}
	if node != "" {
		h.tell(node, m)
	}
	h.tell("", m)
	for len(h.past) > 0 && at.Sub(h.past[0].at) > token.MaxLife {
		delete(h.told, h.past[0].index)
		h.past = h.past[1:]
	}
	h.past = append(h.past, said{at, index, event})
	if index != 0 {
		h.told[index] = true
	}
}

// all tells every stream.
func (h *hub) all(m Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node := range h.subs {
		h.tell(node, m)
	}
}

func (h *hub) tell(node string, event Message) {
	for c := range h.subs[node] {
		select {
		case c <- event:
		default:
			delete(h.subs[node], c)
			close(c)
		}
	}
}

// everyone publishes to every node that listens; a failure for one keeps it from
// no other.
func (h *hub) everyone(at time.Time, event func(node string) (string, error)) error {
	h.mu.Lock()
	nodes := make([]string, 0, len(h.subs))
	for n := range h.subs {
		if n != "" {
			nodes = append(nodes, n)
		}
	}
	h.mu.Unlock()
	var failed error
	for _, n := range nodes {
		e, err := event(n)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		h.publish(0, n, e, at)
	}
	return failed
}

// Events subscribes to a node's signed events until the returned function is
// called; the channel is closed when the reader falls behind.
func (s *Service) Events(node string) (<-chan Message, func()) { return s.hub.subscribe(node) }

// Feed subscribes to the signed events about all nodes, as Events does about one.
// past are those said before that may still matter; they are all there are of the
// time since. A token older than that may have been ended unheard.
func (s *Service) Feed(ctx context.Context) (past []string, since time.Time, events <-chan Message, cancel func(), err error) {
	events, cancel = s.hub.subscribe("")
	event, err := s.domainEvent(ctx, "epoch", "the domain's epoch")
	if err != nil {
		cancel()
		return nil, since, nil, nil, err
	}
	past = append(past, event)
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, p := range s.hub.past {
		past = append(past, p.event)
	}
	return past, time.Unix(s.since.Load(), 0), events, cancel, nil
}

// domainEvent signs an event that ends every token of an earlier epoch.
func (s *Service) domainEvent(ctx context.Context, cause, reason string) (string, error) {
	return s.signed(ctx, token.Event{Subject: "spiffe://" + s.cfg.Domain, Cause: cause, Reason: reason})
}
