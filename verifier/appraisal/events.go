package appraisal

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/verifier/reference"
)

func hexSum(b []byte) string { return hexOf(sha256.Sum256(b)) }

// tpm judges the TPM itself: its EK certificates against the makers' roots. If a
// device's maker vouches for it instead, see iak, none is asked for.
func (r *run) tpm() {
	next := "add the maker's root to ek_roots, or accept the node at a level that does not require hardware"
	if len(r.in.Prior.EKCertificates) == 0 && r.in.Prior.IAK == nil {
		r.say(tpmCertificate, "an EK certificate", "none", next)
		return
	}
	for _, der := range r.in.Prior.EKCertificates {
		f, err := r.endorsement(der)
		if err != nil {
			r.say(tpmCertificate, "an EK certificate of a known TPM maker, valid at "+stamp(r.in.At), "SHA-256 "+hexSum(der)+": "+flaw(err, "ek_roots", "the TCG EK Credential Profile"), next)
			continue
		}
		r.until = min(r.until, f.to)
		if !slices.Contains(r.set.TPM.Vendors, f.vendor) {
			r.say(tpmVendor, "a TPM of "+list(r.set.TPM.Vendors), f.vendor, "add the vendor to the reference set's tpm section")
		}
	}
}

// flaw says what is wrong with a certificate in words of our own: those of
// libraries change with their versions, and a verdict's bytes must not.
func flaw(err error, roots, profile string) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "issued by nobody whose root is in " + roots
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it, or an issuer's, is not valid at this time"
	}
	return "it is malformed or not of " + profile
}

// endorsement is the fact that a certificate chains to one of the roots from one
// second to another.
type endorsement struct {
	from, to               int64
	vendor, model, version string
}

func (r *run) endorsement(der []byte) (*endorsement, error) {
	h := sha256.New()
	for _, part := range [][][]byte{{der}, r.in.Prior.EKChain, r.in.References.EKRoots} {
		for _, b := range part {
			s := sha256.Sum256(b)
			h.Write(s[:])
		}
		h.Write([]byte{0})
	}
	key := "ek/" + string(h.Sum(nil))
	if f, ok := r.recall(key).(*endorsement); ok && f.from <= r.in.At && r.in.At < f.to {
		return f, nil
	}
	chain, err := tpm.EKChain(der, certs(r.in.References.EKRoots), certs(r.in.Prior.EKChain), time.Unix(r.in.At, 0).UTC())
	if err != nil {
		return nil, err // not kept: it may hold at another time
	}
	f := &endorsement{from: chain[0].NotBefore.Unix(), to: chain[0].NotAfter.Unix()}
	for _, c := range chain {
		f.from, f.to = max(f.from, c.NotBefore.Unix()), min(f.to, c.NotAfter.Unix())
	}
	f.vendor, f.model, f.version = tpm.Vendor(chain[0])
	r.keep(key, f)
	return f, nil
}

func certs(der [][]byte) []*x509.Certificate {
	var out []*x509.Certificate
	for _, d := range der {
		if c, err := tpm.ParseCertificate(d); err == nil { // one that cannot be read vouches for nothing
			out = append(out, c)
		}
	}
	return out
}

// pcrs compares every quoted PCR with the log's replay and the log's events
// with the set. Rules go by PCR and digest; an event's type exempts nothing,
// since no digest covers it.
func (r *run) pcrs() {
	mark := r.mark()
	r.selection()
	r.did("selection", mark, func() string { return fmt.Sprintf("PCRs %v are quoted", r.quote.PCRs) })
	for _, p := range r.quote.PCRs {
		if p == imaPCR && r.set.IMA != nil {
			continue
		}
		rule := r.set.PCR(p)
		if rule != nil && (rule.Rule == reference.Ignore || r.log == nil) {
			if r.trace != nil {
				r.trace.skip(r.unjudged(rule), "pcr-"+strconv.Itoa(p))
			}
			continue
		}
		mark := r.mark()
		r.judgePCR(p, rule)
		if r.trace != nil {
			r.did("pcr-"+strconv.Itoa(p), mark, r.pcrWords(p, rule))
			r.trace.matches = nil
		}
	}
}

