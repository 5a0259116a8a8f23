package verifier

import "sync"

// facts is the service's appraisal.Memory: what logs say and how long EK
// certificates hold, by the digest of the bytes. Nodes of one class share most
// of them.
type facts struct {
	mu    sync.RWMutex
	known map[string]any
}

// maxFacts bounds the memory; a parsed log is some 100 KB. Past it everything is
// forgotten and learnt anew.
const maxFacts = 2048

func (f *facts) Recall(key string) any {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.known[key]
}

func (f *facts) Keep(key string, fact any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || len(f.known) >= maxFacts {
		f.known = map[string]any{}
	}
	f.known[key] = fact
}
