package appraisal_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// next makes what a verdict proved the prior of the next quote, which comes a
// second later.
func (s *subject) next(v appraisal.Verdict) {
	s.t.Helper()
	s.in.Prior.Boot = v.Next()
	s.sign(func(q *tpm.Quote) { q.Clock = v.Boot.Clock + 1000 })
}

// TestRebootWithinLease, TestClearedTPM and TestClonedTPM at the level of
// counters (security rule 15): greater is a reboot, equal is the same boot with
// a later clock, anything else is closed.
func TestCounters(t *testing.T) {
	prior := appraisal.Boot{ResetCount: 5, RestartCount: 3, Clock: 1000}
	for name, c := range map[string]struct {
		reset, restart uint32
		clock          uint64
		ok             bool
	}{
		"a second later":          {5, 3, 2000, true},
		"a millisecond later":     {5, 3, 1001, true},
		"the same quote again":    {5, 3, 1000, false},
		"clock went back":         {5, 3, 999, false},
		"rebooted":                {6, 0, 0, true},
		"rebooted, clock later":   {6, 3, 9000, true},
		"resumed":                 {5, 4, 0, true},
		"cleared":                 {0, 0, 0, false},
		"cleared long ago":        {4, 9, 90000, false},
		"restart count went back": {5, 2, 90000, false},
		"most of all":             {1<<32 - 1, 1<<32 - 1, 1<<64 - 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := boot(t, "c-grub-sb")
			s.in.Prior.Boot = &prior
			s.sign(func(q *tpm.Quote) { q.ResetCount, q.RestartCount, q.Clock = c.reset, c.restart, c.clock })
			if c.ok {
				v := s.grants()
				if b := v.Boot; b.ResetCount != c.reset || b.RestartCount != c.restart || b.Clock != c.clock {
					t.Errorf("boot %+v", b)
				}
				return
			}
			s.denies("counters/clone")
		})
	}
}

// TestLogSwappedInOneBoot: two logs can replay to the same PCRs and differ in
// what no digest covers. The first proven one is the boot's; another is denied
// however often it is sent, until the machine reboots.
func TestLogSwappedInOneBoot(t *testing.T) {
	s := boot(t, "c-grub-sb")
	first := s.log
	s.next(s.grants())
	s.log = file(t, "g-keep-2/eventlog.bin") // other load addresses, the same PCRs
	for range 2 {
		s.sign(func(q *tpm.Quote) { q.Clock = s.in.Prior.Boot.Clock + 1 })
		v := s.denies("counters/boot-log-changed")
		if len(listed(v)) != 1 {
			t.Errorf("findings %q", listed(v))
		}
		s.in.Prior.Boot = v.Next()
	}
	s.log = first
	s.next(s.grantsAt(s.in.Prior.Boot.Clock + 1))
	s.log = file(t, "g-keep-2/eventlog.bin")
	s.sign(func(q *tpm.Quote) { q.ResetCount++ })
	s.grants()
}

func (s *subject) grantsAt(clock uint64) appraisal.Verdict {
	s.t.Helper()
	s.sign(func(q *tpm.Quote) { q.Clock = clock })
	return s.grants()
}

// TestUnprovenLogIsNotTheBoots: a log that was missing, broken or did not replay
// does not keep the true one out later.
func TestUnprovenLogIsNotTheBoots(t *testing.T) {
	s := boot(t, "c-grub-sb")
	good := s.log
	for _, bad := range [][]byte{nil, good[:100], file(t, "d-uki/eventlog.bin")} {
		s.log = bad
		s.sign(func(q *tpm.Quote) { q.Clock = 2000 })
		v := s.denies()
		s.in.Prior.Boot = v.Next()
		s.log = good
		s.grantsAt(3000)
		s.in.Prior.Boot = nil
	}
	s.next(s.grantsAt(4000))
	before := s.in.Prior.Boot.BootLog
	s.log = nil // left out once, it stays the boot's
	s.sign(func(q *tpm.Quote) { q.Clock = 9000 })
	if v := s.denies("boot/no-log"); v.Next().BootLog != before {
		t.Errorf("boot log %q, want %q", v.Next().BootLog, before)
	}
}

// extra is a list entry for a file that no set knows, or one it knows.
func extra(t testing.TB, list []byte, path string, content byte) []byte {
	t.Helper()
	l, err := ima.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	e := l.Entries[len(l.Entries)-1]
	return rewrite(e, path, bytes.Repeat([]byte{content}, len(e.FileDigest)))
}

