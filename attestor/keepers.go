package attestor

import "sync"

// keepers counts the streams by which each execution's keeper watches the agent.
// The zero value is ready.
type keepers struct {
	mu      sync.Mutex
	streams map[string]int // by execution; present until its end is known
}

func (k *keepers) came(exec string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.streams == nil {
		k.streams = map[string]int{}
	}
	k.streams[exec]++
}

func (k *keepers) left(exec string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.streams[exec]; ok {
		k.streams[exec]--
	}
}

// stopped forgets an execution whose end is known.
func (k *keepers) stopped(exec string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.streams, exec)
}

// gone reports whether an execution's end is not known and nobody watches for it.
func (k *keepers) gone(exec string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, ok := k.streams[exec]
	return ok && n == 0
}
