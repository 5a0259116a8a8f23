package appraisal

import (
	"slices"
	"strings"

	"github.com/writ-attestation/writ/verifier/reference"
)

// The codes of findings. They are part of the verdict's format: history and
// operators' scripts hold them.
const (
	evidenceMissing = "evidence/missing"
	evidenceKey     = "evidence/key" // the enrolled AK cannot be read

	quoteSignature = "quote/signature"
	quoteBank      = "quote/bank"
	quoteSigner    = "quote/signer"
	quoteKey       = "quote/key-template"
	quoteBinding   = "quote/binding"
	quoteChallenge = "quote/challenge"
	quotePCRs      = "quote/pcr-digest"
	quoteSelection = "quote/selection"

	bootClone   = "counters/clone"
	bootChanged = "counters/boot-log-changed"

	bootNoLog     = "boot/no-log"
	bootMalformed = "boot/log-malformed"
	bootReplay    = "boot/replay"
	osMalformed   = "boot/os-log-malformed"

	imaNoLog      = "ima/no-log"
	imaMalformed  = "ima/log-malformed"
	imaReplay     = "ima/replay"
	imaViolation  = "ima/violation"
	imaAggregate  = "ima/boot-aggregate"
	imaUnknown    = "ima/unknown-file"
	imaVulnerable = "ima/vulnerable-file"
	imaDenied     = "ima/denied-file"
	imaWeak       = "ima/weak-digest"
	imaPadded     = "ima/padded-bank"
	imaBuffer     = "ima/unknown-buffer"

	refNone     = "reference/none"
	refValidity = "reference/validity"
	refClass    = "reference/class"
	refSection  = "reference/section"
	refPCR      = "reference/pcr-unlisted"
	refParts    = "reference/incomplete"

	keyCertificate = "key/certificate"
	keyNotResident = "key/not-resident"

	tpmCertificate = "tpm/ek-certificate"
	tpmVendor      = "tpm/vendor"
	tpmIAK         = "tpm/iak-certificate"
	tpmDeviceMaker = "tpm/device-maker"

	secureBootOff     = "secure-boot/off"
	secureBootUnknown = "secure-boot/unknown"
	sbatLevel         = "secure-boot/sbat-level"
	firmwareVersion   = "firmware/version"

	ruleFailed = "rule/" // and the rule's name

	claimRequired = "claim/not-affirming"
	tooMany       = "findings/more"
)

// Suffixes of the codes an event of a PCR can have; the prefix is [area].
const (
	unknownEvent    = "/unknown-event"
	missingEvent    = "/missing-event"
	vulnerableEvent = "/vulnerable-event"
	deniedEvent     = "/denied-event"
	unknownValue    = "/unknown-value" // of a set that judges values alone
)

// maxFindings bounds a verdict; the rest is counted in one last finding.
const maxFindings = 1000

// area names what the events of a PCR describe (TCG PC Client PFP 3.3.4; 8 and
// up by the boot loaders and systemd).
func area(pcr int) string {
	switch pcr {
	case 0:
		return "firmware"
	case 2:
		return "option-rom"
	case 4:
		return "boot"
	case 7:
		return "secure-boot"
	case 8:
		return "command-line"
	case 9:
		return "boot-files"
	case 11:
		return "uki"
	case 14:
		return "mok"
	}
	return "config"
}

// effect is what a finding does to a claim (standards: AR4SI section 2.3).
type effect struct {
	claim string
	value int8
}

var all = []string{reference.InstanceIdentity, reference.Configuration, reference.Executables, reference.Hardware}

// effects is what a finding lowers; that of a rule is the rule's own to say.
func (r *run) effects(f Finding) []effect {
	if name, ok := strings.CutPrefix(f.Code, ruleFailed); ok && r.set != nil && r.set.Rule(name) != nil {
		rule := r.set.Rule(name)
		return []effect{{rule.Claim, rule.Value}}
	}
	return effects(f)
}

// effects returns the claims a finding lowers. A code it does not know lowers
// every claim, so that a new one cannot be forgotten into a grant.
func effects(f Finding) []effect {
	prefix, suffix, _ := strings.Cut(f.Code, "/")
	switch f.Code {
	case claimRequired, tooMany:
		return nil
	case bootClone:
		return []effect{{reference.InstanceIdentity, 96}}
	case bootReplay, bootMalformed:
		return each(99, reference.Configuration, reference.Executables, reference.Hardware)
	case bootNoLog:
		return []effect{{reference.Configuration, 36}, {reference.Executables, 33}, {reference.Hardware, 97}}
	case imaReplay, imaMalformed, imaPadded:
		return []effect{{reference.Executables, 99}}
	case imaNoLog, imaUnknown, imaViolation, imaWeak, imaBuffer:
		return []effect{{reference.Executables, 33}}
	case imaAggregate:
		return []effect{{reference.Executables, 33}}
	case imaVulnerable:
		return []effect{{reference.Executables, 32}}
	case imaDenied:
		return []effect{{reference.Executables, 96}}
	case tpmCertificate, tpmVendor, tpmIAK, tpmDeviceMaker:
		return []effect{{reference.Hardware, 97}}
	case secureBootOff:
		return []effect{{reference.Configuration, 96}}
	case secureBootUnknown:
		return []effect{{reference.Configuration, 36}}
	case sbatLevel:
		return []effect{{reference.Configuration, 32}, {reference.Executables, 32}}
	case firmwareVersion:
		return []effect{{reference.Hardware, 32}, {reference.Executables, 32}}
	case refNone, refValidity, refClass, refParts:
		return each(0, all...)
	}
	switch prefix {
	case "quote", "evidence", "counters":
		return each(99, all...)
	case "firmware":
		return []effect{{reference.Hardware, eventValue(suffix, 97)}, {reference.Executables, eventValue(suffix, 33)}}
	case "option-rom", "boot", "command-line", "boot-files", "uki", "mok":
		return []effect{{reference.Executables, eventValue(suffix, 33)}}
	case "secure-boot", "config":
		return []effect{{reference.Configuration, eventValue(suffix, 36)}}
	case "reference": // of a PCR or section: everything that could rest on it
		return each(0, reference.Configuration, reference.Executables, reference.Hardware)
	}
	return each(99, all...)
}

func eventValue(suffix string, unknown int8) int8 {
	switch "/" + suffix {
	case vulnerableEvent:
		return 32
	case deniedEvent:
		return 96
	}
	return unknown
}

func each(value int8, claims ...string) []effect {
	var e []effect
	for _, c := range claims {
		e = append(e, effect{c, value})
	}
	return e
}

// report collects findings in the order they are made.
type report struct {
	findings []Finding
	dropped  int
	trace    *trace
}

func (r *report) add(f Finding) {
	if len(r.findings) >= maxFindings {
		// The first of a kind always counts, or a flood of one could hide another.
		if slices.ContainsFunc(r.findings, func(g Finding) bool { return g.Code == f.Code }) {
			r.dropped++
			return
		}
	}
	r.findings = append(r.findings, f)
}

func (r *report) say(code, expected, found, next string) {
	r.add(Finding{Code: code, Expected: expected, Found: found, Next: next})
}

func (r *report) pcr(code string, pcr int, expected, found, next string) {
	r.add(Finding{Code: code, PCR: &pcr, Expected: expected, Found: found, Next: next})
}

func (r *report) event(code string, pcr, event int, expected, found, next string) {
	r.add(Finding{Code: code, PCR: &pcr, Event: &event, Expected: expected, Found: found, Next: next})
}
