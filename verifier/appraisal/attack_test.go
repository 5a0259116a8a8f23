package appraisal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestUntouched: the subject the attacks below start from is granted, or they
// would prove nothing.
func TestUntouched(t *testing.T) {
	v := boot(t, "c-grub-sb").grants()
	if want := (appraisal.Vector{InstanceIdentity: 2, Configuration: 3, Executables: 2, Hardware: 2}); v.Vector != want || v.Tier != appraisal.Affirming {
		t.Errorf("vector %+v, tier %s", v.Vector, v.Tier)
	}
	boot(t, "g-keep-2").grants()
}

// TestZeroVerdictDenies: absence denies, at every door.
func TestZeroVerdictDenies(t *testing.T) {
	var zero appraisal.Verdict
	if zero.Granted() {
		t.Error("the zero Verdict grants")
	}
	for _, d := range []string{"", "deny", "GRANT", "grant ", "granted"} {
		if (&appraisal.Verdict{Decision: d, Tier: appraisal.Affirming}).Granted() {
			t.Errorf("decision %q grants", d)
		}
	}
	good := boot(t, "c-grub-sb").in
	for name, in := range map[string]*appraisal.Input{
		"nothing":             {},
		"evidence alone":      {Evidence: good.Evidence},
		"empty evidence":      {Rules: appraisal.Rules, Evidence: evidence.New(evidence.Quote{}), Challenge: good.Challenge, Prior: good.Prior, References: good.References, At: at},
		"no challenge":        {Rules: appraisal.Rules, Evidence: good.Evidence, Prior: good.Prior, References: good.References, At: at},
		"no prior":            {Rules: appraisal.Rules, Evidence: good.Evidence, Challenge: good.Challenge, References: good.References, At: at},
		"no references":       {Rules: appraisal.Rules, Evidence: good.Evidence, Challenge: good.Challenge, Prior: good.Prior, At: at},
		"no time":             {Rules: appraisal.Rules, Evidence: good.Evidence, Challenge: good.Challenge, Prior: good.Prior, References: good.References},
		"other rules":         {Rules: appraisal.Rules + 1, Evidence: good.Evidence, Challenge: good.Challenge, Prior: good.Prior, References: good.References, At: at},
		"rules of no version": {Evidence: good.Evidence, Challenge: good.Challenge, Prior: good.Prior, References: good.References, At: at},
	} {
		v := appraisal.Appraise(in)
		if v.Granted() || len(v.Findings) == 0 {
			t.Errorf("%s: %s with %d findings", name, v.Decision, len(v.Findings))
		}
	}
}

