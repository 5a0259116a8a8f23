package appraisal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/reference"
)

const imaPCR = 10

// ima judges the prefix of the IMA list that PCR 10 proves; what follows is
// unproven and may change nothing. An unchanged set and rule version allow to
// resume behind the entries already judged in this boot: their findings carry
// over (security rule 2).
func (r *run) ima() {
	if r.set.IMA == nil {
		return
	}
	content := r.in.Evidence.Item("ima-log").Content
	if len(content) == 0 {
		r.pcr(imaNoLog, imaPCR, "the IMA list", "none", "boot with ima_policy=tcb and send binary_runtime_measurements")
		return
	}
	sum := r.in.References.Set.Digest()
	digest := hexOf(sum)
	from := r.resumed
	if from != nil && (from.References != digest || from.Rules != Rules || from.Offset > uint64(len(content)) || (from.Until != 0 && r.in.At >= from.Until)) {
		from = nil
	}
	state := IMA{References: digest, Rules: Rules, PCR: make([]byte, r.bank.Size())}
	if from != nil {
		state = *from
		state.Findings = nil
		for _, f := range from.Findings {
			r.add(f)
		}
	}
	start := state.PCR
	want := r.in.Evidence.Quote.Values[imaPCR]
	before := r.report
	proven, err := r.entries(content[state.Offset:], want, &state)
	if err != nil || !proven {
		r.report = before // what was found in entries that nothing proves
	}
	switch {
	case err != nil:
		r.pcr(imaMalformed, imaPCR, "an IMA list", err.Error(), "send /sys/kernel/security/ima/binary_runtime_measurements unchanged")
		return
	case !proven:
		r.replays(content[state.Offset:], start, want)
		return
	}
	if state.Entries == 0 {
		r.pcr(imaAggregate, imaPCR, "a list that begins with the boot_aggregate", "PCR 10 was never extended", "boot a kernel with IMA; without it nothing says what ran")
	}
	r.violations(state.Violations)
	r.boot.IMA = &state
	r.full = state.Entries > 1 && state.Excluded == 0 && r.measures()
	if state.Until != 0 {
		r.until = min(r.until, state.Until)
	}
}

// entries judges the entries of rest up to the one where the replay from state.PCR
// reaches want, and moves state there. They are judged as they are read, in one
// pass; proven tells whether that counts. All of rest is read: a list that is
// malformed behind what is proven is malformed.
func (r *run) entries(rest, want []byte, state *IMA) (proven bool, err error) {
	replay := ima.Resume(r.bank, state.PCR)
	proven = replay.Reached(want)
	searching := !proven
	if len(rest) == 0 { // nothing new is no error
		return proven, nil
	}
	base, offset := state.Entries, state.Offset
	s, pcr := ima.Scan(rest), uint32(0)
	s.Expect(r.in.References.Set.Expected)
	for s.Next() {
		e := s.Entry()
		if e.Index == 0 {
			pcr = e.PCR
		}
		if searching = searching && e.PCR == pcr; !searching {
			continue // nothing more is proven by this PCR alone
		}
		replay.Extend(e)
		r.entry(e, base+e.Index, state)
		if replay.Reached(want) {
			proven, searching = true, false
			state.Entries, state.Offset, state.PCR = base+e.Index+1, offset+uint64(e.End), want
		}
	}
	return proven, s.Err()
}

// replays says why PCR 10 proves nothing of the list.
func (r *run) replays(rest, start, want []byte) {
	l := new(ima.List)
	if len(rest) > 0 {
		if parsed, err := ima.Parse(rest); err == nil { // it was read before
			l = parsed
		}
	}
	expected := hex.EncodeToString(want) + " (quoted)"
	if l.Padded(r.bank, start, want) {
		r.pcr(imaPadded, imaPCR, expected+", extended with SHA-256", "SHA-1 and zeros, which prove nothing", "boot a kernel of 5.8 or later with SHA-256 built in, not as a module")
		return
	}
	r.pcr(imaReplay, imaPCR, expected, fmt.Sprintf("no prefix of %d entries replays to it", len(l.Entries)), "send the whole list, read after the quote")
}