func (r *run) judgePCR(p int, rule *reference.PCR) {
	if rule == nil {
		r.pcr(refPCR, p, "a rule for every quoted PCR", "none for this one", "say in the reference set whether it must match, may extend or is ignored")
		return
	}
	if !r.proven(p) {
		got, want := r.in.Evidence.Quote.Values[p], r.value(p)
		r.pcr(bootReplay, p, hex.EncodeToString(got)+" (quoted)", hex.EncodeToString(want)+" (replayed from the log)", "reboot the node: its log does not explain what the TPM measured")
		return
	}
	r.compare(rule)
}

// unjudged says why nothing was looked at in a PCR.
func (r *run) unjudged(rule *reference.PCR) string {
	if rule.Rule == reference.Ignore {
		return strings.TrimSuffix("the set ignores it: "+rule.Why, ": ")
	}
	return "there is no boot log to compare"
}

// proven reports whether the log's events of a PCR are those the TPM quoted.
func (r *run) proven(pcr int) bool {
	return r.log != nil && bytes.Equal(r.value(pcr), r.in.Evidence.Quote.Values[pcr])
}

// value is what the log's replay gives for a PCR.
func (m *measured) value(pcr int) []byte {
	if v, ok := m.replay[pcr]; ok {
		return v
	}
	return make([]byte, m.bank.Size())
}

// bases are the PCRs without which a claim means nothing.
var bases = []struct {
	claim string
	pcrs  []int
}{
	{reference.Hardware, []int{0}},
	{reference.Configuration, []int{7}},
	{reference.Executables, []int{0, 2, 4, 8, 9, 11, 14}},
}

// selection requires the quote to cover what the set speaks of.
func (r *run) selection() {
	quoted := func(p int) bool { return slices.Contains(r.quote.PCRs, p) }
	for _, p := range r.set.PCRs {
		if p.Rule != reference.Ignore && !quoted(p.PCR) {
			r.pcr(quoteSelection, p.PCR, "a quote that covers this PCR", "not selected", "quote PCRs 0 to 15 of the sha256 bank")
		}
	}
	if r.set.IMA != nil && !quoted(imaPCR) {
		r.pcr(quoteSelection, imaPCR, "a quote that covers this PCR", "not selected", "quote PCRs 0 to 15 of the sha256 bank")
	}
	for _, need := range bases {
		if !slices.Contains(r.set.Required, need.claim) {
			continue
		}
		for _, p := range need.pcrs {
			if !r.judged(p) {
				r.pcr(refSection, p, fmt.Sprintf("rules for PCR %d, which the claim %s rests on", p, need.claim), "none", "add them, or do not require the claim")
			}
		}
	}
}

// compare walks the PCR's events along the places of its rule. An event that
// fits no place from here on is unknown, and taken to stand in the next place;
// places passed over with no such event before them are missing.
func (r *run) compare(rule *reference.PCR) {
	places, at, strangers := rule.Events, 0, 0
	for _, e := range r.events(rule.PCR) {
		j, to := r.place(places, at, e.digest)
		if to >= 0 {
			r.missing(rule.PCR, places[min(at+strangers, to):to])
			at, strangers = to+1, 0
			r.trace.matched(e, j, places[to].Label)
		} else {
			r.trace.matched(e, j, "in no place of the set")
		}
		if j != reference.Unknown || !r.excused(rule.PCR, e.Index) {
			r.judgeEvent(rule, e, j, places, at+strangers)
		} else {
			r.trace.judged(e, ComponentAllowed, "a pin of the set allows it")
		}
		if j == reference.Unknown {
			strangers++
		}
	}
	r.missing(rule.PCR, places[min(at+strangers, len(places)):])
}

// place finds the next place whose lists know the digest; -1 when none does.
func (r *run) place(places []reference.Event, from int, d string) (reference.Judgement, int) {
	everywhere := r.set.Listed(d)
	for i := from; i < len(places); i++ {
		if j := places[i].Judge(d); j != reference.Unknown {
			return max(j, everywhere), i
		}
	}
	return everywhere, -1
}