// TestQuoteOfAnother: a quote counts for one key, challenge, domain, node and
// purpose (security rules 7 and 16).
func TestQuoteOfAnother(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(*subject)
		want string
	}{
		"nonce":       {func(s *subject) { s.in.Challenge.Nonce = bytes.Repeat([]byte{8}, 32) }, "quote/binding"},
		"domain":      {func(s *subject) { s.in.Challenge.Domain = "lab2.invalid" }, "quote/binding"},
		"node":        {func(s *subject) { s.in.Challenge.Node = "edon" }, "quote/binding"},
		"purpose":     {func(s *subject) { s.in.Challenge.Purpose = evidence.Collection }, "quote/binding"},
		"no purpose":  {func(s *subject) { s.in.Challenge.Purpose = 0 }, "quote/binding"},
		"short nonce": {func(s *subject) { s.in.Challenge.Nonce = []byte("short") }, "quote/challenge"},
		"long nonce":  {func(s *subject) { s.in.Challenge.Nonce = make([]byte, 33) }, "quote/challenge"},
		"no nonce":    {func(s *subject) { s.in.Challenge.Nonce = nil }, "quote/challenge"},
		"raw binding": {func(s *subject) { s.in.Challenge.Binding = appraisal.BoundRaw }, "quote/binding"},
		"no binding":  {func(s *subject) { s.in.Challenge.Binding = "" }, "quote/challenge"},
		"request":     {func(s *subject) { s.in.Evidence.Set(evidence.Ask, evidence.Item{Content: []byte("{}")}) }, "quote/binding"},
		"bind-key":    {func(s *subject) { s.in.Evidence.Set(evidence.BindKey, evidence.Item{Content: []byte("{}")}) }, "quote/binding"},
		"extra item":  {func(s *subject) { s.in.Evidence.Set(evidence.EKCert, evidence.Item{Content: []byte("x")}) }, "quote/binding"},
		"boot log":    {func(s *subject) { s.in.Evidence.Set(evidence.UEFILog, evidence.Item{Content: s.log[1:]}) }, "quote/binding"},
		"attestation key": {func(s *subject) {
			k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			s.in.Prior.AK = akPublic(k)
		}, "quote/signature"},
		"no attestation key": {func(s *subject) { s.in.Prior.AK = nil }, "evidence/key"},
		"key with another attribute": {func(s *subject) { // noDA cleared: not our template
			s.in.Prior.AK[6] &^= 4
			s.sign()
		}, "quote/key-template"},
		"unrestricted key": {func(s *subject) { s.in.Prior.AK[5] &^= 1 }, "quote/signature"},
		"key of the owner hierarchy": {func(s *subject) {
			s.sign(func(q *tpm.Quote) {
				ak, _ := tpm.ParsePublic(s.in.Prior.AK)
				sum := sha256.Sum256(append([]byte{0x40, 0, 0, 1}, ak.Name()...))
				q.Signer = append([]byte{0, 0x0b}, sum[:]...)
			})
		}, "quote/signer"},
		"signature cut": {func(s *subject) { s.in.Evidence.Quote.Signature = s.in.Evidence.Quote.Signature[:40] }, "quote/signature"},
		"no signature":  {func(s *subject) { s.in.Evidence.Quote.Signature = nil }, "quote/signature"},
		"not a quote":   {func(s *subject) { s.resign([]byte("\xffTCG\x80\x17")) }, "quote/signature"},
		"wrong magic": {func(s *subject) {
			b := bytes.Clone(s.in.Evidence.Quote.Attest)
			b[0] = 0
			s.resign(b)
		}, "quote/signature"},
	} {
		s := boot(t, "c-grub-sb")
		c.bend(s)
		v := s.denies(c.want)
		if len(v.Findings) > 2 || v.Boot != nil || v.Tier != appraisal.None {
			t.Errorf("another %s: evidence that is not authentic was judged: %s", name, v.Marshal())
		}
		if _, findings := appraisal.Examine(s.in); len(findings) == 0 {
			t.Errorf("another %s: fit to learn from", name)
		}
	}
}

// resign signs other bytes with the subject's key.
func (s *subject) resign(attest []byte) {
	s.in.Evidence.Quote.Attest, s.in.Evidence.Quote.Signature = attest, signature(s.t, s.key, attest)
}

// TestValueOutsideSelection: only values of the signed selection exist, and only
// together (security rule 6).
func TestValueOutsideSelection(t *testing.T) {
	for name, bend := range map[string]func(map[int][]byte){
		"one more":       func(v map[int][]byte) { v[16] = make([]byte, 32) },
		"one fewer":      func(v map[int][]byte) { delete(v, 12) },
		"one changed":    func(v map[int][]byte) { v[12] = bytes.Repeat([]byte{1}, 32) },
		"one too short":  func(v map[int][]byte) { v[12] = v[12][:31] },
		"two swapped":    func(v map[int][]byte) { v[4], v[7] = v[7], v[4] },
		"none":           func(v map[int][]byte) { clear(v) },
		"bytes moved on": func(v map[int][]byte) { v[12], v[13] = v[12][:31], append([]byte{v[12][31]}, v[13]...) },
	} {
		s := boot(t, "c-grub-sb")
		bend(s.in.Evidence.Quote.Values)
		s.denies("quote/pcr-digest")
		if _, f := appraisal.Examine(s.in); len(f) == 0 {
			t.Errorf("%s: fit to learn from", name)
		}
	}
}

// TestTooFewPCRs: leaving any judged PCR out of the quote denies.
func TestTooFewPCRs(t *testing.T) {
	for p := range 16 {
		s := boot(t, "c-grub-sb")
		delete(s.values, p)
		s.sign()
		if p == 1 || p == 5 { // ignored by the set, but the boot_aggregate covers them
			s.denies("ima/boot-aggregate 10 0")
		} else {
			s.denies(fmt.Sprintf("quote/selection %d", p))
		}
	}
	s := boot(t, "c-grub-sb")
	s.values = nil
	s.sign()
	s.denies("quote/pcr-digest")
}

// TestUnlistedPCR: a PCR the set does not speak of denies.
func TestUnlistedPCR(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.values[23] = make([]byte, 32)
	s.sign()
	s.denies("reference/pcr-unlisted 23")
}

