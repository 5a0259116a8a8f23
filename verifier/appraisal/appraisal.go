// Package appraisal decides whether a node is legitimate: [Appraise] turns an
// Input into a Verdict and does nothing else.
//
// It reads no clock, file or network and keeps nothing between calls, so a
// verdict can be made again by anybody who has its input. Undecodable evidence
// is a denial with a finding, never an error, and the zero Verdict denies.
//
// The words are RFC 9334's, the trust vector AR4SI's.
package appraisal

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/rules"
)

// horizon bounds `until` when no window of the inputs ends earlier (seconds).
const horizon = 24 * 60 * 60

// Appraise judges the input: quote, counters, replay, references, in this
// order. Every finding is reported, not only the first, except that a quote
// which is not authentic ends the appraisal, since nothing else would mean
// anything.
func Appraise(in *Input) Verdict {
	a, findings := Authenticate(in)
	if a == nil {
		return conclude(in, &run{report: report{findings: findings}})
	}
	return a.Appraise()
}

// Appraise is the expensive half, on evidence already found authentic. The
// input's evidence must by now hold every log in full.
func (a *Authentic) Appraise() Verdict { return a.appraise(nil) }

func (a *Authentic) appraise(t *trace) Verdict {
	r := &run{report: report{trace: t}, in: a.in, quote: a.quote, until: a.in.At + horizon}
	if a.in.Rules != Rules {
		r.say(refSection, "rule version "+strconv.Itoa(Rules), strconv.Itoa(a.in.Rules), "verify with the version of writ that knows these rules")
		return conclude(a.in, r)
	}
	mark := r.mark()
	proven := r.values()
	r.did("pcr-values", mark, func() string {
		return fmt.Sprintf("bank %s, PCRs %v, digest %x", r.quote.Bank, r.quote.PCRs, r.quote.PCRDigest)
	})
	if !proven {
		t.skip("the PCR values are not those that were signed", append([]string{"counters", "boot-log", "references"}, judging(a.in)...)...)
		return conclude(a.in, r)
	}
	mark = r.mark()
	r.counters()
	r.did("counters", mark, r.countersWords)
	if r.in.Evidence.Item(evidence.KeyCert).Present() {
		mark = r.mark()
		r.key()
		r.did("key-certificate", mark, r.keyWords)
	}
	if !r.quoteOnly() {
		mark = r.mark()
		r.bootLog()
		r.did("boot-log", mark, r.bootLogWords)
	}
	mark = r.mark()
	usable := r.references()
	r.did("references", mark, r.referencesWords)
	if usable {
		r.judge()
	} else {
		t.skip("there is no reference set to judge by", judging(a.in)...)
	}
	r.pin()
	if t != nil {
		t.run = r
	}
	return conclude(a.in, r)
}

// judge holds what is proven against the reference set.
func (r *run) judge() {
	t := r.trace
	r.resident()
	mark := r.mark()
	r.tpm()
	r.did("ek-certificate", mark, r.tpmWords)
	if r.in.Prior.IAK != nil {
		mark = r.mark()
		r.iak()
		r.did("iak-certificate", mark, r.iakWords)
	}
	r.judgePCRs()
	mark = r.mark()
	r.secureBoot()
	switch {
	case r.set.SecureBoot == "any" || r.quoteOnly(): // see leftOut
	case r.log == nil:
		t.skip("there is no boot log to read it from", "secure-boot")
	default:
		r.did("secure-boot", mark, r.secureBootWords)
	}
	mark = r.mark()
	r.ima()
	if r.set.IMA != nil && !r.quoteOnly() {
		r.did("ima", mark, r.imaWords)
	}
	r.rules()
	r.leftOut()
}

// Memory keeps facts between appraisals: what a log says, how long a
// certificate chain holds. A fact follows from the bytes it is kept under and
// from this version of the rules alone, so that a verdict is the same with any
// Memory and with none; verdicts are never kept. The appraisal only reads what
// it recalls. A Memory must be safe for its callers' concurrency and may forget.
type Memory interface {
	Recall(key string) any // nil: not known
	Keep(key string, fact any)
}

func (r *run) recall(key string) any {
	if r.in.Memory == nil {
		return nil
	}
	return r.in.Memory.Recall(key)
}

func (r *run) keep(key string, fact any) {
	if r.in.Memory != nil {
		r.in.Memory.Keep(key, fact)
	}
}

// run is one appraisal on its way through the rules.
type run struct {
	report
	in      *Input
	quote   *tpm.Quote
	set     *reference.Set
	bank    tpm.Alg   // of the quote, as the set demands
	log     *measured // nil: absent or unusable
	later   later     // what the operating system measured after that log
	boot    *Boot
	pinned  pinned
	resumed *IMA // state to resume the IMA list from
	full    bool // the IMA list was complete and measured by a known policy
	until   int64
	looked  int // files that were looked for in the allow lists
}

