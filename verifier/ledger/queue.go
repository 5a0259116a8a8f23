package ledger

import "sync"

// maxBatch is the most drafts that one transaction takes.
const maxBatch = 512

// request is a draft on its way.
type request struct {
	draft  Draft
	blobs  []Blob      // the draft's, packed
	answer chan answer // buffered: the committer never waits for its callers
}

// queue holds the drafts that no transaction has taken yet. Batches form in it
// by themselves while the previous commit runs.
type queue struct {
	wake chan struct{} // 1 buffered: there is something to take

	mu     sync.Mutex
	urgent []*request
	normal []*request
	closed bool
}

func (q *queue) put(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	if r.draft.Urgent {
		q.urgent = append(q.urgent, r)
	} else {
		q.normal = append(q.normal, r)
	}
	q.signal()
	return nil
}

// keys returns the keys of the drafts that a transaction would take now, and
// how many those are.
func (q *queue) keys() (keys []Key, drafts int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	seen := map[Key]bool{}
	for _, from := range [][]*request{q.urgent, q.normal} {
		for _, r := range from[:min(len(from), maxBatch-drafts)] {
			drafts++
			for _, k := range r.draft.Keys {
				if !seen[k] {
					seen[k] = true
					keys = append(keys, k)
				}
			}
		}
	}
	return keys, drafts
}

// take removes up to maxBatch requests, the urgent ones first. Of more than
// known, whose rows have been read, it leaves the rest for the next transaction
// when that is few: they are not worth a round trip of their own.
func (q *queue) take(known int) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	most := maxBatch
	if late := len(q.urgent) + len(q.normal) - known; late < known/4 {
		most = min(most, known)
	}
	var out []*request
	for _, from := range []*[]*request{&q.urgent, &q.normal} {
		n := min(len(*from), most-len(out))
		out = append(out, (*from)[:n]...)
		clear((*from)[:n])
		*from = (*from)[n:]
	}
	if len(q.urgent)+len(q.normal) > 0 {
		q.signal()
	}
	return out
}

// remove takes out one request, and reports whether it was still there.
func (q *queue) remove(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, from := range []*[]*request{&q.urgent, &q.normal} {
		for i, x := range *from {
			if x == r {
				*from = append((*from)[:i], (*from)[i+1:]...)
				return true
			}
		}
	}
	return false
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.urgent) + len(q.normal)
}

// close refuses what comes and drops what waits.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, r := range append(q.urgent, q.normal...) {
		r.answer <- answer{err: ErrClosed}
	}
	q.urgent, q.normal = nil, nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