// entry judges one measured file. The first of a boot is the boot_aggregate,
// which ties the list to the boot PCRs.
func (r *run) entry(e *ima.Entry, index int, state *IMA) {
	if e.Violation {
		state.Violations++
	}
	if index == 0 {
		want := ima.BootAggregate(r.bank, r.in.Evidence.Quote.Values, e.FileAlg)
		if !e.IsBootAggregate() || !bytes.Equal(want, e.FileDigest) {
			r.event(imaAggregate, imaPCR, index, "boot_aggregate "+hex.EncodeToString(want), printable(e.Path)+" "+hex.EncodeToString(e.FileDigest), "reboot the node: the list does not belong to this boot")
		}
		return
	}
	if e.Violation || e.Expected() { // a violation is counted; what else it says is unproven
		return
	}
	var buf [len("verity:sha3_512:") + 2*64]byte
	d := reference.AppendDigest(buf[:0], e)
	found := func() string { return printable(e.Path) + " " + r.named(string(d)) }
	if e.FileAlg.Size() <= tpm.AlgSHA1.Size() {
		r.event(imaWeak, imaPCR, index, "a digest by SHA-256 or better", found(), "boot with ima_hash=sha256 and ima_template=ima-sig")
		return
	}
	switch r.file(e, d, state) {
	case reference.Unknown:
		if e.Template == reference.BufferTemplate {
			r.event(imaBuffer, imaPCR, index, "a buffer the reference set knows", found(), "add it to ima.buffers of the reference set if it is meant, then reboot or renew")
			return
		}
		r.event(imaUnknown, imaPCR, index, "a file the reference set knows"+r.near(e.Path), found(), "add it to the reference set if it is meant to be there, then reboot or renew")
	case reference.Weak:
		r.event(imaVulnerable, imaPCR, index, "no file known to be vulnerable"+r.near(e.Path), found(), "update it and reboot")
	case reference.Denied:
		r.event(imaDenied, imaPCR, index, "no file on the deny list", found(), "remove it and reboot")
	}
}

// near names what the set allows under a path: digests of its own, else the allow
// list that has the path, such as a package's. Looking through lists is slow, so it
// is done for the first few files of an appraisal.
func (r *run) near(path string) string {
	if allowed := r.set.AllowedAt(path); len(allowed) > 0 {
		return "; allowed there is " + r.list(allowed)
	}
	if r.looked++; r.looked > maxLooked {
		return ""
	}
	if digest, name := r.in.References.Set.ListedAt(path); digest != "" {
		return "; " + printable(name) + " has " + r.named(digest) + " there"
	}
	return ""
}

// maxLooked bounds how many paths are looked for in the allow lists.
const maxLooked = 8

func (r *run) violations(n int) {
	if n > r.set.IMA.Violations {
		r.pcr(imaViolation, imaPCR, fmt.Sprintf("at most %d violations", r.set.IMA.Violations), fmt.Sprintf("%d: files changed while they were measured", n), "find what writes to files in use, then reboot")
	}
}

// measures reports whether a verified kernel command line turned on a policy
// that measures what runs; a list of the boot_aggregate alone says nothing.
// The text must be one that the set expects: what comes after the events of an
// extend rule can be anybody's.
func (r *run) measures() bool {
	return r.log != nil && slices.ContainsFunc(r.log.policies, func(p int) bool {
		rule := r.set.PCR(p)
		return rule != nil && rule.Rule == reference.Match && r.proven(p)
	})
}

func turnsOnIMA(commandLine string) bool {
	if !strings.Contains(commandLine, "ima_") {
		return false
	}
	for word := range strings.FieldsSeq(commandLine) {
		policy, found := strings.CutPrefix(word, "ima_policy=")
		if word == "ima_tcb" || (found && slices.Contains(strings.Split(policy, "|"), "tcb")) {
			return true
		}
	}
	return false
}

// printable keeps a path of the node's from writing to a terminal.
func printable(s string) string {
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}