// values proves the PCR values sent along: they count exactly when their
// concatenation has the digest that was signed (security rule 6).
func (r *run) values() bool {
	q := r.in.Evidence.Quote
	if r.bank = r.quote.Bank; r.bank != q.Bank || (r.bank != tpm.AlgSHA256 && r.bank != tpm.AlgSHA384) {
		r.say(quoteBank, "a quote over the sha256 or sha384 bank", fmt.Sprintf("%s, values of %s", r.quote.Bank, q.Bank), "enable the TPM's SHA-256 bank; SHA-1 proves nothing")
		return false
	}
	if err := tpm.CheckPCRs(r.quote, q.Values); err != nil {
		r.say(quotePCRs, fmt.Sprintf("PCR values with digest %x", r.quote.PCRDigest), err.Error(), "quote again and send the values of exactly the quoted PCRs")
		return false
	}
	return true
}

// counters judges the TPM's counters against the last quote of this AK
// (security rule 15). They are plain because the AK is an endorsement primary.
func (r *run) counters() {
	q := r.quote
	r.boot = &Boot{ResetCount: q.ResetCount, RestartCount: q.RestartCount, Clock: q.Clock}
	p := r.in.Prior.Boot
	if p == nil {
		return
	}
	now, before := [2]uint32{q.ResetCount, q.RestartCount}, [2]uint32{p.ResetCount, p.RestartCount}
	found := func() string { return fmt.Sprintf("reset %d, restart %d, clock %d ms", now[0], now[1], q.Clock) }
	switch c := slices.Compare(now[:], before[:]); {
	case c < 0:
		r.say(bootClone, fmt.Sprintf("counters of at least reset %d, restart %d", before[0], before[1]), found(),
			"an operator decides: the TPM was cleared, or its state was copied or restored")
	case c == 0 && q.Clock <= p.Clock:
		r.say(bootClone, fmt.Sprintf("a TPM clock above %d ms in the same boot", p.Clock), found(),
			"an operator decides: two machines hold this TPM's state, or a snapshot was restored")
	case c == 0:
		r.resumed = p.IMA
	}
}

// bootLog parses and replays the UEFI log and holds it against the one that was
// proven earlier in this boot, which stays the boot's log whatever comes later.
func (r *run) bootLog() {
	content := r.in.Evidence.Item("uefi-log").Content
	if p := r.in.Prior.Boot; p != nil && p.ResetCount == r.quote.ResetCount && p.RestartCount == r.quote.RestartCount {
		r.boot.BootLog = p.BootLog
	}
	if len(content) == 0 {
		r.say(bootNoLog, "the UEFI event log", "none", "boot so that firmware and loader keep the log (Debian 12's GRUB keeps none with Secure Boot off)")
		return
	}
	digest := r.in.Evidence.Item("uefi-log").SHA256()
	sum := hexOf(digest)
	if before := r.boot.BootLog; before != "" && before != sum {
		r.say(bootChanged, "the boot log of this boot, SHA-256 "+before, sum, "reboot the node; a boot log never changes while a boot lasts")
		r.resumed = nil
	}
	f := r.measured(sum, content)
	if f.err != nil {
		r.say(bootMalformed, "a UEFI event log with SHA-256 digests", f.err.Error(), "send /sys/kernel/security/tpm0/binary_bios_measurements unchanged")
		return
	}
	r.log = f
	r.osLog()
}

// pin makes a log that replays the one of this boot.
func (r *run) pin() {
	if r.log != nil && r.boot.BootLog == "" && !slices.ContainsFunc(r.findings, func(f Finding) bool { return f.Code == bootReplay }) {
		r.boot.BootLog = r.log.sum
	}
}

// measured is the fact of what a boot log says and replays to.
type measured struct {
	sum        string // hexadecimal SHA-256 of the log
	bank       tpm.Alg
	err        error
	log        *eventlog.Log
	replay     map[int][]byte   // of the quoted bank
	events     map[int][]logged // measured ones, by PCR
	secureBoot eventlog.State
	rules      []rules.Event
	policies   []int // PCRs with a verified text that turns on IMA's measuring policy
}

// logged is one measured event.
type logged struct {
	*eventlog.Event
	digest string // hexadecimal, of the quoted bank
}

func (r *run) measured(sum string, content []byte) *measured {
	key := "log/" + r.bank.String() + "/" + sum
	if f, ok := r.recall(key).(*measured); ok {
		return f
	}
	f := measure(content, r.bank)
	f.sum = sum
	r.keep(key, f)
	return f
}

