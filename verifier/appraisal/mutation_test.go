package appraisal_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestEveryMutationDenies changes single bytes of granted evidence, every one of
// the quote and signature and a sample of the rest: none is granted, none panics.
func TestEveryMutationDenies(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.grants()
	good := s.in.Evidence
	tried := 0
	try := func(what string, at int, e *evidence.Evidence) {
		t.Helper()
		in := *s.in
		in.Evidence = e
		tried++
		if v := appraisal.Appraise(&in); v.Granted() {
			t.Errorf("granted with byte %d of %s changed", at, what)
		}
	}
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1 << (i % 8)
		return b
	}
	with := func(change func(*evidence.Evidence)) *evidence.Evidence {
		e := evidence.New(good.Quote)
		for _, l := range []string{evidence.BindKey, evidence.Ask, evidence.UEFILog, evidence.IMALog} {
			e.Set(l, good.Item(l))
		}
		change(e)
		return e
	}
	for i := range good.Quote.Attest {
		try("the quote", i, with(func(e *evidence.Evidence) { e.Quote.Attest = flip(e.Quote.Attest, i) }))
	}
	for i := range good.Quote.Signature {
		try("the signature", i, with(func(e *evidence.Evidence) { e.Quote.Signature = flip(e.Quote.Signature, i) }))
	}
	for p, v := range good.Quote.Values {
		try("a PCR value", p, with(func(e *evidence.Evidence) {
			e.Quote.Values = maps.Clone(e.Quote.Values)
			e.Quote.Values[p] = flip(v, p)
		}))
	}
	for _, l := range []struct {
		label string
		step  int
	}{{evidence.BindKey, 1}, {evidence.Ask, 1}, {evidence.UEFILog, 151}, {evidence.IMALog, 89}} {
		content := good.Item(l.label).Content
		for i := 0; i < len(content); i += l.step {
			try(l.label, i, with(func(e *evidence.Evidence) { e.Set(l.label, evidence.Item{Content: flip(content, i)}) }))
		}
	}
	for i := range s.in.Challenge.Nonce {
		in := *s.in
		in.Challenge.Nonce = flip(in.Challenge.Nonce, i)
		tried++
		if v := appraisal.Appraise(&in); v.Granted() {
			t.Errorf("granted with byte %d of the nonce changed", i)
		}
	}
	for i := range s.in.Prior.AK {
		in := *s.in
		in.Prior.AK = flip(in.Prior.AK, i)
		tried++
		if v := appraisal.Appraise(&in); v.Granted() {
			t.Errorf("granted with byte %d of the attestation key changed", i)
		}
	}
	t.Logf("%d mutations, none granted", tried)
}

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
