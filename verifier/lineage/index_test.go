package lineage

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// grown is a log of runs on two nodes: a starts b and c, c starts d; somebody else
// writes of run a, too.
func grown(t *testing.T, x *Index) []ledger.Leaf {
	t.Helper()
	var leaves []ledger.Leaf
	add := func(kind, subject string, data any) {
		raw, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, ledger.Leaf{Kind: kind, At: 1_800_000_000 + 10*int64(len(leaves)), Subject: subject, Actor: "verifier/1", Data: raw})
	}
	life := func(i int) int64 { return 1_800_000_000 + 10*int64(i) + 60 }
	add(bundle.VerifierStarted, "verifier/1", bundle.Started{})
	add(bundle.Issued, "n1", bundle.Decision{Decision: "grant", Token: &bundle.Token{ID: "1"}})
	add(bundle.Admitted, "n1", bundle.Token{ID: "2", Exec: "a", Level: "E3", Base: 1, Expires: life(2)})
	add(bundle.Issued, "n2", bundle.Decision{Decision: "grant", Token: &bundle.Token{ID: "3"}})
	add(bundle.Admitted, "n2", bundle.Token{ID: "4", Exec: "b", Parent: "a", Base: 3, Expires: life(4)})
	add(bundle.Admitted, "n1", bundle.Token{ID: "5", Exec: "c", Parent: "a", Base: 1, Expires: life(5), Workload: "sha256:00", WorkloadBasis: "asserted"})
	add(bundle.Admitted, "n1", bundle.Token{ID: "6", Exec: "d", Parent: "c", Base: 1, Expires: life(6)})
	add(bundle.Admitted, "n2", bundle.Token{ID: "7", Exec: "a", Base: 3, Expires: life(700)})
	add(bundle.Terminated, "n2", bundle.Stop{Exec: "a", Cause: "forged"})
	add(bundle.Admitted, "n1", bundle.Token{ID: "8", Exec: "c", Parent: "a", Base: 1, Expires: life(9), Workload: "sha256:00", WorkloadBasis: "measured"})
	add(bundle.Terminated, "n1", bundle.Stop{Exec: "a", Cause: "revoked", Confirmed: true, LatencyUS: 1500})
	for i, leaf := range leaves {
		if err := x.Add(uint64(i), leaf); err != nil {
			t.Fatal(err)
		}
	}
	return leaves
}

func ids(found []Summary) string {
	var out []string
	for _, f := range found {
		out = append(out, f.Exec)
	}
	return strings.Join(out, " ")
}

func TestFind(t *testing.T) {
	x := NewIndex(0)
	leaves := grown(t, x)
	if x.Next() != uint64(len(leaves)) {
		t.Errorf("next is %d", x.Next())
	}
	at := func(i int) int64 { return leaves[i].At }
	for name, c := range map[string]struct {
		q    Query
		most int
		want string
		more bool
	}{
		"all":              {Query{}, 9, "d c b a", false},
		"a page":           {Query{}, 2, "d c", true},
		"the next":         {Query{Before: 5}, 2, "b a", false},
		"part of an id":    {Query{Text: "b"}, 9, "b", false},
		"a node":           {Query{Nodes: []string{"x", "n2"}}, 9, "b", false},
		"nobody's":         {Query{Nodes: []string{"x"}}, 9, "", false},
		"after all":        {Query{From: at(10) + 3600}, 9, "", false},
		"until the tokens": {Query{From: at(9) + 31}, 9, "c", false},
		"before any":       {Query{To: at(2) - 1}, 9, "", false},
		"the first":        {Query{To: at(2)}, 9, "a", false},
	} {
		if got, more := x.Find(c.q, c.most); ids(got) != c.want || more != c.more {
			t.Errorf("%s: %s %v, want %s %v", name, ids(got), more, c.want, c.more)
		}
	}
	got, _ := x.Find(Query{Text: "a"}, 1)
	if a := got[0]; a.Tokens != 1 || !a.Ended || a.Cause != "revoked" || !a.Confirmed || a.LatencyUS != 1500 || a.Children != 2 || a.Node != "n1" || a.Entry != 2 {
		t.Errorf("a is %+v: another node's word counts for nothing", a)
	}
	if got, _ := x.Find(Query{Text: "c"}, 1); got[0].Basis != "measured" {
		t.Errorf("c is %+v", got[0])
	}
}

