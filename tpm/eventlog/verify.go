package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf16"

	"github.com/writ-attestation/writ/tpm"
)

// DataVerified reports whether the event's data, or the part of it that its
// type says is measured, hashes to the event's digest in every bank this build
// can compute. What is verified is as true as the PCR it was replayed into;
// everything else in an event is text somebody wrote. EV_NO_ACTION and image
// loads (whose data only describes what was hashed elsewhere) never are.
func (e *Event) DataVerified() bool {
	_, how := e.covered()
	return how != coversNothing
}

// coverage says which part of an event's data its digests cover.
type coverage int

const (
	coversNothing coverage = iota
	coversAll
	coversValue   // of a variable: its value, not its name
	coversText    // the text behind a boot loader's label, not the label
	coversSection // the ASCII form of a UTF-16 name
)

// covered returns the bytes that the digests were computed over.
func (e *Event) covered() ([]byte, coverage) {
	switch e.Type {
	case NoAction, BootServicesApp, BootServicesDriver, RuntimeServicesDriver:
		return nil, coversNothing
	}
	if e.hashesTo(e.Data) {
		return e.Data, coversAll
	}
	switch {
	case e.Type == VariableBoot:
		// PFP before 1.05 and EDK II hash the variable's data only. For no other
		// variable type: a name that no digest covers would pass for proven.
		if v, ok := parseVariable(e.Data); ok && v.more == 0 && e.hashesTo(v.data) {
			return v.data, coversValue
		}
	case e.Type == IPL && e.PCR == loaderPCR:
		_, text := splitLabel(e.Data)
		if bare := bytes.TrimSuffix(text, []byte{0}); text != nil && e.hashesTo(bare) {
			return bare, coversText
		} else if text != nil && e.hashesTo(text) { // RHEL 8: with its NUL
			return bare, coversText
		}
	case e.Type == IPL && e.PCR == sectionPCR:
		// systemd-stub logs a PE section's name in UTF-16 and measures it in
		// ASCII, each with its NUL.
		if name, ok := asciiName(e.Data); ok && e.hashesTo(name) {
			return name, coversSection
		}
	}
	return nil, coversNothing
}

const (
	loaderPCR  = 8  // GRUB: commands and command lines
	sectionPCR = 11 // systemd-stub: PE sections
)

// hashesTo reports whether part hashes to every digest of the event that this
// build can compute, and there is one.
func (e *Event) hashesTo(part []byte) bool {
	// SHA-256 first: hardware computes it, and what does not match is most often
	// seen by one digest.
	agrees, found := e.agrees(part, func(a tpm.Alg) bool { return a == tpm.AlgSHA256 })
	if !agrees {
		return false
	}
	agrees, more := e.agrees(part, func(a tpm.Alg) bool { return a != tpm.AlgSHA256 })
	return agrees && (found || more)
}

// agrees compares part with the digests of the algorithms asked for; found says
// that there was one to compare with.
func (e *Event) agrees(part []byte, of func(tpm.Alg) bool) (agrees, found bool) {
	var buf [64]byte
	for i := range e.Digests {
		d := &e.Digests[i]
		if !of(d.Alg) {
			continue
		}
		sum, ok := d.Alg.AppendSum(buf[:0], part)
		if !ok {
			continue
		}
		if !bytes.Equal(sum, d.Sum) {
			return false, true
		}
		found = true
	}
	return true, found
}

// A variable is a UEFI_VARIABLE_DATA (PFP 10.4.2.1): GUID, name length in
// UTF-16 units u64, data length u64, name without NUL, data.
type variable struct {
	guid string
	name string
	data []byte
	more int // bytes logged after the structure, which real firmware does
}

func parseVariable(b []byte) (variable, bool) {
	if len(b) < 32 {
		return variable{}, false
	}
	units, size := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	rest := b[32:]
	if units > uint64(len(rest))/2 || size > uint64(len(rest))-2*units {
		return variable{}, false
	}
	name, rest := rest[:2*units], rest[2*units:]
	return variable{guid(b[:16]), decodeUTF16(name), rest[:size], len(rest) - int(size)}, true
}

// Variable returns the UEFI variable that the event measured; guid in the
// registry format, lower case. ok is false unless the digest covers name and
// GUID too, so never for an EV_EFI_VARIABLE_BOOT that hashes the value alone.
// Look at the event's PCR before believing it: a node can extend any blob into
// PCRs that are still open.
func (e *Event) Variable() (name, guid string, data []byte, ok bool) {
	switch e.Type {
	case VariableDriverConfig, VariableBoot, VariableBoot2, VariableAuthority:
	default:
		return "", "", nil, false
	}
	v, ok := parseVariable(e.Data)
	if _, how := e.covered(); !ok || v.more != 0 || how != coversAll {
		return "", "", nil, false
	}
	return v.name, v.guid, v.data, true
}

