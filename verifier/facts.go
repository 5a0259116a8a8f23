package verifier

import (
	"strings"
	"sync"
)

// facts is the service's appraisal.Memory: what logs say, how long EK
// certificates hold, what keys are, by the bytes they follow from. Nodes of one
// class share most logs.
type facts struct {
	mu          sync.RWMutex
	logs, small map[string]any
}

// Facts remembered at most; a parsed log is some 100 KB, the others a few. Past it
// all of a kind are forgotten and learnt anew.
const (
	maxLogs  = 2048
	maxSmall = 1 << 17
)

func (f *facts) kind(key string) (m *map[string]any, limit int) {
	if strings.HasPrefix(key, "log/") {
		return &f.logs, maxLogs
	}
	return &f.small, maxSmall
}

func (f *facts) Recall(key string) any {
	f.mu.RLock()
	defer f.mu.RUnlock()
	m, _ := f.kind(key)
	return (*m)[key]
}

func (f *facts) Keep(key string, fact any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, limit := f.kind(key)
	if *m == nil || len(*m) >= limit {
		*m = map[string]any{}
	}
	(*m)[key] = fact
}
