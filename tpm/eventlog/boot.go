package eventlog

import (
	"bytes"
	"encoding/hex"
	"hash"
	"strings"

	"github.com/writ-attestation/writ/tpm"
)

// A Boot is what a log proves about one boot, in one bank. It is as true as the
// PCR values that [Log.Replay] gives for that bank: compare those with a quote
// first.
//
// Which event says what is decided by its PCR, its place in that PCR, its digest
// and the data that hashes to it, and never by its type or label, which nothing
// covers. Whoever edits a log without changing what it replays to can take facts
// away, or add one that is true (the bytes some other event measured), but make
// none that is false. What is taken away shows up in Other, Firmware, Drivers or
// Applications as a digest nobody explained, so a policy that lists what may be
// there is not deceived by omission.
//
// Each measured event is in exactly one list, or is one of SecureBoot's
// variables; CommandLines repeats some of Loader.
type Boot struct {
	Bank     string `json:"bank"`
	Locality byte   `json:"locality"`                   // PCR 0 started there: 0, 3, or 4 if there was an H-CRTM
	Exited   bool   `json:"exited"`                     // PCR 5 holds "Exit Boot Services Invocation"
	DMAOff   bool   `json:"dma_off"`                    // PCR 7 holds "DMA Protection Disabled" before its separator
	Debugger bool   `json:"debugger"`                   // PCR 7 holds "UEFI Debug Mode"
	Version  *Text  `json:"firmware_version,omitempty"` // S-CRTM version: the first explained event of PCR 0

	Firmware     []Measurement `json:"firmware,omitempty"`      // PCR 0 before its separator: blobs, S-CRTM contents, POST codes
	SecureBoot   SecureBoot    `json:"secure_boot"`             // PCR 7
	Drivers      []Measurement `json:"drivers,omitempty"`       // PCR 2: Authenticode digests of drivers and option ROMs
	Applications []Measurement `json:"applications,omitempty"`  // PCR 4: Authenticode digests of boot loaders and kernels
	Actions      []Text        `json:"actions,omitempty"`       // PCR 1 to 7: texts such as "Calling EFI Application from Boot Option"
	Variables    []Variable    `json:"variables,omitempty"`     // PCR 1, 3, 5, 6, 7: Boot####, BootOrder and others
	Disks        []Disk        `json:"disks,omitempty"`         // PCR 5: partition tables
	Loader       []Text        `json:"loader,omitempty"`        // PCR 8 and 12: commands and command lines
	CommandLines []Text        `json:"command_lines,omitempty"` // those texts that are a kernel's command line
	Files        []Measurement `json:"files,omitempty"`         // PCR 9: files GRUB read, initrd, load options
	Sections     []Section     `json:"sections,omitempty"`      // PCR 11: sections of a unified kernel image
	MOK          []Measurement `json:"mok,omitempty"`           // PCR 14: shim's MokList, MokListX, MokListTrusted
	Separators   []Mark        `json:"separators,omitempty"`    // PCR 0 to 7
	Other        []Measurement `json:"other,omitempty"`         // all other measured events
	Unverified   []int         `json:"unverified,omitempty"`    // measured events of whose data nothing is proven
}

// A Place says where a fact comes from.
type Place struct {
	Event int  `json:"event"`           // index of the event
	PCR   int  `json:"pcr"`             // 0 to 23
	Early bool `json:"early,omitempty"` // before the separator of its PCR (0 to 7): firmware measured it, and nobody else
}

// A Measurement is an event that proves a digest and no more.
type Measurement struct {
	Place
	Digest   Hex    `json:"digest"`
	Verified bool   `json:"verified,omitempty"` // the event's data hashes to Digest; only its meaning is not known
	Type     string `json:"claimed_type"`       // UNVERIFIED: what the log calls it
	Claim    string `json:"claim,omitempty"`    // UNVERIFIED unless Verified: what the log says it is: a file name, a device path, an address
}

