package appraisal_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestLyingNode has the node itself sign a changed boot log: it is granted only
// where the change is in what no digest covers, and the PCRs are the same.
func TestLyingNode(t *testing.T) {
	s := boot(t, "c-grub-sb")
	good, want := s.log, maps.Clone(s.values)
	granted := 0
	for i := 0; i < len(good); i += 61 {
		s.log = bytes.Clone(good)
		s.log[i] ^= 0x10
		s.sign()
		if v := appraisal.Appraise(s.in); !v.Granted() {
			continue
		}
		granted++
		l, err := eventlog.Parse(s.log)
		if err != nil {
			t.Fatalf("granted on a log that does not parse, byte %d changed", i)
		}
		values, err := l.Replay(tpm.AlgSHA256)
		if err != nil {
			t.Fatalf("granted on a log that does not replay, byte %d changed", i)
		}
		for p, v := range values {
			if p != 1 && p != 5 && !bytes.Equal(v, want[p]) { // not ignored ones
				t.Errorf("granted on a log that gives PCR %d another value, byte %d changed", p, i)
			}
		}
	}
	if granted == 0 {
		t.Error("no change was granted, though much of a log is covered by no digest")
	}
}

// FuzzAppraise has a node sign any two logs it likes. Whatever it says, the
// verdict is the same twice, and a grant means that every required claim is
// affirming, that nothing was found and that PCR 4 holds what the set lists.
func FuzzAppraise(f *testing.F) {
	for _, name := range []string{"c-grub-sb", "g-keep-2", "d-uki", "e-grub-sb-newexec"} {
		s := boot(f, name)
		f.Add(s.log, s.list)
		f.Add(s.log[:len(s.log)/2], s.list[:len(s.list)/2])
	}
	s := boot(f, "c-grub-sb")
	known := rule(learnt(), 4).Events
	f.Fuzz(func(t *testing.T, log, list []byte) {
		s := *s
		in := *s.in
		s.t, s.in, s.log, s.list = t, &in, log, list
		if _, err := eventlog.Parse(log); err == nil {
			s.tryReplay()
		}
		s.sign()
		v := appraisal.Appraise(s.in)
		if again := appraisal.Appraise(s.in); !bytes.Equal(v.Marshal(), again.Marshal()) {
			t.Fatal("two verdicts on one input")
		}
		if !v.Granted() {
			return
		}
		for _, c := range s.in.References.Set.Required {
			if appraisal.TierOf(v.Vector.Claim(c)) != appraisal.Affirming {
				t.Fatalf("granted with %s %d", c, v.Vector.Claim(c))
			}
		}
		if len(v.Findings) > 0 {
			t.Fatalf("granted with findings %q", listed(v))
		}
		l, err := eventlog.Parse(log)
		if err != nil {
			t.Fatal("granted on a log that does not parse")
		}
		n := 0
		for i := range l.Events {
			if e := &l.Events[i]; e.PCR == 4 && e.Measured() {
				if n >= len(known) || known[n].Judge(hexed(e.Digest(tpm.AlgSHA256))) != reference.Allowed {
					t.Fatal("granted with another event in PCR 4")
				}
				n++
			}
		}
		if n != len(known) {
			t.Fatalf("granted with %d events in PCR 4, want %d", n, len(known))
		}
	})
}

// TestEveryClaimIsNeeded: each claim, alone, keeps a set that requires it from
// granting, and is not affirmed where it is not required.
func TestEveryClaimIsNeeded(t *testing.T) {
	for _, bend := range []struct {
		claim string
		with  func(*subject)
	}{
		{reference.Hardware, func(s *subject) { s.in.References.EKRoots = nil }},
		{reference.Executables, func(s *subject) { s.list = slices.Concat(s.list, extra(s.t, s.list, "/tmp/x", 1)) }},
		{reference.Configuration, func(s *subject) {
			s.events(func(l *eventlog.Log) { l.Events = append(l.Events, event(l, 7, eventlog.IPL, "x")) })
		}},
		{reference.InstanceIdentity, func(s *subject) { s.in.Prior.Boot = &appraisal.Boot{ResetCount: 1 << 31} }},
	} {
		s := boot(t, "c-grub-sb")
		bend.with(s)
		aggregate(t, s)
		s.denies()
		s.refs(func(r *reference.Set) {
			r.Required = slices.DeleteFunc(r.Required, func(c string) bool { return c == bend.claim })
		})
		if v := s.grants(); appraisal.TierOf(v.Vector.Claim(bend.claim)) == appraisal.Affirming {
			t.Errorf("%s is affirmed though something was found against it", bend.claim)
		}
	}
}