// TestIndexedLineageIsTheWholeLogs: what is told from the entries that the index
// names is what the whole log tells.
func TestIndexedLineageIsTheWholeLogs(t *testing.T) {
	x := NewIndex(0)
	leaves := grown(t, x)
	tell := func(indices []uint64, exec string) string {
		var l Log
		for _, i := range indices {
			if err := l.Add(i, leaves[i]); err != nil {
				t.Fatal(err)
			}
		}
		out, err := l.Of("a.invalid", exec)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := out.Native()
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	var all []uint64
	for i := range leaves {
		all = append(all, uint64(i))
	}
	for _, exec := range []string{"a", "b", "c", "d"} {
		some, _, omitted, short, err := x.Entries(exec, 100, 100)
		if err != nil || omitted+short != 0 {
			t.Fatalf("%s: %d and %d omitted, %v", exec, omitted, short, err)
		}
		if got, want := tell(some, exec), tell(all, exec); got != want {
			t.Errorf("%s from %v:\n%s\nfrom all:\n%s", exec, some, got, want)
		}
	}
	if _, _, _, _, err := x.Entries("e", 100, 100); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown run: %v", err)
	}
}

// TestManyRuns: an index has an end, and so has what is told of one run.
func TestManyRuns(t *testing.T) {
	x := NewIndex(0)
	x.most = 3
	index := uint64(0)
	admit := func(exec, parent string) {
		raw, err := json.Marshal(bundle.Token{Exec: exec, Parent: parent})
		if err == nil {
			err = x.Add(index, ledger.Leaf{Kind: bundle.Admitted, Subject: "n", Data: raw})
		}
		if err != nil {
			t.Fatal(err)
		}
		index++
	}
	for i := range 5 {
		admit(fmt.Sprintf("run-%d", i), "")
	}
	if got, more := x.Find(Query{}, 9); ids(got) != "run-4 run-3 run-2" || more || len(x.runs) != 3 || x.events != 3 {
		t.Errorf("kept %s, %d, %d", ids(got), len(x.runs), x.events)
	}
	for range 100 {
		admit("run-4", "")
	}
	some, _, omitted, short, err := x.Entries("run-4", 8, 4)
	if err != nil || omitted != 93 || short != 0 || fmt.Sprint(some) != "[0 4 5 99 100 101 102 103 104]" {
		t.Errorf("%v, %d omitted, %v", some, omitted, err)
	}
	admit("child", "run-4")
	if _, _, omitted, short, err := x.Entries("child", 8, 4); err != nil || omitted != 0 || short != 97 {
		t.Errorf("%d omitted, %d of its parent, %v", omitted, short, err)
	}
	admit("x", "y") // parents in a circle
	admit("y", "x")
	if some, _, _, _, err := x.Entries("x", 8, 8); err != nil || len(some) == 0 {
		t.Errorf("%v, %v", some, err)
	}
}

// TestStrangers: a child whose parent the log does not have is found by its parent's
// name, until it is forgotten; one of a known parent is not a stranger's.
func TestStrangers(t *testing.T) {
	x := NewIndex(2)
	for i, run := range [][2]string{{"a", "far"}, {"b", "far"}, {"c", "b"}} {
		raw, err := json.Marshal(bundle.Token{Exec: run[0], Parent: run[1]})
		if err == nil {
			err = x.Add(uint64(i), ledger.Leaf{Kind: bundle.Admitted, Subject: "n", Data: raw})
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"a", "a b", "b"}[i]; ids(x.Strangers("far", 9)) != want {
			t.Errorf("after %d: %s, want %s", i, ids(x.Strangers("far", 9)), want)
		}
	}
	if got := x.Strangers("b", 9); got != nil || !x.Has("b") || x.Has("a") || x.Has("far") {
		t.Errorf("%v", got)
	}
	if got := x.Strangers("far", 0); len(got) != 0 || len(x.strange) != 1 {
		t.Errorf("%v of %v", got, x.strange)
	}
}
