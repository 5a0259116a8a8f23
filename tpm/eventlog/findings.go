package eventlog

import (
	"bytes"
	"fmt"

	"github.com/writ-attestation/writ/tpm"
)

// A Finding is something about a log that a person should know. It is no
// verdict: what follows from it is the appraiser's to say.
type Finding struct {
	Code   string // stable: "log/..."
	Event  int    // the index of the first event concerned, -1 if it is the log
	Detail string // what was found
	Next   string // what to do about it
}

// Codes of findings.
const (
	NoEvents           = "log/no-events"
	SHA1Only           = "log/sha1-only"
	BankIncomplete     = "log/bank-incomplete"
	BankUnknown        = "log/bank-unknown"
	PCROutOfRange      = "log/pcr-out-of-range"
	NoActionDigest     = "log/no-action-digest"
	DataNotHashed      = "log/data-not-hashed"
	NoSeparator        = "log/no-separator"
	FirmwareError      = "log/firmware-error"
	NoExitBootServices = "log/no-exit-boot-services"
	SecureBootUnknown  = "log/secure-boot-unknown"
)

// Findings returns what is odd about the log: first about its banks, then about
// events in log order, then about what is missing.
func (l *Log) Findings() []Finding {
	fs := l.bankFindings()
	measured := false
	for i := range l.Events {
		e := &l.Events[i]
		measured = measured || e.Measured()
		fs = append(fs, e.findings()...)
	}
	if !measured {
		return append(fs, Finding{NoEvents, -1, "the log holds no measurement", "an empty log proves nothing; read binary_bios_measurements again"})
	}
	return append(fs, l.missing()...)
}

func (l *Log) bankFindings() (fs []Finding) {
	if len(l.Algs) == 1 && l.Algs[0] == tpm.AlgSHA1 {
		fs = append(fs, Finding{SHA1Only, -1, "all digests are SHA-1, which proves nothing: collisions are practical",
			"enable the SHA-256 PCR bank in the firmware setup and boot again"})
	}
	for _, alg := range l.Algs {
		if _, ok := alg.Hash(); !ok {
			fs = append(fs, Finding{BankUnknown, -1, fmt.Sprintf("bank %v cannot be computed here and was not replayed", alg),
				"use the sha256 bank"})
			continue
		}
		for i := range l.Events {
			if e := &l.Events[i]; e.Measured() && e.Digest(alg) == nil {
				fs = append(fs, Finding{BankIncomplete, i, fmt.Sprintf("the event has no %v digest, so bank %v cannot be proven and was not replayed", alg, alg),
					"use a bank that every event has; report it to the maker of the firmware"})
				break
			}
		}
	}
	return fs
}

// findings returns what is odd about one event.
func (e *Event) findings() (fs []Finding) {
	add := func(code, detail, next string) { fs = append(fs, Finding{code, e.Index, detail, next}) }
	if e.PCR >= pcrs {
		add(PCROutOfRange, fmt.Sprintf("PCR index 0x%08x names no PCR; the event was not replayed", e.PCR),
			"nothing can be concluded from the event; report it to the maker of the firmware")
	}
	if e.Type == NoAction && e.extendsSomething() {
		add(NoActionDigest, "an EV_NO_ACTION event has a digest, though it extends nothing",
			"if the log does not replay to the quote, this event was relabelled")
	}
	switch e.Type {
	case Separator, Action, EFIAction, SCRTMVersion, VariableDriverConfig, VariableBoot2, VariableAuthority:
		if !e.DataVerified() {
			add(DataNotHashed, fmt.Sprintf("the data of this %v does not hash to its digest and is not used", e.Type),
				"go by the digest alone; the data was changed, or the firmware logs other bytes than it measures")
		}
	}
	if e.Type == Separator && e.PCR <= 7 && !e.separates() {
		add(FirmwareError, fmt.Sprintf("the separator of PCR %d says that the firmware failed", e.PCR), "look into the firmware's own log and boot again")
	}
	return fs
}

func (e *Event) extendsSomething() bool {
	for _, d := range e.Digests {
		if len(bytes.Trim(d.Sum, "\x00")) > 0 {
			return true
		}
	}
	return false
}

// exitBootServices are the actions firmware measures into PCR 5 when the
// operating system takes over (PFP 10.4.4, table 31).
var exitBootServices = []byte("Exit Boot Services Invocation")

// missing returns what a whole log would have.
func (l *Log) missing() (fs []Finding) {
	var separated [8]bool
	exited := false
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Measured() || e.PCR > 7 {
			continue
		}
		if !separated[e.PCR] && e.separates() {
			separated[e.PCR] = true
		}
		exited = exited || e.PCR == 5 && e.hashesTo(exitBootServices)
	}
	var open []int
	for i, ok := range separated {
		if !ok {
			open = append(open, i)
		}
	}
	if len(open) > 0 {
		fs = append(fs, Finding{NoSeparator, -1, fmt.Sprintf("no separator in PCR %v: what the firmware measured and what came later cannot be told apart", open),
			"the log is a fragment or the firmware is broken; read the whole log"})
	}
	if !exited {
		fs = append(fs, Finding{NoExitBootServices, -1, "the log does not show the firmware handing over (\"Exit Boot Services Invocation\" in PCR 5)",
			"the log may end before the operating system started; normal for firmware without it"})
	}
	if s := l.SecureBoot(); !s.Known {
		fs = append(fs, Finding{SecureBootUnknown, -1, "no verified SecureBoot variable with a value before the separator of PCR 7: the state is unknown, not on",
			"look at Secure Boot in the firmware setup"})
	}
	return fs
}