// A Text is text that its event's digest covers.
type Text struct {
	Place
	Text string `json:"text"`
	// Claim is what the log says the text is ("grub_cmd", "kernel_cmdline").
	// UNVERIFIED: labels can be swapped.
	Claim string `json:"claim,omitempty"`
}

// A Section is one section of a unified kernel image as systemd-stub measures
// it: its name, and right after it in PCR 11 its contents.
type Section struct {
	Place           // of the name
	Name     string `json:"name"`     // with its dot: ".linux"
	Contents int    `json:"contents"` // the event that measured the contents
	Digest   Hex    `json:"digest"`   // of the contents
}

// A Mark is a separator: it ends what firmware measures into a PCR; only its digest counts.
type Mark struct {
	Place
	Error bool `json:"error,omitempty"` // the firmware says that measuring failed
}

// Hex is bytes, such as a digest, that are hexadecimal as text.
type Hex []byte

// String returns h in lower-case hexadecimal.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText makes h hexadecimal in JSON.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// Extract returns what the log proves in one bank. When the bank cannot be
// replayed, that is nothing, and every event is unverified.
func (l *Log) Extract(bank tpm.Alg) *Boot {
	x := extraction{log: l, boot: &Boot{Bank: bank.String()}, bank: bank}
	if !x.prepare() {
		for i := range l.Events {
			if l.Events[i].Measured() {
				x.boot.Unverified = append(x.boot.Unverified, i)
			}
		}
		return x.boot
	}
	x.boot.Locality, _ = l.start()
	for i := range l.Events {
		if e := &l.Events[i]; e.Measured() {
			x.event(e)
		}
	}
	x.closeSection()
	x.settle()
	return x.boot
}

// An extraction is one run of Extract.
type extraction struct {
	log   *Log
	boot  *Boot
	bank  tpm.Alg
	hash  hash.Hash
	buf   [64]byte
	marks [4]Hex             // digests of separators: two good, two that tell an error
	ends  [8]int             // index of the first separator of each PCR, or -1
	names [len(policies)]int // how often each Secure Boot variable was seen
	found [len(policies)]found
	linux string   // arguments of the last command that loads a kernel
	name  *Section // a section name whose contents come next
}

// separators are the data of an EV_SEPARATOR (PFP 1.06, 10.4.1): 0 or ffffffff,
// or 1, in either byte order, for a firmware that failed.
var separators = [4][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {1, 0, 0, 0}, {0, 0, 0, 1}}

// prepare finds the separators. It is false if the bank cannot be proven.
func (x *extraction) prepare() bool {
	f, ok := x.bank.Hash()
	if !ok {
		return false
	}
	x.hash = f.New()
	for i, data := range separators {
		x.hash.Reset()
		x.hash.Write(data)
		x.marks[i] = x.hash.Sum(nil)
	}
	for i := range x.ends {
		x.ends[i] = -1
	}
	for i := range x.log.Events {
		e := &x.log.Events[i]
		if !e.Measured() {
			continue
		}
		d := e.Digest(x.bank)
		if len(d) != f.Size() {
			return false
		}
		if e.PCR < 8 && x.ends[e.PCR] < 0 && x.mark(d) >= 0 {
			x.ends[e.PCR] = i
		}
	}
	return true
}

// mark returns which of [separators] a digest is of, or -1.
func (x *extraction) mark(digest []byte) int {
	for i, m := range x.marks {
		if bytes.Equal(digest, m) {
			return i
		}
	}
	return -1
}

// hashes reports whether data hashes to the digest.
func (x *extraction) hashes(data, digest []byte) bool {
	x.hash.Reset()
	x.hash.Write(data)
	return bytes.Equal(x.hash.Sum(x.buf[:0]), digest)
}

// A fact is an event while its place is looked for.
type fact struct {
	*Event
	place  Place
	digest []byte
	whole  bool // all of its data hashes to digest
}

