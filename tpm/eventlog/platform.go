package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// A Variable is a UEFI variable that was measured, other than those of
// [SecureBoot].
type Variable struct {
	Place
	// Name and GUID are proven only if Named: before PFP 1.05, boot variables
	// were measured without their name.
	Name  string `json:"name"`
	GUID  string `json:"guid"`
	Named bool   `json:"name_verified"`
	Value Hex    `json:"value"` // always proven
	// Order is Value as BootOrder, if that is the name.
	Order []uint16 `json:"order,omitempty"`
	// Option is Value as a load option, if the name is Boot####.
	Option *Option `json:"option,omitempty"`
}

// An Option is an EFI_LOAD_OPTION (UEFI 2.10, 3.1.3).
type Option struct {
	Active      bool   `json:"active"`
	Description string `json:"description"`
	Path        string `json:"path"` // device path as text
}

// A Disk is the partition table of a disk that was booted from.
type Disk struct {
	Place
	GUID       string      `json:"guid"`
	Partitions []Partition `json:"partitions,omitempty"`
}

// A Partition is one used entry of a partition table.
type Partition struct {
	Type  string `json:"type"` // GUID
	GUID  string `json:"guid"`
	First uint64 `json:"first"` // block
	Last  uint64 `json:"last"`  // block
	Name  string `json:"name,omitempty"`
}

// variable: a UEFI variable, all of it; in PCR 1 its value may be proven alone.
func (x *extraction) variable(f fact) bool {
	v, ok := parseVariable(f.Data)
	if !ok || v.more != 0 || !f.whole && (f.PCR != 1 || !x.hashes(v.data, f.digest)) {
		return false
	}
	out := Variable{Place: f.place, Name: v.name, GUID: v.guid, Named: f.whole, Value: v.data}
	if digits, ok := strings.CutPrefix(v.name, "Boot"); ok && v.guid == GlobalVariable {
		switch {
		case digits == "Order" && len(v.data)%2 == 0:
			out.Order = make([]uint16, 0, len(v.data)/2)
			for b := v.data; len(b) > 0; b = b[2:] {
				out.Order = append(out.Order, binary.LittleEndian.Uint16(b))
			}
		case len(digits) == 4:
			out.Option = parseOption(v.data)
		}
	}
	x.boot.Variables = append(x.boot.Variables, out)
	return true
}

// parseOption reads attributes u32, path length u16, description in UTF-16 with
// its NUL, device paths. nil if b is none.
func parseOption(b []byte) *Option {
	if len(b) < 8 {
		return nil
	}
	attributes, size, text := binary.LittleEndian.Uint32(b), int(binary.LittleEndian.Uint16(b[4:])), b[6:]
	for i := 0; i+1 < len(text); i += 2 {
		if text[i] != 0 || text[i+1] != 0 {
			continue
		}
		if size > len(text)-i-2 {
			return nil
		}
		return &Option{attributes&1 != 0, decodeUTF16(text[:i]), pathText(text[i+2 : i+2+size])}
	}
	return nil
}

const (
	gptHeader = 92  // bytes of EFI_PARTITION_TABLE_HEADER (UEFI 2.10, 5.3.2)
	gptEntry  = 128 // bytes of EFI_PARTITION_ENTRY (5.3.3), at least
)

// partitions: UEFI_GPT_DATA (PFP 10.4.2.2): the header, how many entries u64,
// the entries in use.
func (x *extraction) partitions(f fact) bool {
	b := f.Data
	if !f.whole || f.PCR != 5 || len(b) < gptHeader+8 || !bytes.HasPrefix(b, []byte("EFI PART")) {
		return false
	}
	n, each := binary.LittleEndian.Uint64(b[gptHeader:]), uint64(binary.LittleEndian.Uint32(b[84:]))
	entries := b[gptHeader+8:]
	if each < gptEntry || n > uint64(len(entries))/each || n*each != uint64(len(entries)) {
		return false
	}
	d := Disk{Place: f.place, GUID: guid(b[56:72])}
	for ; len(entries) > 0; entries = entries[each:] {
		name, _, _ := strings.Cut(decodeUTF16(entries[56:gptEntry]), "\x00")
		d.Partitions = append(d.Partitions, Partition{guid(entries), guid(entries[16:]),
			binary.LittleEndian.Uint64(entries[32:]), binary.LittleEndian.Uint64(entries[40:]), name})
	}
	x.boot.Disks = append(x.boot.Disks, d)
	return true
}

// imageText reads UEFI_IMAGE_LOAD_EVENT (PFP 10.4.2.3): address, length, link
// address and device-path length (u64 each), device path.
func imageText(b []byte) string {
	if len(b) < 32 {
		return readable(b)
	}
	path := b[32:]
	if n := binary.LittleEndian.Uint64(b[24:]); n <= uint64(len(path)) {
		path = path[:n]
	}
	if s := pathText(path); s != "" {
		return s
	}
	return fmt.Sprintf("image of %d bytes", binary.LittleEndian.Uint64(b[8:]))
}
