package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxText = 4096 // bytes of one text shown; a GRUB menu entry has 2 KB

// Description says for a person what the event measured. Text that no digest
// covers is marked "unverified"; control characters are escaped.
func (e *Event) Description() string {
	part, how := e.covered()
	if how == coversNothing {
		if e.Type == NoAction {
			return e.describeNoAction()
		}
		return "unverified: " + e.describeData()
	}
	switch e.Type {
	case IPL, EFIAction, Action, OmitBootDeviceEvents:
		s := quote(decodeText(part))
		if label := e.Label(); label != "" {
			return s + " (unverified label: " + label + ")"
		}
		return s
	case VariableBoot:
		if how == coversValue {
			v, _ := parseVariable(e.Data)
			return describeValue(v) + " (unverified name: " + quote(v.name) + ")"
		}
	}
	return e.describeData()
}

// describeData describes the event's data as its type lays it out.
func (e *Event) describeData() string {
	switch e.Type {
	case VariableDriverConfig, VariableBoot, VariableBoot2, VariableAuthority:
		if v, ok := parseVariable(e.Data); ok {
			s := "variable " + quote(v.name) + ", " + describeValue(v)
			if v.more > 0 {
				s += fmt.Sprintf(" (%d more bytes than it says)", v.more)
			}
			return s
		}
	case BootServicesApp, BootServicesDriver, RuntimeServicesDriver:
		return describeImage(e.Data)
	case PlatformFirmwareBlob:
		if len(e.Data) == 16 {
			return fmt.Sprintf("firmware volume at 0x%x, %d bytes", binary.LittleEndian.Uint64(e.Data), binary.LittleEndian.Uint64(e.Data[8:]))
		}
	case GPTEvent:
		if len(e.Data) >= 92 && bytes.HasPrefix(e.Data, []byte("EFI PART")) {
			return "partition table of disk " + guid(e.Data[56:72])
		}
	case Separator:
		switch {
		case bytes.Equal(e.Data, []byte{0, 0, 0, 0}), bytes.Equal(e.Data, []byte{0xff, 0xff, 0xff, 0xff}):
			return "separator"
		}
		return "separator: firmware error " + describeBytes(e.Data)
	case EventTag:
		if len(e.Data) >= 8 && uint64(binary.LittleEndian.Uint32(e.Data[4:])) == uint64(len(e.Data)-8) {
			return fmt.Sprintf("tag 0x%08x: %s", binary.LittleEndian.Uint32(e.Data), describeBytes(e.Data[8:]))
		}
	}
	return describeBytes(e.Data)
}

func (e *Event) describeNoAction() string {
	switch {
	case e.Index == 0 && bytes.HasPrefix(e.Data, []byte("Spec ID Event")):
		return "header: " + quote(string(bytes.TrimRight(e.Data[:min(16, len(e.Data))], "\x00"))) + " (not measured)"
	default:
		if loc, ok := e.startupLocality(); ok {
			return fmt.Sprintf("TPM started from locality %d (not measured)", loc)
		}
	}
	if sig, _, ok := bytes.Cut(e.Data[:min(16, len(e.Data))], []byte{0}); ok || printable(string(sig)) {
		return "not measured, unverified: " + quote(string(sig))
	}
	return "not measured, unverified: " + describeBytes(e.Data)
}

func describeValue(v variable) string {
	switch {
	case len(v.data) == 0:
		return "no value"
	case len(v.data) <= 16:
		return fmt.Sprintf("value 0x%x", v.data)
	case v.name == "BootOrder" || !strings.HasPrefix(v.name, "Boot"):
		return fmt.Sprintf("%d bytes", len(v.data))
	}
	// EFI_LOAD_OPTION (UEFI 3.1.3): attributes u32, path length u16, description.
	d := v.data[6:]
	for i := 0; i+1 < len(d); i += 2 {
		if d[i] == 0 && d[i+1] == 0 {
			return fmt.Sprintf("%d bytes, boots %s", len(v.data), quote(decodeUTF16(d[:i])))
		}
	}
	return fmt.Sprintf("%d bytes", len(v.data))
}

// describeImage reads UEFI_IMAGE_LOAD_EVENT (PFP 10.4.2.3): address, length,
// link address and device-path length (u64 each), device path.
func describeImage(b []byte) string {
	if len(b) < 32 {
		return "image, " + describeBytes(b)
	}
	s := fmt.Sprintf("image of %d bytes", binary.LittleEndian.Uint64(b[8:]))
	if p := devicePath(b[32:]); p != "" {
		s += " from " + p
	}
	return s
}

// devicePath gives the readable nodes of a UEFI device path (UEFI 10.3): file
// paths and the GUIDs of firmware files.
func devicePath(b []byte) string {
	var parts []string
	for len(b) >= 4 {
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) || b[0] == 0x7f {
			break
		}
		switch node := b[4:n]; {
		case b[0] == 4 && b[1] == 4:
			parts = append(parts, quote(strings.TrimRight(decodeUTF16(node), "\x00")))
		case b[0] == 4 && (b[1] == 6 || b[1] == 7) && len(node) == 16:
			parts = append(parts, "firmware file "+guid(node))
		}
		b = b[n:]
	}
	return strings.Join(parts, ", ")
}

// describeBytes shows text as text, other bytes in hexadecimal.
func describeBytes(b []byte) string {
	if s := decodeText(b); s != "" && printable(s) {
		return quote(s)
	}
	if len(b)%2 == 1 && len(b) > 2 && b[0] != 0 && b[1] == 0 { // UTF-16 cut inside its NUL: old systemd-boot
		if s := decodeText(b[:len(b)-1]); s != "" && printable(s) {
			return quote(s)
		}
	}
	const shown = 32
	if len(b) > shown {
		return fmt.Sprintf("0x%x... (%d bytes)", b[:shown], len(b))
	}
	return fmt.Sprintf("0x%x", b)
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return false
		}
	}
	return true
}

// quote escapes control and other unprintable characters, and cuts long text.
func quote(s string) string {
	if len(s) > maxText {
		return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(s[:maxText]), len(s))
	}
	return strconv.Quote(s)
}
