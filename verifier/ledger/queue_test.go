package ledger

import (
	"fmt"
	"testing"
)

// TestLateDrafts takes drafts of which some came after the rows of the others
// had been asked for: a few wait for the next transaction, which is called for,
// many go along, and a revocation goes first however late it is.
func TestLateDrafts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ early, late, urgent, take int }{
		{early: 0, late: 3, take: 3}, // nothing was asked for
		{early: 1, late: 1, take: 2},
		{early: 8, late: 0, take: 8},
		{early: 8, late: 1, take: 8},
		{early: 8, late: 2, take: 10},
		{early: 8, urgent: 1, take: 8},
		{early: maxBatch + 9, late: 1, take: maxBatch},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			t.Parallel()
			q := queue{wake: make(chan struct{}, 1)}
			put := func(n int, name string, urgent bool) {
				for i := range n {
					d := Draft{Keys: []Key{{name, fmt.Sprint(i)}, {"shared", ""}}, Urgent: urgent}
					if err := q.put(&request{draft: d}); err != nil {
						t.Fatal(err)
					}
				}
			}
			put(tt.early, "early", false)
			keys, known := q.keys()
			if want := min(tt.early, maxBatch); known != want || want > 0 && len(keys) != want+1 {
				t.Errorf("keys = %d of %d drafts, want those of %d, each once", len(keys), known, want)
			}
			put(tt.late, "late", false)
			put(tt.urgent, "urgent", true)
			<-q.wake
			taken := q.take(known)
			if len(taken) != tt.take {
				t.Errorf("took %d drafts, want %d", len(taken), tt.take)
			}
			if tt.urgent > 0 && !taken[0].draft.Urgent {
				t.Error("an urgent draft waits behind others")
			}
			if rest := tt.early + tt.late + tt.urgent - tt.take; rest != q.length() || (rest > 0) != (len(q.wake) == 1) {
				t.Errorf("%d drafts are left, want %d; called for: %d", q.length(), rest, len(q.wake))
			}
		})
	}
}
