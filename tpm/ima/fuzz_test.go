package ima_test

import (
	"bytes"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
)

// FuzzParse: what parses is what it marshals to; its own replay proves all of
// it; and each entry that is no violation says what was measured.
func FuzzParse(f *testing.F) {
	for _, boot := range []string{"c-grub-sb", "f-ima-legacy", "f-ima-ng"} {
		b := read(f, "boots/"+boot+"/ima.bin")
		f.Add(b[:parse(f, b).Entries[4].Offset])
	}
	for _, name := range []string{"ima-sha1", "ima-ng-sha1", "ima-sig-sha256", "ima-sha1-invalidated", "ima-ng-sha1-invalidated", "ima-sig-sha256-invalidated"} {
		f.Add(read(f, "logs/tpm2-tss/sml-"+name+".bin"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ima.Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Marshal(), b) {
			t.Fatal("Marshal is not what was parsed")
		}
		l.Findings()
		r := ima.NewReplay(tpm.AlgSHA256)
		n := 0
		for i := range l.Entries {
			e := &l.Entries[i]
			if !e.Violation && len(e.FileDigest) == 0 {
				t.Fatalf("entry %d has no digest", i)
			}
			if int(e.PCR) == l.PCR() && n == i {
				r.Extend(e)
				n++
			}
		}
		if got, _, ok := l.Prefix(tpm.AlgSHA256, nil, r.Sum()); !ok || got != n {
			t.Fatalf("its own replay proves %d entries of %d (%v)", got, n, ok)
		}
	})
}

// FuzzParseASCII: text that parses gives a binary list that parses to the same.
func FuzzParseASCII(f *testing.F) {
	for _, name := range []string{"logs/keylime/ima-log-sha256", "logs/keylime/ima-log-sm3_256", "logs/keylime/ima-log-sha1", "logs/keylime/ima-log-unknown", "logs/rust-keylime/ima_log.txt"} {
		f.Add(read(f, name))
	}
	for _, boot := range []string{"c-grub-sb", "f-ima-legacy", "f-ima-ng"} {
		lines := bytes.SplitAfterN(read(f, "boots/"+boot+"/ima.ascii"), []byte("\n"), 4)
		f.Add(bytes.Join(lines[:3], nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := ima.ParseASCII(b)
		if err != nil {
			return
		}
		text.Findings()
		for i := range text.Entries {
			if len(text.Entries[i].TemplateHash) != 20 {
				return // the binary format has SHA-1 only
			}
		}
		binary, err := ima.Parse(text.Marshal())
		if err != nil {
			t.Fatalf("the list in binary: %v", err)
		}
		if len(binary.Entries) != len(text.Entries) || !bytes.Equal(binary.Replay(tpm.AlgSHA256), text.Replay(tpm.AlgSHA256)) {
			t.Fatal("the list in binary is another")
		}
	})
}
