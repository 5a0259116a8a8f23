package appraisal

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/reference"
)

// pinned is what a set's pins make of one boot log.
type pinned struct {
	events   map[int]bool // events that need no digest, by index
	programs bool         // every program in PCR 4 was allowed by a pinned authority
}

// pins judges versions and authorities where the set speaks of them. It comes
// before the events are compared, which it excuses.
func (r *run) pins() {
	p := r.set.Pins
	if p == nil || r.log == nil {
		return
	}
	boot := r.extracted()
	r.pinned.events = map[int]bool{}
	r.firmwareVersion(p, boot.Version)
	r.sbat(p, boot.SecureBoot.SbatLevel)
	r.pinned.programs = r.signed(p, &boot.SecureBoot)
}

// extracted is the fact of what the boot log proves.
func (r *run) extracted() *eventlog.Boot {
	key := "boot/" + r.bank.String() + "/" + r.log.sum
	if b, ok := r.recall(key).(*eventlog.Boot); ok {
		return b
	}
	b := r.log.log.Extract(r.bank)
	r.keep(key, b)
	return b
}

func (r *run) firmwareVersion(p *reference.Pins, version *eventlog.Text) {
	switch expected := "firmware of version " + p.Firmware + " or later"; {
	case p.Firmware == "":
	case version == nil || !version.Early:
		r.pcr(firmwareVersion, 0, expected, "no version that the log proves", "list the firmware's digests and pin no version")
	case !reference.AtLeast(version.Text, p.Firmware):
		r.event(firmwareVersion, 0, version.Event, expected, printable(version.Text), "update the firmware")
	default:
		r.pinned.events[version.Event] = true
	}
}

func (r *run) sbat(p *reference.Pins, level *eventlog.Text) {
	if len(p.SBAT) == 0 {
		return
	}
	if level == nil {
		r.pcr(sbatLevel, 7, "an SBAT level", "none that the log proves", "boot with a shim that measures SbatLevel (15.5 or later)")
		return
	}
	if lacks := p.Lacks(level.Text); len(lacks) > 0 {
		r.event(sbatLevel, 7, level.Event, "the pinned SBAT generations or later", printable(strings.Join(lacks, "; ")), "update shim and its revocations: mokutil --set-sbat-policy latest")
		return
	}
	r.pinned.events[level.Event] = true
}

// signed reports whether only pinned authorities allowed programs to run: Secure
// Boot was on, each event of PCR 7 is known and each authority among them is
// pinned. One authority of ours beside another's says nothing.
func (r *run) signed(p *reference.Pins, sb *eventlog.SecureBoot) bool {
	rule := r.set.PCR(7)
	if len(p.Authorities) == 0 || !sb.Known || !sb.Enabled || len(sb.Authorities) == 0 || rule == nil || rule.Rule != reference.Match {
		return false
	}
	for _, a := range sb.Authorities {
		if a.Certificate == nil || !slices.Contains(p.Authorities, hex.EncodeToString(a.Certificate.Fingerprint)) {
			return false
		}
	}
	for _, e := range r.log.events[7] {
		if j, _ := r.place(rule.Events, 0, e.digest); j != reference.Allowed && !r.pinned.events[e.Index] {
			return false
		}
	}
	return true
}

// excused reports whether an event of unknown digest is good by a pin.
func (r *run) excused(pcr, event int) bool {
	return r.pinned.events[event] || (pcr == 4 && r.pinned.programs)
}

func (r *run) judgePCRs() {
	if r.quoteOnly() {
		r.bareValues()
		return
	}
	r.pins()
	r.pcrs()
}

// bareValues compares the proven PCR values themselves, for a set that knows nothing
// else.
func (r *run) bareValues() {
	r.selection()
	for _, p := range r.quote.PCRs {
		rule := r.set.PCR(p)
		if rule != nil && rule.Rule == reference.Ignore {
			r.trace.skip(r.unjudged(rule), "pcr-"+strconv.Itoa(p))
			continue
		}
		mark := r.mark()
		r.bareValue(p, rule)
		r.did("pcr-"+strconv.Itoa(p), mark, r.pcrWords(p, rule))
	}
}

func (r *run) bareValue(p int, rule *reference.PCR) {
	if rule == nil {
		r.pcr(refPCR, p, "a rule for every quoted PCR", "none for this one", "say in the reference set whether it must match or is ignored")
		return
	}
	if got := hex.EncodeToString(r.in.Evidence.Quote.Values[p]); !slices.Contains(rule.Values, got) {
		r.pcr(area(p)+unknownValue, p, list(rule.Values), got, "restore the machine, or add the value to the reference set if it is meant; only a boot log says what changed")
	}
}

// quoteOnly reports whether logs are left out of account.
func (r *run) quoteOnly() bool {
	s := r.in.References.Set
	return s != nil && s.Whole() && s.Level == reference.QuoteOnly
}
