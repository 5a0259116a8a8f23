package eventlog

import (
	"encoding/hex"
	"strings"
	"testing"
	"unicode"
)

// TestPathText spells paths as UEFI 2.10, 10.6 does.
func TestPathText(t *testing.T) {
	for _, tt := range []struct{ path, want string }{
		{"", ""},
		{"7fff0400", ""},
		{"02010c00d041030a00000000 0101060001 1f 7fff0400", "PciRoot(0x0)/Pci(0x1F,0x1)"},
		{"02010c00d041030a00000000 01010600021f 03120a000000ffff0000 7fff0400", "PciRoot(0x0)/Pci(0x1F,0x2)/Sata(0x0,0xFFFF,0x0)"},
		{"03171000010000000807060504030201", "NVMe(0x1,01-02-03-04-05-06-07-08)"},
		{"04012a000f00000000280000000000000050030000000000 07619cef4e0e4c448839cf71b1250d5c 0202", "HD(15,GPT,ef9c6107-0e4e-444c-8839-cf71b1250d5c,0x2800,0x35000)"},
		{"04012a0001000000000800000000000000000200000000007856341200000000 0000000000000000 0101", "HD(1,MBR,0x12345678,0x800,0x20000)"},
		{"0404100061002f006200 5c0063000000", `a/b\c`},
		{"04040a0061001b000000", "a\ufffd"},
		{"04061400 21aa2c4614760345836e8ab6f4662331", "FvFile(462caa21-7614-4503-836e-8ab6f4662331)"},
		{"0318 0f00 687474703a2f2f780a792f", "Uri(http://x\ufffdy/)"},
		{"01010600021f 7f010400 01010600021f", "Pci(0x1F,0x2)/,/Pci(0x1F,0x2)"},
		{"ee010600abcd", "Path(238,1,abcd)"},
		{"01010500ff", "Path(1,1,ff)"}, // a PCI node of the wrong size
		{"01010600021f 0101", "Pci(0x1F,0x2)/..."},
		{"01010600021f 01010300", "Pci(0x1F,0x2)/..."},
		{"0101ffff", "..."},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(tt.path, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := pathText(b); got != tt.want {
			t.Errorf("%s: %s, expected %s", tt.path, got, tt.want)
		}
	}
}

// TestSubject: names as certificates of machines have them, and broken ones.
func TestSubject(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"300f310d300b06035504030c0461622c63", ""}, // a name is no certificate
		{name("310d300b06035504030c0461622c63"), `CN=ab\,c`},
		{name("310b3009060355040a13024142", "310d300b06035504030c04611b5b62"), "CN=a\ufffd[b,O=AB"},
		{name("310d300b06035504031e0400410042"), "CN=AB"},
		{name("310b3009060355040314024fe9"), "CN=Oé"},
		{name("310a3008060122040c03616263"), ""},
		{name("30"), ""},
	} {
		b, err := hex.DecodeString(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := subject(b); got != tt.want {
			t.Errorf("%s: %q, expected %q", tt.name, got, tt.want)
		}
	}
}

// name puts parts of a name into what precedes it in a certificate.
func name(parts ...string) string {
	b, _ := hex.DecodeString(strings.Join(parts, ""))
	n := string(rune(len(b)))
	tbs := "\xa0\x03\x02\x01\x02\x02\x01\x01\x30\x00\x30\x00\x30\x00\x30" + n + string(b)
	return hex.EncodeToString([]byte("\x30" + string(rune(len(tbs)+2)) + "\x30" + string(rune(len(tbs))) + tbs))
}

// FuzzPathText: any device path is short, printable text; so is any subject.
func FuzzPathText(f *testing.F) {
	f.Add([]byte("\x02\x01\x0c\x00\xd0\x41\x03\x0a\x00\x00\x00\x00\x7f\xff\x04\x00"))
	f.Add([]byte("\x04\x04\x0a\x00a\x00b\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := pathText(b)
		if len(s) > 2*maxPathText+200 {
			t.Fatalf("%d bytes of text", len(s))
		}
		for _, text := range []string{s, subject(b), nameText(b)} {
			if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\ufffd' }) {
				t.Fatalf("not printable: %q", text)
			}
		}
	})
}