// TestBadIMAEntryIsNotForgotten: what was found in a boot stays found, also when
// the list is judged on from behind it (security rule 2).
func TestBadIMAEntryIsNotForgotten(t *testing.T) {
	s := boot(t, "c-grub-sb")
	good := s.list
	l, err := ima.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	n := len(l.Entries)
	s.list = slices.Concat(good, extra(t, good, "/tmp/backdoor", 1), violation(t, good))
	s.replay()
	s.sign()
	v := s.denies(fmt.Sprintf("ima/unknown-file 10 %d", n), "ima/violation 10")
	first := listed(v)
	for range 3 {
		s.next(v)
		v = s.denies(first...)
		if got := listed(v); !slices.Equal(got, first) {
			t.Errorf("renewed: findings %q, want %q", got, first)
		}
		if v.Boot.IMA.Entries != n+2 || v.Boot.IMA.Violations != 1 || v.Boot.IMA.Offset != uint64(len(s.list)) {
			t.Errorf("renewed: %+v", v.Boot.IMA)
		}
	}
	s.list = slices.Concat(s.list, extra(t, good, "/tmp/second", 2)) // and what is new is found too
	s.replay()
	s.next(v)
	v = s.denies(append(first, fmt.Sprintf("ima/unknown-file 10 %d", n+2))...)
	s.list = good
	s.replay()
	s.in.Prior.Boot = v.Next()
	s.sign(func(q *tpm.Quote) { q.ResetCount++ })
	s.grants()
}

// TestListHiddenOnce: a renewal that leaves the list out, or sends one that does
// not replay, does not make the verifier forget what was in it.
func TestListHiddenOnce(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.list = slices.Concat(s.list, extra(t, s.list, "/tmp/backdoor", 1))
	bad := s.list
	s.replay()
	s.sign()
	v := s.denies("ima/unknown-file 10")
	for _, list := range [][]byte{nil, bad[:200], file(t, "d-uki/ima.bin")} {
		s.list = list
		s.next(v)
		v = s.denies()
		s.list = bad
		s.next(v)
		v = s.denies("ima/unknown-file 10")
	}
}

// TestWithdrawnReferenceWhileResumed: entries that an older set allowed are
// judged again under a newer one (security rule 2).
func TestWithdrawnReferenceWhileResumed(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.next(s.grants())
	v := s.grants()
	s.refs(func(r *reference.Set) { r.Generation, r.IMA.Files = 2, slices.Delete(r.IMA.Files, 5, 6) })
	s.next(v)
	v = s.denies("ima/unknown-file 10")
	s.refs(func(r *reference.Set) { r.Generation = 3 })
	s.next(v)
	s.grants()
	older := v.Next() // judged by other rules than ours: not resumed
	older.IMA.Rules, older.IMA.Findings = appraisal.Rules+1, nil
	s.refs(func(r *reference.Set) { r.Generation, r.IMA.Files = 2, slices.Delete(r.IMA.Files, 5, 6) })
	s.in.Prior.Boot = older
	s.sign(func(q *tpm.Quote) { q.Clock = 1 << 40 })
	s.denies("ima/unknown-file 10")
}

// TestLearnFromUnverified: evidence that does not verify teaches nothing
// (security rule 21); each attack of this package is tried on Examine as well.
func TestLearnFromUnverified(t *testing.T) {
	s := boot(t, "c-grub-sb")
	sample, findings := appraisal.Examine(s.in)
	if len(findings) > 0 || sample.Vendor != "WRIT" || len(sample.IMA) < 100 || sample.Log == nil {
		t.Fatalf("a good boot: %+v", findings)
	}
	for name, bend := range map[string]func(){
		"another log":  func() { s.log = file(t, "d-uki/eventlog.bin") },
		"another list": func() { s.list = file(t, "e-grub-sb-newexec/ima.bin") },
		"broken list":  func() { s.list = []byte("x") },
		"broken log":   func() { s.log = []byte("x") },
		"no log":       func() { s.log = nil },
		"event added": func() {
			s.events(func(l *eventlog.Log) { l.Events = append(l.Events, event(l, 4, eventlog.IPL, "x")) })
		},
		"old quote":         func() { s.in.Prior.Boot = &appraisal.Boot{ResetCount: 99} },
		"log of one byte":   func() { s.log = s.log[:1] },
		"nothing at all":    func() { s.log, s.list = nil, nil },
		"PCR 10 of another": func() { s.values[10] = bytes.Repeat([]byte{3}, 32) },
	} {
		s = boot(t, "c-grub-sb")
		bend()
		s.sign()
		if _, findings := appraisal.Examine(s.in); len(findings) == 0 {
			t.Errorf("learns from a boot with %s", name)
		}
	}
}
