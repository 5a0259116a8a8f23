package eventlog

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Limits of a device path's text; a real one has 3 to 8 nodes.
const (
	maxNodes    = 64
	maxPathText = 1024 // bytes
)

// pathText writes a device path (UEFI 2.10, 10.3) as 10.6 spells it:
// "PciRoot(0x0)/Pci(0x1,0x1)/HD(1,GPT,...)/\EFI\BOOT\BOOTX64.EFI". Nodes it
// does not know, or that are not of their kind's size, are written
// "Path(type,subtype,data)"; a path that ends inside a node ends in "/...".
func pathText(b []byte) string {
	out := make([]byte, 0, 96)
	for range maxNodes {
		if len(b) == 0 || b[0] == 0x7f && len(b) >= 4 && b[1] == 0xff {
			return string(out)
		}
		if len(out) > 0 {
			out = append(out, '/')
		}
		n := 0
		if len(b) >= 4 {
			n = int(binary.LittleEndian.Uint16(b[2:]))
		}
		if n < 4 || n > len(b) || len(out) > maxPathText {
			break
		}
		if b[0] == 0x7f { // the end of one instance of several
			out = append(out, ',')
		} else {
			out = appendNode(out, b[0], b[1], b[4:n])
		}
		b = b[n:]
	}
	return string(append(out, "..."...))
}

// appendNode writes one node; d is what follows its header.
func appendNode(out []byte, kind, sub byte, d []byte) []byte {
	le16, le32, le64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	switch k := uint16(kind)<<8 | uint16(sub); {
	case k == 0x0404: // first, as nearly every path has one
		return appendFile(out, d)
	case k == 0x0101 && len(d) == 2:
		return fmt.Appendf(out, "Pci(0x%X,0x%X)", d[1], d[0])
	case k == 0x0103 && len(d) == 20:
		return fmt.Appendf(out, "MemoryMapped(0x%X,0x%X,0x%X)", le32(d), le64(d[4:]), le64(d[12:]))
	case k == 0x0104 && len(d) >= 16:
		return appendVendor(out, "VenHw", d)
	case k == 0x0201 && len(d) == 8 && le32(d) == 0x0a0341d0:
		return fmt.Appendf(out, "PciRoot(0x%X)", le32(d[4:]))
	case k == 0x0201 && len(d) == 8:
		return fmt.Appendf(out, "Acpi(0x%08X,0x%X)", le32(d), le32(d[4:]))
	case k == 0x0301 && len(d) == 4:
		return fmt.Appendf(out, "Ata(0x%X,0x%X,0x%X)", d[0], d[1], le16(d[2:]))
	case k == 0x0302 && len(d) == 4:
		return fmt.Appendf(out, "Scsi(0x%X,0x%X)", le16(d), le16(d[2:]))
	case k == 0x0305 && len(d) == 2:
		return fmt.Appendf(out, "USB(0x%X,0x%X)", d[0], d[1])
	case k == 0x030a && len(d) >= 16:
		return appendVendor(out, "VenMsg", d)
	case k == 0x030b && len(d) == 33:
		size := 32
		if d[32] <= 1 { // Ethernet
			size = 6
		}
		return fmt.Appendf(out, "MAC(%x,0x%X)", d[:size], d[32])
	case k == 0x030c && len(d) >= 4:
		return append(out, "IPv4()"...)
	case k == 0x030d:
		return append(out, "IPv6()"...)
	case k == 0x0312 && len(d) == 6:
		return fmt.Appendf(out, "Sata(0x%X,0x%X,0x%X)", le16(d), le16(d[2:]), le16(d[4:]))
	case k == 0x0317 && len(d) == 12:
		return fmt.Appendf(out, "NVMe(0x%X,%02X-%02X-%02X-%02X-%02X-%02X-%02X-%02X)", le32(d), d[11], d[10], d[9], d[8], d[7], d[6], d[5], d[4])
	case k == 0x0318:
		return append(printed(append(out, "Uri("...), string(d)), ')')
	case k == 0x0401 && len(d) == 38:
		return appendHardDrive(out, d)
	case k == 0x0402 && len(d) == 20:
		return fmt.Appendf(out, "CDROM(0x%X,0x%X,0x%X)", le32(d), le64(d[4:]), le64(d[12:]))
	case k == 0x0403 && len(d) >= 16:
		return appendVendor(out, "VenMedia", d)
	case k == 0x0406 && len(d) == 16:
		return append(append(append(out, "FvFile("...), guid(d)...), ')')
	case k == 0x0407 && len(d) == 16:
		return append(append(append(out, "Fv("...), guid(d)...), ')')
	case k == 0x0408 && len(d) == 20:
		return fmt.Appendf(out, "Offset(0x%X,0x%X)", le64(d[4:]), le64(d[12:]))
	case k == 0x0501 && len(d) >= 4:
		text, _, _ := strings.Cut(string(d[4:]), "\x00")
		return append(printed(fmt.Appendf(out, "BBS(0x%X,", le16(d)), text), ')')
	}
	out = fmt.Appendf(out, "Path(%d,%d,", kind, sub)
	return append(hex.AppendEncode(out, d[:min(len(d), 64)]), ')')
}

func appendVendor(out []byte, name string, d []byte) []byte {
	out = append(append(append(out, name...), '('), guid(d)...)
	if rest := d[16:]; len(rest) > 0 {
		out = hex.AppendEncode(append(out, ','), rest[:min(len(rest), 64)])
	}
	return append(out, ')')
}

// appendHardDrive writes a partition: number u32, start u64, size u64,
// signature[16], format u8 (2: GPT), signature type u8 (2: GUID).
func appendHardDrive(out, d []byte) []byte {
	number, start, size := binary.LittleEndian.Uint32(d), binary.LittleEndian.Uint64(d[4:]), binary.LittleEndian.Uint64(d[12:])
	out = strconv.AppendUint(append(out, "HD("...), uint64(number), 10)
	switch d[37] {
	case 2:
		out = append(append(out, ",GPT,"...), guid(d[20:])...)
	case 1:
		out = fmt.Appendf(out, ",MBR,0x%08X", binary.LittleEndian.Uint32(d[20:]))
	default:
		out = append(out, ",,"...)
	}
	out = strconv.AppendUint(append(out, ",0x"...), start, 16)
	return append(strconv.AppendUint(append(out, ",0x"...), size, 16), ')')
}

// appendFile writes a file path, in UTF-16 with its NUL.
func appendFile(out, d []byte) []byte {
	return printed(out, strings.TrimRight(decodeUTF16(d[:min(len(d), maxPathText)]), "\x00"))
}

// printed appends text, cut, with what cannot be printed replaced.
func printed(out []byte, s string) []byte {
	start := len(out)
	for _, r := range s {
		if len(out)-start >= maxPathText {
			break
		}
		if !unicode.IsPrint(r) {
			r = '\ufffd'
		}
		out = append(out, string(r)...)
	}
	return out
}