// event puts one measured event into the list it belongs to.
func (x *extraction) event(e *Event) {
	f := fact{Event: e, digest: e.Digest(x.bank), place: Place{Event: e.Index, PCR: int(e.PCR)}}
	if e.PCR < 8 {
		f.place.Early = e.Index < x.ends[e.PCR]
		if i := x.mark(f.digest); i >= 0 {
			x.boot.Separators = append(x.boot.Separators, Mark{f.place, i >= 2})
			return
		}
	}
	f.whole = x.hashes(e.Data, f.digest)
	placed := false
	switch e.PCR {
	case 0:
		placed = x.firmware(f)
	case 2:
		placed = x.action(f) || x.measured(&x.boot.Drivers, f)
	case 4:
		placed = x.action(f) || x.measured(&x.boot.Applications, f)
	case 1, 3, 5, 6:
		placed = x.partitions(f) || x.variable(f) || x.action(f)
	case 7:
		placed = x.policy(f) || x.variable(f) || x.action(f)
	case loaderPCR, 12:
		placed = x.loader(f)
	case 9:
		placed = x.measured(&x.boot.Files, f)
	case sectionPCR:
		placed = x.section(f)
	case 14:
		placed = x.measured(&x.boot.MOK, f)
	}
	if !placed {
		x.measured(&x.boot.Other, f)
	}
}

// measured puts an event into a list as a digest without a proven meaning.
func (x *extraction) measured(list *[]Measurement, f fact) bool {
	if *list == nil {
		*list = make([]Measurement, 0, 8)
	}
	*list = append(*list, Measurement{f.place, f.digest, f.whole, f.Type.String(), f.claim()})
	if !f.whole {
		x.boot.Unverified = append(x.boot.Unverified, f.Index)
	}
	return true
}

// firmware: the S-CRTM version is the first event of PCR 0 that is explained
// (PFP 3.3.4.1 wants it first; what some measure before it is a digest only).
func (x *extraction) firmware(f fact) bool {
	switch {
	case !f.place.Early:
		return false
	case f.whole && len(f.Data) <= maxVersion && x.boot.Version == nil:
		x.boot.Version = &Text{Place: f.place, Text: readable(f.Data)}
		return true
	}
	return x.measured(&x.boot.Firmware, f)
}

const (
	maxAction    = 256 // bytes; the longest of PFP 10.4.4 has 40
	maxVersion   = 512 // bytes; real ones have up to 280
	dmaOff       = "DMA Protection Disabled"
	debuggerMode = "UEFI Debug Mode"
)

// action: short printable text, whole. Nothing else may pass for an action: the
// bytes an Authenticode digest is computed over could be logged as its "data",
// and a program would be gone from the list of programs.
func (x *extraction) action(f fact) bool {
	if !f.whole || len(f.Data) == 0 || len(f.Data) > maxAction {
		return false
	}
	text := decodeText(f.Data)
	if text == "" || !printable(text) {
		return false
	}
	x.boot.Actions = append(x.boot.Actions, Text{Place: f.place, Text: text})
	switch {
	case f.PCR == 5 && bytes.Equal(f.Data, exitBootServices):
		x.boot.Exited = true
	case f.PCR == 7 && f.place.Early && text == dmaOff:
		x.boot.DMAOff = true
	case f.PCR == 7 && f.place.Early && text == debuggerMode:
		x.boot.Debugger = true
	}
	return true
}

// loader: text a boot loader measured. GRUB measures "linux" with its arguments,
// and then the arguments again as the kernel's command line; systemd-boot
// measures that alone, in UTF-16, and nothing else of PCR 12 is such text.
func (x *extraction) loader(f fact) bool {
	part, label := x.loaderText(f)
	text := decodeText(part)
	if part == nil || !printable(text) || f.PCR != loaderPCR && !wide(part) {
		return false
	}
	t := Text{f.place, text, label}
	x.boot.Loader = append(x.boot.Loader, t)
	if verb, args, ok := strings.Cut(text, " "); ok && strings.HasPrefix(verb, "linux") {
		x.linux = unquoted(args)
	} else if wide(part) || x.linux != "" && unquoted(text) == x.linux {
		x.boot.CommandLines = append(x.boot.CommandLines, t)
	}
	return true
}

