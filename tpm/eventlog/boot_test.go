package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

func extracted(t testing.TB, name string, bank tpm.Alg) *eventlog.Boot {
	t.Helper()
	return parse(t, read(t, name)).Extract(bank)
}

func texts(ts []eventlog.Text) (out []string) {
	for _, t := range ts {
		out = append(out, t.Text)
	}
	return out
}

func claims(ms []eventlog.Measurement) (out []string) {
	for _, m := range ms {
		out = append(out, m.Claim)
	}
	return out
}

func check[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) {
		t.Errorf("%s: %s, expected %s", what, g, w)
	}
}

// TestExtractGRUB: a boot of ours, of which we know what was booted (see
// testdata/boots): shim, GRUB, kernel, with Microsoft's keys.
func TestExtractGRUB(t *testing.T) {
	b := extracted(t, "boots/c-grub-sb/eventlog.bin", tpm.AlgSHA256)
	check(t, "bank", b.Bank, "sha256")
	check(t, "exited", b.Exited, true)
	check(t, "firmware", claims(b.Firmware), []string{"firmware volume at 0x820000, 917504 bytes", "firmware volume at 0x900000, 12582912 bytes"})
	sb := b.SecureBoot
	check(t, "Secure Boot", []any{sb.Known, sb.Enabled, sb.Event}, []any{true, true, 4})
	check(t, "PK", sb.PK.Certificates[0].Subject, "EMAIL=debian-devel@lists.debian.org,CN=Debian UEFI Secure Boot (PK/KEK key),O=Debian")
	check(t, "KEK", sb.KEK.Certificates[1].Fingerprint.String(), "a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503") // Microsoft publishes it
	check(t, "db", sb.DB.Certificates[1].Fingerprint.String(), "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507")
	check(t, "dbx", sb.DBX.Hashes[0].String(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	check(t, "authority", sb.Authorities[0].Certificate.Subject, "CN=Microsoft Corporation UEFI CA 2011,O=Microsoft Corporation,L=Redmond,ST=Washington,C=US")
	check(t, "second authority", []string{sb.Authorities[1].Variable, sb.Authorities[1].Certificate.Subject}, []string{"MokListRT", "CN=Debian Secure Boot CA"})
	check(t, "SbatLevel", sb.SbatLevel.Text, "sbat,1,2025021800\nshim,4\ngrub,5\n")
	check(t, "applications", claims(b.Applications), []string{
		`PciRoot(0x0)/Pci(0x1,0x0)/HD(1,GPT,aaaaaaaa-0000-0000-0000-000000000001,0x800,0x20000)/\EFI\BOOT\BOOTX64.EFI`,
		`\EFI\BOOT\grubx64.efi`, "image of 8247232 bytes", "image of 8247232 bytes"})
	check(t, "actions", texts(b.Actions), []string{"Calling EFI Application from Boot Option", "Exit Boot Services Invocation", "Exit Boot Services Returned with Success"})
	check(t, "command lines", texts(b.CommandLines), []string{"/vmlinuz root=/dev/vda2 ro console=ttyS0 panic=-1 ima_policy=tcb"})
	check(t, "files", claims(b.Files), []string{"(hd0,gpt1)/EFI/debian/grub.cfg", "/vmlinuz", "/initrd.img"})
	check(t, "MOK", claims(b.MOK), []string{"MokList", "MokListX", "MokListTrusted"})
	check(t, "BootOrder", b.Variables[0].Order, []uint16{1, 0, 2})
	check(t, "Boot0001", *b.Variables[1].Option, eventlog.Option{Active: true, Description: "UEFI Misc Device", Path: "PciRoot(0x0)/Pci(0x1,0x0)"})
	check(t, "disk", []any{b.Disks[0].GUID, b.Disks[0].Partitions[1]}, []any{"11111111-2222-3333-4444-555555555555",
		eventlog.Partition{Type: "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", GUID: "aaaaaaaa-0000-0000-0000-000000000002", First: 133120, Last: 153599, Name: "root"}})
	check(t, "separators", len(b.Separators), 8)
	check(t, "other", len(b.Other), 0)
}

// TestExtractUKI: the same for a unified kernel image.
func TestExtractUKI(t *testing.T) {
	b := extracted(t, "boots/d-uki-sb/eventlog.bin", tpm.AlgSHA256)
	var names []string
	for _, s := range b.Sections {
		names = append(names, s.Name)
	}
	check(t, "sections", names, []string{".linux", ".osrel", ".cmdline", ".initrd"})
	check(t, "authority", b.SecureBoot.Authorities[0].Variable, "db")
	// The kernel's own stub measures the initrd that systemd-stub hands over.
	check(t, "files", claims(b.Files), []string{"LOADED_IMAGE::LoadOptions", "Linux initrd"})
	other := extracted(t, "boots/d-uki-sb/eventlog.bin", tpm.AlgSHA1)
	check(t, "sections in sha1", len(other.Sections), 4)
	check(t, "digest in sha1", len(other.Sections[0].Digest), 20)
}

// TestExtractRealMachines: what is odd on them, by SOURCES.md.
func TestExtractRealMachines(t *testing.T) {
	lenovo := extracted(t, "logs/keylime/binary_bios_measurements", tpm.AlgSHA256)
	check(t, "locality", lenovo.Locality, 3)
	check(t, "version", lenovo.Version.Text, "N40ET41W ")
	check(t, "firmware", lenovo.Firmware[0].Claim, "Boot Guard Measured S-CRTM")
	check(t, "drivers", lenovo.Drivers[0].Claim, "Fv(8fc151ae-c96f-4bc9-8c33-107992c7735b)/FvFile(3548423a-2b2c-4393-9826-b202959d2362)")
	check(t, "dbx", []int{len(lenovo.SecureBoot.DBX.Certificates), len(lenovo.SecureBoot.DBX.Hashes)}, []int{2, 458})

	arch := extracted(t, "logs/go-tpm-tools/arch-linux-workstation.bin", tpm.AlgSHA256)
	check(t, "SecureBoot of 0 bytes", arch.SecureBoot.Known, false)
	check(t, "its variable", arch.Variables[0].Name, "SecureBoot")
	if len(arch.CommandLines) != 1 || !strings.HasPrefix(arch.CommandLines[0].Text, `initrd=\intel-ucode.img`) {
		t.Errorf("systemd-boot's command line: %q", texts(arch.CommandLines))
	}
	rom := extracted(t, "logs/go-attestation/option_rom_eventlog", tpm.AlgSHA1)
	check(t, "option ROM", claims(rom.Drivers), []string{"PciRoot(0x0)/Pci(0x2,0x0)/Pci(0x0,0x0)/Offset(0xF600,0x207FF)"})
	check(t, "authorities", len(rom.SecureBoot.Authorities), 2) // the ROM, Windows

	shim := extracted(t, "logs/go-attestation/sb_cert_eventlog", tpm.AlgSHA256)
	check(t, "authority with a byte more than was hashed is not used", len(shim.SecureBoot.Authorities), 1)
	check(t, "and left unexplained", []bool{slices.Contains(shim.Unverified, 12), slices.Contains(shim.Unverified, 14)}, []bool{true, true})
}

// TestExtractUnprovableBank: a bank that cannot be replayed proves nothing.
func TestExtractUnprovableBank(t *testing.T) {
	for name, l := range recorded(t) {
		for _, alg := range append(l.Algs, tpm.AlgSHA512, tpm.AlgSM3) {
			if _, err := l.Replay(alg); err == nil {
				continue
			}
			b := l.Extract(alg)
			n := len(b.Unverified)
			b.Unverified = nil
			check(t, name, b, &eventlog.Boot{Bank: alg.String()})
			measured := 0
			for i := range l.Events {
				if l.Events[i].Measured() {
					measured++
				}
			}
			check(t, name+" unverified", n, measured)
		}
	}
}

// events returns the event of each list entry; each measured event must be in
// exactly one.
func events(b *eventlog.Boot) (all []int) {
	for _, list := range [][]eventlog.Measurement{b.Firmware, b.Drivers, b.Applications, b.Files, b.MOK, b.Other} {
		for _, m := range list {
			all = append(all, m.Event)
		}
	}
	for _, list := range [][]eventlog.Text{b.Actions, b.Loader} {
		for _, t := range list {
			all = append(all, t.Event)
		}
	}
	for _, t := range []*eventlog.Text{b.Version, b.SecureBoot.SbatLevel} {
		if t != nil {
			all = append(all, t.Event)
		}
	}
	for _, db := range []*eventlog.Database{b.SecureBoot.PK, b.SecureBoot.KEK, b.SecureBoot.DB, b.SecureBoot.DBX} {
		if db != nil {
			all = append(all, db.Event)
		}
	}
	if b.SecureBoot.Known {
		all = append(all, b.SecureBoot.Event)
	}
	for _, a := range b.SecureBoot.Authorities {
		all = append(all, a.Event)
	}
	for _, v := range b.Variables {
		all = append(all, v.Event)
	}
	for _, d := range b.Disks {
		all = append(all, d.Event)
	}
	for _, s := range b.Separators {
		all = append(all, s.Event)
	}
	for _, s := range b.Sections {
		all = append(all, s.Event, s.Contents)
	}
	slices.Sort(all)
	return all
}

// checkNothingHidden also checks the values of variables whose names are not
// proven, by their digests.
func checkNothingHidden(t *testing.T, name string, l *eventlog.Log, b *eventlog.Boot) {
	t.Helper()
	var measured []int
	for i := range l.Events {
		if l.Events[i].Measured() {
			measured = append(measured, i)
		}
	}
	if got := events(b); !slices.Equal(got, measured) {
		t.Fatalf("%s: events %v are listed, %v were measured", name, got, measured)
	}
	alg, _ := tpm.ParseAlg(b.Bank)
	hash, _ := alg.Hash()
	for _, v := range b.Variables {
		h := hash.New()
		h.Write(v.Value)
		if !v.Named && !bytes.Equal(h.Sum(nil), l.Events[v.Event].Digest(alg)) {
			t.Errorf("%s: event %d is variable %s, and its value is not what was measured", name, v.Event, v.Name)
		}
	}
}

// TestNothingHidden: every measured event of every log is in exactly one list.
func TestNothingHidden(t *testing.T) {
	for name, l := range recorded(t) {
		for _, alg := range l.Algs {
			if _, err := l.Replay(alg); err == nil {
				checkNothingHidden(t, name, l, l.Extract(alg))
			}
		}
	}
}

// signatures makes an EFI_SIGNATURE_LIST with sizes as told.
func signatures(kind string, size, header, each uint32, body []byte) []byte {
	b := []byte(kind)
	for _, n := range []uint32{size, header, each} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, body...)
}

const (
	x509Kind   = "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"
	sha256Kind = "\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28"
	otherKind  = "0123456789abcdef"
)

// TestSignatureListSizes: a database that is not lists to its last byte is not
// read at all.
func TestSignatureListSizes(t *testing.T) {
	entry := make([]byte, 48)
	good := signatures(sha256Kind, 76, 0, 48, entry)
	for name, tt := range map[string]struct {
		data []byte
		want int // hashes, certificates and others; -1: not read
	}{
		"empty":                       {nil, 0},
		"one hash":                    {good, 1},
		"two lists":                   {append(slices.Clone(good), good...), 2},
		"list without entries":        {signatures(sha256Kind, 28, 0, 48, nil), 0},
		"a header":                    {signatures(otherKind, 28+4+40, 4, 20, make([]byte, 44)), 2},
		"garbage certificate":         {signatures(x509Kind, 28+20, 0, 20, make([]byte, 20)), 1},
		"cut":                         {good[:75], -1},
		"trailing byte":               {append(slices.Clone(good), 0), -1},
		"size past the end":           {signatures(sha256Kind, 77, 0, 48, entry), -1},
		"size of 4 GB":                {signatures(sha256Kind, 0xffffffff, 0, 48, entry), -1},
		"size 0":                      {signatures(sha256Kind, 0, 0, 48, entry), -1},
		"header past the list":        {signatures(sha256Kind, 76, 49, 48, entry), -1},
		"header and size wrap":        {signatures(sha256Kind, 27, 0xffffffff, 48, entry), -1},
		"signature size 0":            {signatures(otherKind, 76, 0, 0, entry), -1},
		"signature size of the owner": {signatures(otherKind, 76, 0, 16, entry), -1},
		"signature size 4 GB":         {signatures(x509Kind, 76, 0, 0xffffffff, entry), -1},
		"not a multiple":              {signatures(otherKind, 76, 0, 47, entry), -1},
		"hash of another size":        {signatures(sha256Kind, 76, 0, 24, entry), -1},
	} {
		v := security("dbx", tt.data)
		b := parse(t, newBuilder(tpm.AlgSHA256).event(7, eventlog.VariableDriverConfig, v, v).event(7, eventlog.Separator, zeros, zeros).b).Extract(tpm.AlgSHA256)
		got := -1
		if db := b.SecureBoot.DBX; db != nil {
			got = len(db.Hashes) + len(db.Certificates) + db.Others
		} else if len(b.Variables)+len(b.SecureBoot.Authorities) != 1 {
			t.Errorf("%s: neither a database nor anything else", name)
		}
		if got != tt.want {
			t.Errorf("%s: %d signatures, expected %d", name, got, tt.want)
		}
	}
}

// security makes a variable of the image security database.
func security(name string, data []byte) []byte {
	b := variable(name, data)
	copy(b, "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f")
	return b
}

// TestExtractBomb: a log of the largest size, of what is costliest to list, is
// no way to keep a verifier busy or to fill its memory.
func TestExtractBomb(t *testing.T) {
	entry := make([]byte, 17)
	for name, data := range map[string][]byte{
		"signatures":   security("dbx", signatures(otherKind, 28+17*100000, 0, 17, bytes.Repeat(entry, 100000))),
		"certificates": security("db", signatures(x509Kind, 28+17*100000, 0, 17, bytes.Repeat(entry, 100000))),
		"name":         variable(strings.Repeat("x", 1<<20), nil),
		"device path":  append(make([]byte, 32), bytes.Repeat([]byte{1, 0xee, 4, 0}, 1<<19)...),
		"text":         bytes.Repeat([]byte("x"), 2<<20),
	} {
		for _, typ := range []eventlog.Type{eventlog.VariableDriverConfig, eventlog.BootServicesDriver} {
			bd := newBuilder(tpm.AlgSHA256)
			for _, pcr := range []uint32{2, 7} {
				bd.event(pcr, typ, data, data[:min(len(data), 1800000)])
			}
			l := parse(t, bd.event(7, eventlog.Separator, zeros, zeros).b)
			if n := allocated(func() { l.Extract(tpm.AlgSHA256) }); n > 40<<20 {
				t.Errorf("%s as %v: %d MB allocated", name, typ, n>>20)
			}
		}
	}
	small := newBuilder(tpm.AlgSHA256)
	for range 60000 {
		small.raw(8, eventlog.IPL, []eventlog.Digest{{Alg: tpm.AlgSHA256, Sum: make([]byte, 32)}}, []byte("x"))
	}
	l := parse(t, small.b)
	if n := allocated(func() { l.Extract(tpm.AlgSHA256) }); n > 80<<20 {
		t.Errorf("small events: %d MB allocated", n>>20)
	}
}
