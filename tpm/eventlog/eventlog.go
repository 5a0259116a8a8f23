// Package eventlog parses and replays the measured-boot log that UEFI firmware
// leaves for the operating system (binary_bios_measurements).
//
// Hazards. A log is the node's own word. Replaying it to PCR values a TPM has
// quoted proves the digests of its events and their order within each PCR, and
// nothing else: event types, event data, labels, paths and the order across
// PCRs stay unproven text. Take meaning from an event only where its data
// hashes to its digest ([Event.DataVerified]), and then only for the PCR it was
// extended into. A log that parses may hold no event at all; an empty replay is
// no proof. [Log.Extract] keeps to that, and goes by no type but the two that a
// replay shows: EV_NO_ACTION and H-CRTM.
//
// Layouts are those of the TCG PC Client Platform Firmware Profile (PFP) 1.06,
// section 10. All integers are little-endian.
package eventlog

import (
	"github.com/writ-attestation/writ/tpm"
)

// Limits of what Parse reads. Real logs hold 20 to 250 events in 2 to 75 KB.
const (
	MaxSize   = 4 << 20 // bytes of a log
	MaxEvents = 65536   // records, the header included
)

// A Log is a parsed boot log. Its events alias the bytes it was parsed from.
type Log struct {
	// Algs are the banks the log announces, in its order; [tpm.AlgSHA1] alone
	// for a log in the old format, which has no header.
	Algs []tpm.Alg
	// Events are all records in log order. In a crypto-agile log the first is
	// the Spec ID header itself, as tpm2_eventlog numbers them.
	Events []Event

	sizes  map[tpm.Alg]int // digest size the header announces; nil: the old format
	vendor []byte          // vendor info that the header's size does not count
}

// An Event is one record of a log.
type Event struct {
	Index   int
	PCR     uint32 // as logged; may be out of range, see [Event.Measured]
	Type    Type   // as logged; not covered by any digest
	Digests []Digest
	Data    []byte // as logged; see [Event.DataVerified]
}

// A Digest is what was extended into one bank.
type Digest struct {
	Alg tpm.Alg
	Sum []byte
}

// Digest returns what the event extended into the bank alg, nil if the log does
// not say.
func (e *Event) Digest(alg tpm.Alg) []byte {
	for _, d := range e.Digests {
		if d.Alg == alg {
			return d.Sum
		}
	}
	return nil
}

// Measured reports whether the event was extended into a PCR this package
// replays: EV_NO_ACTION never is (PFP 10.4.5), and indices above 23 name none.
func (e *Event) Measured() bool {
	return e.Type != NoAction && e.PCR < pcrs
}
