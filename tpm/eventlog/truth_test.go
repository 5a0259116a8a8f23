package eventlog_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-attestation/attest"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

const testdata = "../../testdata"

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testdata, path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(read(t, path), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// recorded returns every file of testdata that parses as a boot log. Which do
// and which do not is tested in cmd/writ, file by file.
func recorded(t testing.TB) map[string]*eventlog.Log {
	t.Helper()
	logs := map[string]*eventlog.Log{}
	for _, pattern := range []string{"logs/*/*", "boots/*/eventlog.bin"} {
		paths, err := filepath.Glob(filepath.Join(testdata, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			rel, _ := filepath.Rel(testdata, p)
			if l, err := eventlog.Parse(read(t, rel)); err == nil {
				logs[rel] = l
			}
		}
	}
	if len(logs) < 42 {
		t.Fatalf("%d logs in %s parse, expected 42 or more", len(logs), testdata)
	}
	return logs
}

// checkBank compares a replayed bank with PCR values a TPM held. Where the log
// says nothing, the PCR must still be as it was at reset.
func checkBank(t *testing.T, l *eventlog.Log, bank string, want map[string]string, skip ...int) {
	t.Helper()
	alg, err := tpm.ParseAlg(bank)
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Replay(alg)
	if err != nil {
		t.Fatal(err)
	}
pcrs:
	for i := range 16 {
		for _, s := range skip {
			if s == i {
				continue pcrs
			}
		}
		w, ok := want[strconv.Itoa(i)]
		if !ok {
			continue
		}
		v := got[i]
		if v == nil {
			v = make([]byte, alg.Size())
		}
		if g := hex.EncodeToString(v); g != w {
			t.Errorf("%s PCR %d: replayed %s, the TPM had %s", bank, i, g, w)
		}
	}
}

// TestReplayIsWhatTheTPMHeld compares with PCRs read from the machines' own TPMs.
func TestReplayIsWhatTheTPMHeld(t *testing.T) {
	var expected map[string]map[string]map[string]string
	readJSON(t, "logs/go-tpm-tools/expected-pcrs.json", &expected)
	if len(expected) < 11 {
		t.Fatalf("%d logs in expected-pcrs.json", len(expected))
	}
	for name, banks := range expected {
		t.Run(name, func(t *testing.T) {
			l := parse(t, read(t, "logs/go-tpm-tools/"+name))
			for bank, want := range banks {
				checkBank(t, l, bank, want, 10, 15) // 10 is IMA, 15 the operating system
			}
		})
	}
	paths, _ := filepath.Glob(filepath.Join(testdata, "boots/*/eventlog.bin"))
	if len(paths) < 14 {
		t.Fatalf("%d boots have an event log", len(paths))
	}
	for _, p := range paths {
		dir, _ := filepath.Rel(testdata, filepath.Dir(p))
		t.Run(dir, func(t *testing.T) {
			var banks map[string]map[string]string
			readJSON(t, dir+"/pcrs.json", &banks)
			l := parse(t, read(t, dir+"/eventlog.bin"))
			if len(banks) < 2 {
				t.Fatal("less than two banks")
			}
			for bank, want := range banks {
				checkBank(t, l, bank, want, 10)
			}
		})
	}
}

// TestWindowsReplay compares with the PCRs of a Windows machine, as recorded.
func TestWindowsReplay(t *testing.T) {
	var rec struct {
		Log struct {
			Raw  []byte
			PCRs []struct {
				Index  int
				Digest []byte
			}
		}
	}
	readJSON(t, "logs/go-attestation/windows_gcp_shielded_vm.json", &rec)
	want := map[string]string{}
	for _, p := range rec.Log.PCRs {
		want[strconv.Itoa(p.Index)] = hex.EncodeToString(p.Digest)
	}
	checkBank(t, parse(t, rec.Log.Raw), "sha1", want)
}

// TestReplayIsTPM2Eventlog compares every log with tpm2-tools. Its version 5.4
// extends EV_NO_ACTION and does not know StartupLocality, so PCRs with such
// events (only PCR 0 has any) are left to the other tests.
func TestReplayIsTPM2Eventlog(t *testing.T) {
	compared := 0
	for name, l := range recorded(t) {
		if name == "logs/go-attestation/option_rom_eventlog" {
			continue // tpm2_eventlog 5.4 crashes on the PCR index 0xffffffff
		}
		out, err := exec.Command("tpm2_eventlog", filepath.Join(testdata, name)).Output()
		if err != nil {
			t.Errorf("tpm2_eventlog %s: %v", name, err)
			continue
		}
		for bank, values := range tpm2PCRs(string(out)) {
			alg, err := tpm.ParseAlg(bank)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.Replay(alg)
			if err != nil {
				continue // unprovable here; tpm2_eventlog goes by what there is
			}
			for i, want := range values {
				if i == 0 && hasNoAction(l) {
					continue
				}
				if g := hex.EncodeToString(got[i]); g != want {
					t.Errorf("%s: %s PCR %d: replayed %s, tpm2_eventlog %s", name, bank, i, g, want)
				}
				compared++
			}
		}
	}
	if compared < 400 {
		t.Errorf("compared %d PCR values, expected 400 or more", compared)
	}
}

func hasNoAction(l *eventlog.Log) bool {
	for _, e := range l.Events[1:] {
		if e.Type == eventlog.NoAction {
			return true
		}
	}
	return false
}

var tpm2Line = regexp.MustCompile(`^ +(\d+) *: 0x([0-9a-f]+)$`)

// tpm2PCRs reads the "pcrs:" section that ends tpm2_eventlog's output.
func tpm2PCRs(out string) map[string]map[int]string {
	_, section, _ := strings.Cut(out, "\npcrs:\n")
	banks := map[string]map[int]string{}
	bank := ""
	for line := range strings.Lines(section) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutSuffix(strings.TrimSpace(line), ":"); ok {
			bank = name
			banks[bank] = map[int]string{}
		} else if m := tpm2Line.FindStringSubmatch(line); m != nil {
			i, _ := strconv.Atoi(m[1])
			banks[bank][i] = m[2]
		}
	}
	return banks
}

// TestReplayIsGoAttestation lets go-attestation verify our PCR values, bank by
// bank, and compares the events.
func TestReplayIsGoAttestation(t *testing.T) {
	verified := 0
	for name, l := range recorded(t) {
		peer, err := attest.ParseEventLog(l.Marshal())
		if err != nil {
			if name != "logs/tpm2-tools/specid-vendordata.bin" {
				t.Errorf("go-attestation refuses %s: %v", name, err)
			}
			continue
		}
		for _, alg := range l.Algs {
			values, err := l.Replay(alg)
			if err != nil {
				continue
			}
			hash, _ := alg.Hash()
			var pcrs []attest.PCR
			for i, v := range values {
				pcrs = append(pcrs, attest.PCR{Index: i, Digest: v, DigestAlg: hash})
			}
			events, err := peer.Verify(pcrs)
			if err != nil {
				t.Errorf("%s: go-attestation does not verify our %v bank: %v", name, alg, err)
				continue
			}
			if err := sameEvents(l, alg, events); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			verified++
		}
	}
	if verified < 60 {
		t.Errorf("verified %d banks, expected 60 or more", verified)
	}
}

func sameEvents(l *eventlog.Log, alg tpm.Alg, peer []attest.Event) error {
	n := 0
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Measured() {
			continue
		}
		if n >= len(peer) {
			return fmt.Errorf("event %d is missing in go-attestation", i)
		}
		if p := peer[n]; p.Index != int(e.PCR) || uint32(p.Type) != uint32(e.Type) || !bytes.Equal(p.Data, e.Data) || !bytes.Equal(p.Digest, e.Digest(alg)) {
			return fmt.Errorf("event %d differs from go-attestation's", i)
		}
		n++
	}
	if n != len(peer) {
		return fmt.Errorf("%d events measured, go-attestation has %d", n, len(peer))
	}
	return nil
}