// loaderText returns the part of a boot loader's event that was measured, and
// the label before it. nil: nothing of it is proven.
func (x *extraction) loaderText(f fact) (part []byte, label string) {
	if f.whole {
		return f.Data, ""
	}
	if n := len(f.Data); n > 2 && n%2 == 1 && wide(f.Data[:n-1]) {
		// Old systemd-boot logs half of the NUL it measures.
		if padded := append(f.Data[:n:n], 0); x.hashes(padded, f.digest) {
			return padded, ""
		}
	}
	label, text := splitLabel(f.Data)
	if text == nil {
		return nil, ""
	}
	if bare := bytes.TrimSuffix(text, []byte{0}); x.hashes(bare, f.digest) {
		return bare, label
	}
	if x.hashes(text, f.digest) { // RHEL 8: with its NUL
		return text, label
	}
	return nil, ""
}

// unquoted drops what GRUB adds when it makes a command line of arguments.
func unquoted(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '"' || r == '\'' || r == '\\' {
			return -1
		}
		return r
	}, s))
}

// section: a name, and what follows it in PCR 11.
func (x *extraction) section(f fact) bool {
	if name, ok := sectionName(f.Data); ok && (f.whole || x.hashes(name, f.digest)) {
		x.closeSection()
		x.name = &Section{Place: f.place, Name: strings.TrimRight(string(name), "\x00")}
		return true
	}
	if x.name == nil {
		return false
	}
	x.name.Contents, x.name.Digest = f.Index, f.digest
	x.boot.Sections = append(x.boot.Sections, *x.name)
	if !f.whole {
		x.boot.Unverified = append(x.boot.Unverified, f.Index)
	}
	x.name = nil
	return true
}

// closeSection makes a name that no contents follow an unexplained event.
func (x *extraction) closeSection() {
	if x.name == nil {
		return
	}
	e := &x.log.Events[x.name.Event]
	x.measured(&x.boot.Other, fact{e, x.name.Place, e.Digest(x.bank), true})
	x.name = nil
}

// sectionName reads a section's name as logged: UTF-16 or ASCII, with its NUL.
func sectionName(b []byte) ([]byte, bool) {
	if name, ok := asciiName(b); ok {
		return name, true
	}
	if len(b) > 2 && len(b) <= 16 && b[0] == '.' && bytes.IndexByte(b, 0) == len(b)-1 {
		return b, true
	}
	return nil, false
}

// claim is what the log says about an event, as its type lays the data out.
func (f *fact) claim() string {
	switch f.Type {
	case BootServicesApp, BootServicesDriver, RuntimeServicesDriver:
		return imageText(f.Data)
	case PlatformFirmwareBlob:
		return strings.TrimPrefix(f.describeData(), "unverified: ")
	case EventTag:
		if len(f.Data) > 8 {
			return readable(f.Data[8:])
		}
	}
	return readable(f.Data)
}

// wide reports whether text is in UTF-16, as [decodeText] sees it.
func wide(b []byte) bool { return len(b) >= 2 && len(b)%2 == 0 && b[0] != 0 && b[1] == 0 }

// readable returns bytes as text if they are text, else the first of them in
// hexadecimal.
func readable(b []byte) string {
	if len(b) <= maxText {
		if s := decodeText(b); s != "" && printable(s) {
			return s
		}
	}
	const shown = 32
	if len(b) > shown {
		return "0x" + hex.EncodeToString(b[:shown]) + "..."
	}
	return "0x" + hex.EncodeToString(b)
}