func (r *run) judgeEvent(rule *reference.PCR, e logged, j reference.Judgement, places []reference.Event, at int) {
	if j == reference.Allowed {
		return
	}
	found := r.named(e.digest) + " (" + e.Description() + ")"
	switch j {
	case reference.Denied:
		r.event(area(rule.PCR)+deniedEvent, rule.PCR, e.Index, "nothing on the deny list"+r.instead(places, e.digest), found, "remove it from the machine")
	case reference.Weak:
		r.event(area(rule.PCR)+vulnerableEvent, rule.PCR, e.Index, "nothing known to be vulnerable"+r.instead(places, e.digest), found, "update it")
	case reference.Unknown:
		if rule.Rule == reference.Extend && at >= len(places) {
			r.trace.judged(e, ComponentAllowed, "the set lets anything follow here")
			return
		}
		expected := "no further event"
		if at < len(places) {
			expected = places[at].Label + ": " + r.list(places[at].Allow)
		}
		if i := namesake(places, e); i >= 0 && i != at {
			expected += "; known as " + places[i].Label + " is " + r.list(places[i].Allow)
		}
		r.event(area(rule.PCR)+unknownEvent, rule.PCR, e.Index, expected, found, "add the digest to the reference set if this is meant to run, else restore the machine")
	}
}

func (r *run) missing(pcr int, places []reference.Event) {
	for _, p := range places {
		if !p.Optional {
			r.pcr(area(pcr)+missingEvent, pcr, p.Label+": "+r.list(p.Allow), "no such event", "boot the way the reference machines did, or mark the event optional")
		}
	}
}

// named is a digest with what the set says it is; the nearest known value of a
// near miss is one that has a name.
func (r *run) named(digest string) string {
	if name := r.set.Names[digest[strings.LastIndexByte(digest, ':')+1:]]; name != "" {
		return name + ", " + digest
	}
	return digest
}

// list shows at most three alternatives, those with a name first.
func (r *run) list(digests []string) string {
	if len(r.set.Names) == 0 {
		return list(digests)
	}
	var names, bare []string
	for _, d := range digests {
		if n := r.named(d); n != d {
			names = append(names, n)
		} else {
			bare = append(bare, d)
		}
	}
	return list(append(names, bare...))
}

// instead names what is allowed in the place that knows a digest as bad.
func (r *run) instead(places []reference.Event, digest string) string {
	for i := range places {
		p := &places[i]
		if len(r.set.Names) > 0 && len(p.Allow) > 0 && (slices.Contains(p.Vulnerable, digest) || slices.Contains(p.Deny, digest)) {
			return "; allowed is " + r.list(p.Allow)
		}
	}
	return ""
}

// namesake is the place whose reference event described itself as this one does, -1
// for none. Descriptions prove nothing: they only help a person to see what changed.
func namesake(places []reference.Event, e logged) int {
	label := e.Type.String() + " " + e.Description()
	return slices.IndexFunc(places, func(p reference.Event) bool { return p.Label == label })
}

// list shows at most three alternatives.
func list(s []string) string {
	switch {
	case len(s) == 0:
		return "nothing (the list is empty)"
	case len(s) > 3:
		return strings.Join(s[:3], " or ") + fmt.Sprintf(" or %d more", len(s)-3)
	}
	return strings.Join(s, " or ")
}

// secureBoot judges the state the firmware measured into PCR 7.
func (r *run) secureBoot() {
	if r.set.SecureBoot == "any" || r.log == nil {
		return
	}
	if r.set.SecureBoot != "required" {
		r.say(refSection, `secure_boot "required" or "any"`, fmt.Sprintf("%.20q", r.set.SecureBoot), "say in the reference set whether Secure Boot is required")
	}
	switch s := r.log.secureBoot; {
	case !s.Known:
		r.pcr(secureBootUnknown, 7, "the SecureBoot variable, on", "not measured in a form that can be checked", "enable Secure Boot in the firmware")
	case !s.Enabled:
		r.event(secureBootOff, 7, s.Event, "Secure Boot on", "off", "enable Secure Boot in the firmware")
	}
}