// Text returns the text that the event's digest covers, UTF-16 decoded, without
// closing NUL and without the boot loader's label: the GRUB command or kernel
// command line in PCR 8, the section name of a UKI in PCR 11, the action of an
// EV_EFI_ACTION. ok is false for other events and for text no digest covers.
func (e *Event) Text() (text string, ok bool) {
	switch e.Type {
	case IPL, EFIAction, Action, OmitBootDeviceEvents:
	default:
		return "", false
	}
	part, how := e.covered()
	if how == coversNothing {
		return "", false
	}
	return decodeText(part), true
}

// Label returns what the boot loader says the event's text is: "grub_cmd",
// "kernel_cmdline", "module_cmdline". It is "" without one. NO digest covers
// it: whoever holds the log can swap the labels of two events.
func (e *Event) Label() string {
	if e.Type != IPL || e.PCR != loaderPCR {
		return ""
	}
	label, _ := splitLabel(e.Data)
	return label
}

// splitLabel cuts GRUB's label off the text of an IPL event: "grub_cmd: text"
// (GRUB 2.04 and later) or "grub_cmd text" (RHEL 8). text is nil without one.
func splitLabel(data []byte) (label string, text []byte) {
	for _, l := range []string{"grub_cmd", "kernel_cmdline", "module_cmdline", "grub_kernel_cmdline", "grub_module_cmdline"} {
		rest, ok := bytes.CutPrefix(data, []byte(l))
		if !ok || len(rest) == 0 {
			continue
		}
		if text, ok := bytes.CutPrefix(rest, []byte(": ")); ok {
			return l, text
		}
		if rest[0] == ' ' {
			return l, rest[1:]
		}
	}
	return "", nil
}

// asciiName turns a UTF-16 section name (".linux") into ASCII, its NUL kept.
func asciiName(b []byte) ([]byte, bool) {
	if len(b) < 4 || len(b)%2 != 0 || b[0] != '.' || !bytes.HasSuffix(b, []byte{0, 0}) {
		return nil, false
	}
	name := make([]byte, 0, len(b)/2)
	for i := 0; i < len(b); i += 2 {
		if b[i+1] != 0 || b[i] > 0x7e {
			return nil, false
		}
		name = append(name, b[i])
	}
	return name, true
}

// decodeText reads bytes as UTF-16 where the second byte says so (no ASCII text
// has a NUL there), else as they are; closing NULs are dropped.
func decodeText(b []byte) string {
	if wide(b) {
		return strings.TrimRight(decodeUTF16(b), "\x00")
	}
	return string(bytes.TrimRight(b, "\x00"))
}

func decodeUTF16(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// guid formats the EFI_GUID that b starts with; its first three fields are
// little-endian.
func guid(b []byte) string {
	var out [36]byte
	src := [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(src[8:], b[8:16])
	hex.Encode(out[:8], src[:4])
	hex.Encode(out[9:13], src[4:6])
	hex.Encode(out[14:18], src[6:8])
	hex.Encode(out[19:23], src[8:10])
	hex.Encode(out[24:], src[10:])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

// GlobalVariable is EFI_GLOBAL_VARIABLE, the GUID of SecureBoot, PK and KEK.
const GlobalVariable = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// A State is what the log proves about Secure Boot. The zero value: nothing.
type State struct {
	Known   bool // exactly one verified SecureBoot variable of one byte, 0 or 1
	Enabled bool // Known, and it is 1
	Event   int  // the event that says so, if Known
}

// SecureBoot returns the Secure Boot state that the firmware measured. Only
// variables in PCR 7 before its separator count, for whoever runs later can
// extend PCR 7 with whatever it likes; the separator is found by its digest, as
// a log can give it any type. No separator, no variable, two variables, or one
// without a value (seen on real machines): not known, which is not "on".
func (l *Log) SecureBoot() State {
	var s State
	seen := 0
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Measured() || e.PCR != 7 {
			continue
		}
		if e.separates() {
			if seen != 1 {
				return State{}
			}
			return s
		}
		if e.Type != VariableDriverConfig {
			continue
		}
		// Its name first: hashing the dbx, to learn that it is not the one, is dear.
		if v, ok := parseVariable(e.Data); !ok || v.name != "SecureBoot" || v.guid != GlobalVariable {
			continue
		}
		_, _, data, ok := e.Variable()
		if !ok {
			continue
		}
		seen++
		if len(data) == 1 && data[0] <= 1 {
			s = State{Known: true, Enabled: data[0] == 1, Event: i}
		}
	}
	return State{}
}

// separates reports whether the event's digest is that of a separator: of four
// bytes of zeros or ones (PFP 10.4.1, EV_SEPARATOR).
func (e *Event) separates() bool {
	return e.hashesTo([]byte{0, 0, 0, 0}) || e.hashesTo([]byte{0xff, 0xff, 0xff, 0xff})
}
