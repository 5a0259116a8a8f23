package ledger

// tail is what this process committed last, so that whoever follows the log does not
// have the store read again what was just written to it. It is a cache of stored
// entries, nothing more; what other verifiers append is not in it.
type tail struct {
	first   uint64 // index of records[0]
	records []Record
	size    int // bytes of their leaves
}

// How much the tail holds at most.
const (
	maxTail      = 4 * pageOfFind
	maxTailBytes = 8 << 20
)

// add appends what a batch committed.
func (t *tail) add(records []Record) {
	if len(records) == 0 {
		return
	}
	if records[0].Index != t.first+uint64(len(t.records)) { // another verifier's lie between
		*t = tail{first: records[0].Index}
	}
	t.records = append(t.records, records...)
	for _, r := range records {
		t.size += len(r.Data)
	}
	for len(t.records) > maxTail || t.size > maxTailBytes {
		t.halve()
	}
}

// halve forgets the older half, in a new array, so that what was handed out stays
// what it is.
func (t *tail) halve() {
	kept := append([]Record(nil), t.records[(len(t.records)+1)/2:]...)
	*t = tail{first: t.first + uint64((len(t.records)+1)/2), records: kept}
	for _, r := range kept {
		t.size += len(r.Data)
	}
}

// between returns the entries from up to, not including, to, or nil if the tail does
// not have all of them. They must not be changed.
func (t *tail) between(from, to uint64) []Record {
	if from < t.first || to > t.first+uint64(len(t.records)) || from >= to {
		return nil
	}
	return t.records[from-t.first : to-t.first : to-t.first]
}