func measure(content []byte, bank tpm.Alg) *measured {
	log, err := eventlog.Parse(content)
	if err != nil {
		return &measured{bank: bank, err: err}
	}
	f := &measured{bank: bank, log: log, events: map[int][]logged{}, secureBoot: log.SecureBoot()}
	if f.replay, f.err = log.Replay(bank); f.err != nil {
		return f
	}
	f.rules = make([]rules.Event, 0, len(log.Events))
	all := make([]byte, 0, len(log.Events)*hex.EncodedLen(bank.Size()))
	for i := range log.Events {
		all = hex.AppendEncode(all, log.Events[i].Digest(bank))
	}
	digests := string(all)
	for i := range log.Events {
		e := &log.Events[i]
		n := hex.EncodedLen(len(e.Digest(bank)))
		d := digests[:n]
		digests = digests[n:]
		if !e.Measured() {
			continue
		}
		text, ok := e.Text()
		if !ok {
			text = ""
		}
		if turnsOnIMA(text) {
			f.policies = append(f.policies, int(e.PCR))
		}
		f.events[int(e.PCR)] = append(f.events[int(e.PCR)], logged{e, d})
		f.rules = append(f.rules, rules.Event{Index: int64(e.Index), PCR: int64(e.PCR), Digest: d, Text: text})
	}
	return f
}

// references makes sure there is a set, for this class, valid now.
func (r *run) references() bool {
	if r.in.References.Set == nil {
		r.say(refNone, "a reference set for class "+r.in.Prior.Class, "none", "learn, sign and publish one: writ reference learn")
		return false
	}
	s := r.in.References.Set.Set
	if s.Name != r.in.Prior.Class {
		r.say(refClass, "a reference set for class "+r.in.Prior.Class, "one for "+s.Name, "publish a set with the name of the node's class")
		return false
	}
	if !r.in.References.Set.Whole() {
		r.say(refParts, "every set and allow list that "+s.Name+" names", "not all of them", "publish what it names: writ reference show lists it")
		return false
	}
	if s.Bank != r.bank.String() {
		r.say(quoteBank, "a quote over the "+s.Bank+" bank, which the set is made for", r.bank.String(), "have the node quote that bank (writ agent --bank "+s.Bank+"), or learn a set from quotes over "+r.bank.String())
		return false
	}
	if r.in.At < s.NotBefore || (s.NotAfter != 0 && r.in.At >= s.NotAfter) {
		r.say(refValidity, fmt.Sprintf("a set valid at %s", stamp(r.in.At)), fmt.Sprintf("valid from %s to %s", stamp(s.NotBefore), stamp(s.NotAfter)), "publish a newer generation")
		return false
	}
	if s.NotAfter != 0 {
		r.until = min(r.until, s.NotAfter)
	}
	r.set = s
	return true
}

func stamp(sec int64) string {
	if sec == 0 {
		return "always"
	}
	return time.Unix(sec, 0).UTC().Format(time.RFC3339)
}

// conclude turns findings into the vector, the tier and the decision.
func conclude(in *Input, r *run) Verdict {
	v := Verdict{V: 1, Rules: Rules, Decision: Deny, Domain: in.Challenge.Domain, Node: in.Challenge.Node, Nonce: in.Challenge.Nonce,
		Binding: in.Challenge.Binding, At: in.At, Until: r.until, Inputs: in.digests(), Boot: r.boot, Tier: None}
	if r.set != nil {
		v.Vector, v.Level = r.best(), r.set.Level
	}
	for _, f := range r.findings {
		for _, e := range r.effects(f) {
			v.Vector.lower(e.claim, e.value)
		}
	}
	if r.set != nil {
		v.Tier = Affirming
		for _, name := range r.set.Required {
			tier := TierOf(v.Vector.Claim(name))
			v.Tier = worse(v.Tier, tier)
			if tier != Affirming {
				r.add(Finding{Code: claimRequired, Expected: name + " affirming", Found: fmt.Sprintf("%s (%d)", tier, v.Vector.Claim(name)), Next: "see the findings above"})
			}
		}
		if v.Tier == Affirming && v.Until > v.At {
			v.Decision = Grant
		}
	}
	if r.dropped > 0 {
		r.findings = append(r.findings, Finding{Code: tooMany, Expected: fmt.Sprintf("at most %d findings", maxFindings), Found: fmt.Sprintf("%d more like these", r.dropped), Next: "mend these first"})
	}
	v.Findings = r.findings
	if r.set != nil && r.trace != nil {
		r.did("claims", 0, func() string { return v.claims(r.set.Required) })
		r.trace.steps[len(r.trace.steps)-1].Result = map[bool]string{true: StepPass, false: StepFail}[v.Decision == Grant]
	}
	return v
}

// best is the vector if there is nothing to find. A claim whose PCRs the set does
// not judge is not made, whether it is required or not.
func (r *run) best() Vector {
	v := Vector{InstanceIdentity: 2, Configuration: 2, Executables: 3, Hardware: 2}
	if r.full {
		v.Executables = 2
	}
	if !r.judged(1) || !r.judged(3) || !r.judged(5) || r.set.SecureBoot != "required" {
		v.Configuration = 3
	}
	if r.quoteOnly() {
		v.Configuration, v.Executables = 3, 0
	}
	for _, b := range bases {
		if slices.ContainsFunc(b.pcrs, func(p int) bool { return !r.judged(p) }) {
			*v.claim(b.claim) = 0
		}
	}
	return v
}

// judged reports whether the set compares the events of a PCR.
func (r *run) judged(pcr int) bool {
	p := r.set.PCR(pcr)
	return p != nil && p.Rule != reference.Ignore
}