// TestForgedEventType: no digest covers an event's type, so none exempts
// (security rule 21).
func TestForgedEventType(t *testing.T) {
	for _, typ := range []eventlog.Type{eventlog.Separator, eventlog.Action, eventlog.EFIAction, eventlog.SCRTMVersion, eventlog.IPL, eventlog.HCRTM, eventlog.BootServicesApp, 0, 0x8401, 0xffffffff} {
		s := boot(t, "c-grub-sb")
		var index int
		s.events(func(l *eventlog.Log) {
			index = len(l.Events)
			l.Events = append(l.Events, event(l, 4, typ, "a foreign boot application"))
		})
		s.replay()
		s.sign()
		s.denies(fmt.Sprintf("boot/unknown-event 4 %d", index))
	}
	s := boot(t, "c-grub-sb") // hidden as an event that extends nothing
	s.events(func(l *eventlog.Log) { l.Events = append(l.Events, event(l, 4, eventlog.IPL, "foreign")) })
	s.replay()
	s.events(func(l *eventlog.Log) { l.Events[len(l.Events)-1].Type = eventlog.NoAction })
	s.sign()
	s.denies("boot/replay 4")
}

// TestLogThatDoesNotReplay: every event in place, or the log explains nothing.
func TestLogThatDoesNotReplay(t *testing.T) {
	last := func(l *eventlog.Log, pcr uint32) int {
		for i := len(l.Events) - 1; ; i-- {
			if l.Events[i].PCR == pcr && l.Events[i].Measured() {
				return i
			}
		}
	}
	for name, edit := range map[string]func(*eventlog.Log){
		"dropped":    func(l *eventlog.Log) { i := last(l, 4); l.Events = slices.Delete(l.Events, i, i+1) },
		"repeated":   func(l *eventlog.Log) { i := last(l, 4); l.Events = slices.Insert(l.Events, i, l.Events[i]) },
		"relabelled": func(l *eventlog.Log) { l.Events[last(l, 4)].Type = eventlog.NoAction },
		"moved":      func(l *eventlog.Log) { l.Events[last(l, 4)].PCR = 5 },
		"hidden":     func(l *eventlog.Log) { l.Events[last(l, 4)].PCR = 0xffffffff },
		"swapped": func(l *eventlog.Log) { // not the kernel, which is measured twice
			i, j := last(l, 4), slices.IndexFunc(l.Events, func(e eventlog.Event) bool { return e.PCR == 4 })
			l.Events[i], l.Events[j] = l.Events[j], l.Events[i]
		},
		"another digest": func(l *eventlog.Log) {
			for _, d := range l.Events[last(l, 4)].Digests {
				d.Sum[0] ^= 1
			}
		},
	} {
		s := boot(t, "c-grub-sb")
		s.log = bytes.Clone(s.log)
		s.events(edit)
		s.sign()
		v := s.denies("boot/replay 4")
		if v.Boot.BootLog != "" {
			t.Errorf("%s: a log that does not replay became the boot's", name)
		}
		if _, f := appraisal.Examine(s.in); len(f) == 0 {
			t.Errorf("%s: fit to learn from", name)
		}
	}
	s := boot(t, "c-grub-sb")
	s.log = s.log[:len(s.log)-1]
	s.sign()
	s.denies("boot/log-malformed")
	s.log = nil
	s.sign()
	s.denies("boot/no-log")
}

// TestEmptyReferenceSet: an empty set, or an empty piece of one, denies
// (security rule 20).
func TestEmptyReferenceSet(t *testing.T) {
	for name, c := range map[string]struct {
		empty func(*reference.Set)
		want  []string
	}{
		"no PCRs":              {func(s *reference.Set) { s.PCRs = nil }, []string{"reference/section 0", "reference/section 4", "reference/section 7", "reference/pcr-unlisted 4"}},
		"PCR 4 left out":       {func(s *reference.Set) { s.PCRs = slices.Delete(s.PCRs, 4, 5) }, []string{"reference/section 4", "reference/pcr-unlisted 4"}},
		"PCR 4 ignored":        {func(s *reference.Set) { rule(s, 4).Rule = reference.Ignore }, []string{"reference/section 4"}},
		"PCR 7 ignored":        {func(s *reference.Set) { rule(s, 7).Rule = reference.Ignore }, []string{"reference/section 7"}},
		"no events":            {func(s *reference.Set) { rule(s, 4).Events = nil }, []string{"boot/unknown-event 4"}},
		"an empty alternative": {func(s *reference.Set) { rule(s, 4).Events[1].Allow = nil }, []string{"boot/unknown-event 4"}},
		"no vendors":           {func(s *reference.Set) { s.TPM.Vendors = nil }, []string{"tpm/vendor"}},
		"no files":             {func(s *reference.Set) { s.IMA.Files = nil }, []string{"ima/unknown-file 10 1"}},
		"no IMA section":       {func(s *reference.Set) { s.IMA = nil }, []string{"reference/pcr-unlisted 10"}},
		"no Secure Boot word":  {func(s *reference.Set) { s.SecureBoot = "" }, []string{"reference/section"}},
		"a claim nobody makes": {func(s *reference.Set) { s.Required = append(s.Required, reference.FileSystem) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := boot(t, "c-grub-sb")
			s.refs(c.empty)
			s.denies(c.want...)
		})
	}
	s := boot(t, "c-grub-sb")
	s.in.References.Set = nil
	v := s.denies("reference/none")
	if v.Vector != (appraisal.Vector{}) {
		t.Errorf("without references something is claimed: %+v", v.Vector)
	}
}

