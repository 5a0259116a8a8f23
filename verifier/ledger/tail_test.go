package ledger

import "testing"

// TestTail: what was committed last is found, all of it or nothing.
func TestTail(t *testing.T) {
	t.Parallel()
	var l tail
	batch := func(from uint64, n int) (out []Record) {
		for i := range n {
			out = append(out, Record{Index: from + uint64(i), Data: make([]byte, 100)})
		}
		return out
	}
	check := func(from, to uint64, there bool) {
		t.Helper()
		found := l.between(from, to)
		if (found != nil) != there {
			t.Fatalf("entries %d to %d: %d of them, expected them: %v", from, to, len(found), there)
		}
		for i, r := range found {
			if r.Index != from+uint64(i) {
				t.Fatalf("entries %d to %d: the %d. has index %d", from, to, i, r.Index)
			}
		}
	}
	check(0, 1, false)
	l.add(nil)
	l.add(batch(10, 5))
	check(10, 15, true)
	check(12, 13, true)
	check(9, 12, false)
	check(12, 16, false)
	check(12, 12, false)
	l.add(batch(15, 5))
	check(11, 20, true)
	l.add(batch(30, 2)) // others lie between
	check(30, 32, true)
	check(15, 20, false)
	held := l.between(30, 32)
	for next := uint64(32); next < 32+3*maxTail; next += 100 {
		l.add(batch(next, 100))
		check(next, next+100, true)
		if len(l.records) > maxTail {
			t.Fatalf("it holds %d entries", len(l.records))
		}
	}
	check(30, 32, false)
	if held[0].Index != 30 || held[1].Index != 31 {
		t.Error("what was handed out has changed")
	}
	big := batch(l.first+uint64(len(l.records)), 300)
	for i := range big {
		big[i].Data = make([]byte, MaxEntry)
	}
	l.add(big)
	if l.size > maxTailBytes || len(l.records) == 0 {
		t.Errorf("it holds %d bytes in %d entries", l.size, len(l.records))
	}
	last := big[len(big)-1].Index
	check(last, last+1, true)
}
