package reference_test

import (
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestImportEvents reads what tpm2_eventlog prints of a recorded machine and
// finds the events that the log itself holds.
func TestImportEvents(t *testing.T) {
	const file = "../../testdata/boots/c-grub-sb/eventlog.bin"
	yaml, err := exec.Command("tpm2_eventlog", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	s, notes, err := reference.ImportEvents("lab", yaml)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	at := map[uint32]int{}
	for i := range log.Events {
		e := &log.Events[i]
		p := s.PCR(int(e.PCR))
		if !e.Measured() || p == nil || p.Rule == reference.Ignore {
			continue
		}
		n := at[e.PCR]
		at[e.PCR]++
		if n >= len(p.Events) || p.Events[n].Allow[0] != hex.EncodeToString(e.Digest(tpm.AlgSHA256)) {
			t.Fatalf("event %d of PCR %d is not as logged", n, e.PCR)
		}
	}
	for pcr, n := range at {
		if got := len(s.PCR(int(pcr)).Events); got != n {
			t.Errorf("PCR %d: %d events, want %d", pcr, got, n)
		}
	}
	if len(s.TPM.Vendors) != 0 || s.SecureBoot != "required" || !notes[len(notes)-1].Question {
		t.Errorf("an imported set is open: %s", s.Marshal())
	}
}

func TestImportOtherEvents(t *testing.T) {
	event := "- EventNum: 1\n  PCRIndex: 0\n  EventType: EV_POST_CODE\n  DigestCount: 1\n  Digests:\n  - AlgorithmId: sha256\n    Digest: \"" + digest("a") + "\"\n"
	if _, _, err := reference.ImportEvents("lab", []byte("---\nevents:\n"+event)); err != nil {
		t.Fatal(err)
	}
	for name, yaml := range map[string]string{
		"empty":       "",
		"not YAML":    "\x00\x01",
		"SHA-1 alone": strings.Replace(event, "sha256", "sha1", 1),
		"two digests": event + "  - AlgorithmId: sha256\n    Digest: \"" + digest("b") + "\"\n",
		"capitals":    strings.Replace(event, digest("a"), digest("A"), 1),
		"PCR -1":      strings.Replace(event, "PCRIndex: 0", "PCRIndex: 4294967295", 1),
	} {
		if _, _, err := reference.ImportEvents("lab", []byte(yaml)); err == nil {
			t.Errorf("read: %s", name)
		}
	}
}

func FuzzImportEvents(f *testing.F) {
	f.Add([]byte("---\nversion: 1\nevents:\n- EventNum: 1\n  PCRIndex: 4\n  EventType: EV_IPL\n  DigestCount: 1\n  Digests:\n  - AlgorithmId: sha256\n    Digest: \"" + strings.Repeat("ab", 32) + "\"\n  EventSize: 1\n"))
	f.Add([]byte("---\nevents:\n"))
	f.Fuzz(func(t *testing.T, yaml []byte) {
		s, _, err := reference.ImportEvents("lab", yaml)
		if err != nil {
			return
		}
		if _, err := reference.Parse(s.Marshal()); err != nil {
			t.Errorf("%q becomes a set that is none: %v", yaml, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(reference.FormatKey(make([]byte, 32)))
	f.Fuzz(func(t *testing.T, text string) {
		k, err := reference.ParseKey(text)
		if err != nil {
			return
		}
		if again, err := reference.ParseKey(reference.FormatKey(k)); err != nil || !again.Equal(k) {
			t.Errorf("%q comes back as another key: %v", text, err)
		}
	})
}