// TestUnjudgedClaim: what a set does not judge is not claimed, also where it is
// not required.
func TestUnjudgedClaim(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.refs(func(r *reference.Set) {
		r.Required = []string{reference.InstanceIdentity}
		for i := range r.PCRs {
			r.PCRs[i].Rule, r.PCRs[i].Why = reference.Ignore, "quote only"
		}
	})
	if v := s.grants(); v.Vector != (appraisal.Vector{InstanceIdentity: 2}) {
		t.Errorf("vector %+v, want the identity alone", v.Vector)
	}
}

// TestExpiredReferenceSet: a set counts from its first to before its last second,
// and no verdict outlives it (security rule 5).
func TestExpiredReferenceSet(t *testing.T) {
	for _, c := range []struct {
		from, to int64
		ok       bool
	}{
		{0, 0, true}, {at, 0, true}, {at, at + 1, true}, {0, at + 1, true},
		{at + 1, 0, false}, {0, at, false}, {0, at - 1, false}, {at + 1, at - 1, false}, {0, -1, false},
	} {
		s := boot(t, "c-grub-sb")
		s.refs(func(r *reference.Set) { r.NotBefore, r.NotAfter = c.from, c.to })
		if !c.ok {
			s.denies("reference/validity")
			continue
		}
		if v := s.grants(); c.to != 0 && v.Until != c.to {
			t.Errorf("a set until %d gives a verdict until %d", c.to, v.Until)
		}
	}
}

// TestWrongClass: the set is that of the class the operator gave, whatever the
// machine looks like (security rule 20).
func TestWrongClass(t *testing.T) {
	for _, class := range []string{"", "web", "LAB", "lab "} {
		s := boot(t, "c-grub-sb")
		s.in.Prior.Class = class
		s.denies("reference/class")
	}
}

// TestEKCertificateExpired and the rest of what can be wrong with a TPM's
// endorsement: it never affirms the hardware.
func TestEKCertificateExpired(t *testing.T) {
	for name, fault := range map[string]swtpm.Fault{"expired": swtpm.FaultExpired, "no EKU": swtpm.FaultMissingEKU, "a CA": swtpm.FaultIsCA, "unknown maker": swtpm.FaultWrongCA} {
		s := boot(t, "c-grub-sb")
		e := made(t, fault)
		s.in.Prior.EKCertificates, s.in.Prior.EKChain, s.in.References.EKRoots = [][]byte{e.cert}, e.chain, [][]byte{e.root}
		if v := s.denies("tpm/ek-certificate"); v.Vector.Hardware != 97 || v.Vector.Executables != 2 {
			t.Errorf("%s: vector %+v", name, v.Vector)
		}
	}
	bad := made(t, swtpm.FaultWrongCA)
	for name, bend := range map[string]func(*appraisal.Input){
		"no certificate": func(in *appraisal.Input) { in.Prior.EKCertificates = nil },
		"not one":        func(in *appraisal.Input) { in.Prior.EKCertificates = [][]byte{[]byte("x")} },
		"no roots":       func(in *appraisal.Input) { in.References.EKRoots = nil },
		"foreign roots":  func(in *appraisal.Input) { in.References.EKRoots = [][]byte{bad.root} },
		"root in chain": func(in *appraisal.Input) {
			in.Prior.EKChain, in.References.EKRoots = append(in.Prior.EKChain, in.References.EKRoots...), nil
		},
		"a bad second": func(in *appraisal.Input) { in.Prior.EKCertificates = append(in.Prior.EKCertificates, bad.cert) },
		"long ago":     func(in *appraisal.Input) { in.At -= 365 * 86400 },
		"in 20 years":  func(in *appraisal.Input) { in.At += 20 * 365 * 86400 },
	} {
		t.Run(name, func(t *testing.T) {
			s := boot(t, "c-grub-sb")
			bend(s.in)
			s.denies("tpm/ek-certificate")
		})
	}
}

