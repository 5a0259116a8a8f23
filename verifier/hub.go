package verifier

import (
	"errors"
	"sync"
)

// hub hands signed events to the streams of the nodes they concern. An event
// missed here is only late: the token's deadline is what stops work.
type hub struct {
	mu   sync.Mutex
	subs map[string]map[chan string]bool // by node
}

func (h *hub) init() { h.subs = map[string]map[chan string]bool{} }

func (h *hub) subscribe(node string) (<-chan string, func()) {
	c := make(chan string, 16)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[node] == nil {
		h.subs[node] = map[chan string]bool{}
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

// publish never waits: a stream that does not keep up is closed, and its node
// connects again.
func (h *hub) publish(node, event string) {
	h.mu.Lock()
	defer h.mu.Unlock()
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
func (h *hub) everyone(event func(node string) (string, error)) error {
	h.mu.Lock()
	nodes := make([]string, 0, len(h.subs))
	for n := range h.subs {
		nodes = append(nodes, n)
	}
	h.mu.Unlock()
	var failed error
	for _, n := range nodes {
		e, err := event(n)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		h.publish(n, e)
	}
	return failed
}

// Events subscribes to a node's signed events until the returned function is
// called; the channel is closed when the reader falls behind.
func (s *Service) Events(node string) (<-chan string, func()) { return s.hub.subscribe(node) }