// TestUnknownVendor: a genuine TPM of a maker the set does not name.
func TestUnknownVendor(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.refs(func(r *reference.Set) { r.TPM.Vendors = []string{"IFX", "writ"} })
	s.denies("tpm/vendor")
}

// TestDenyListBeatsAllow: what is denied anywhere is denied where it is allowed,
// and names its event (security rule 20).
func TestDenyListBeatsAllow(t *testing.T) {
	kernel := rule(learnt(), 4).Events[2].Allow[0]
	path := learnt().IMA.Files[3]
	_, file, _ := strings.Cut(path.Allow[0], ":")
	for name, c := range map[string]struct {
		list func(*reference.Set)
		want string
	}{
		"event denied":        {func(s *reference.Set) { s.Deny = []reference.Listed{{Digest: kernel}} }, "boot/denied-event 4"},
		"event vulnerable":    {func(s *reference.Set) { s.Vulnerable = []reference.Listed{{Digest: kernel}} }, "boot/vulnerable-event 4"},
		"denied elsewhere":    {func(s *reference.Set) { rule(s, 0).Events[0].Deny = []string{kernel} }, "boot/denied-event 4"},
		"denied in its place": {func(s *reference.Set) { rule(s, 4).Events[2].Deny = []string{kernel} }, "boot/denied-event 4"},
		"file denied":         {func(s *reference.Set) { s.Deny = []reference.Listed{{Digest: file}} }, "ima/denied-file 10"},
		"file vulnerable":     {func(s *reference.Set) { s.IMA.Files[0].Vulnerable = []string{"sha256:" + file} }, "ima/vulnerable-file 10"},
		"both": {func(s *reference.Set) {
			s.Deny, s.Vulnerable = []reference.Listed{{Digest: kernel}}, []reference.Listed{{Digest: kernel}}
		}, "boot/denied-event 4"},
	} {
		t.Run(name, func(t *testing.T) {
			s := boot(t, "c-grub-sb")
			s.refs(c.list)
			s.denies(c.want)
		})
	}
}

// TestSecureBootOff: a set that requires Secure Boot wants the measured state.
func TestSecureBootOff(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.events(func(l *eventlog.Log) {
		for i := range l.Events {
			if name, _, _, ok := l.Events[i].Variable(); ok && name == "SecureBoot" {
				data := bytes.Clone(l.Events[i].Data)
				data[len(data)-1] = 0
				e := event(l, 7, l.Events[i].Type, string(data))
				e.Index = i
				l.Events[i] = e
			}
		}
	})
	s.replay()
	s.sign()
	s.denies("secure-boot/off 7", "secure-boot/unknown-event 7")
}

// TestNodeTextInFindings: what a node can choose is escaped where it is shown.
func TestNodeTextInFindings(t *testing.T) {
	s := boot(t, "c-grub-sb")
	l, err := ima.Parse(s.list)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1} {
		e := &l.Entries[i]
		e.Data = bytes.Replace(e.Data, []byte(e.Path), bytes.Repeat([]byte{0x1b}, len(e.Path)), 1)
		sum := sha1.Sum(e.Data)
		e.TemplateHash = sum[:]
	}
	s.list = l.Marshal()
	s.replay()
	s.sign()
	v := s.denies("ima/boot-aggregate 10 0", "ima/unknown-file 10 1")
	for _, f := range v.Findings {
		if strings.ContainsRune(f.Found+f.Expected, 0x1b) {
			t.Errorf("%s shows an escape character: %q", f.Code, f.Found)
		}
	}
}

// TestFlood: more findings than are kept neither hide a kind nor grant.
func TestFlood(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.events(func(l *eventlog.Log) {
		for i := range 1500 {
			l.Events = append(l.Events, event(l, 4, eventlog.IPL, fmt.Sprint(i)))
		}
		l.Events = append(l.Events, event(l, 14, eventlog.IPL, "last"))
	})
	s.replay()
	s.sign()
	v := s.denies("boot/unknown-event 4", "mok/unknown-event 14", "findings/more")
	if len(v.Findings) > 1100 {
		t.Errorf("%d findings", len(v.Findings))
	}
}
