package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const recordings = "../../testdata"

// An outcome is what SOURCES.md expects of a recorded file: which command reads
// it, its exit code, the banks it replays in, and the findings, in order. A file
// that no command reads is given to both, which must refuse it.
type outcome struct {
	cmd      string // eventlog, ima; "" for neither
	code     int
	banks    string
	findings string
}

const (
	s1, s2, s12, s123, s23 = "sha1", "sha256", "sha1 sha256", "sha1 sha256 sha384", "sha256 sha384"

	handover = "log/no-exit-boot-services"
	unhashed = "log/data-not-hashed log/data-not-hashed"
	fragment = "log/no-separator log/no-exit-boot-services log/secure-boot-unknown"
	zeroLink = "ima/zero-boot-aggregate"
	cutTail  = "ima/truncated-tail"
	weak     = "ima/weak-digest"
)

var (
	notALog = outcome{"", exitInvalid, "", ""}
	whole   = outcome{"eventlog", exitOK, s12, ""}
	gceLog  = outcome{"eventlog", exitOK, s123, ""}
)

// outcomes has a row for every file of testdata/logs.
var outcomes = map[string]outcome{
	"go-attestation/LICENSE": notALog,
	"go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog":   gceLog,
	"go-attestation/crypto_agile_eventlog":                           {"eventlog", exitOK, s2, handover + " log/secure-boot-unknown"},
	"go-attestation/ebs_event_missing_eventlog":                      {"eventlog", exitOK, s1, "log/sha1-only " + handover},
	"go-attestation/option_rom_eventlog":                             {"eventlog", exitOK, s1, "log/sha1-only log/pcr-out-of-range log/no-action-digest"},
	"go-attestation/sb_cert_eventlog":                                {"eventlog", exitOK, s123, unhashed + " log/no-separator " + handover},
	"go-attestation/short_no_action_eventlog":                        notALog,
	"go-attestation/ubuntu_2104_shielded_vm_no_secure_boot_eventlog": gceLog,
	"go-attestation/windows_gcp_shielded_vm.json":                    notALog, // a log within JSON, see tpm/eventlog
	"go-tpm-tools/LICENSE":                                           notALog,
	"go-tpm-tools/arch-linux-workstation.bin":                        {"eventlog", exitOK, s12, handover + " log/secure-boot-unknown"},
	"go-tpm-tools/confidential-gke-debug-251000_eventlog.bin":        gceLog,
	"go-tpm-tools/cos-101-amd-sev.bin":                               gceLog,
	"go-tpm-tools/cos-85-amd-sev.bin":                                {"eventlog", exitOK, s123, unhashed},
	"go-tpm-tools/cos-93-amd-sev.bin":                                {"eventlog", exitOK, s123, unhashed},
	"go-tpm-tools/dbxupdate_x64-2021-04-29.bin":                      notALog,
	"go-tpm-tools/debian-10.bin":                                     {"eventlog", exitOK, s1, "log/sha1-only log/data-not-hashed " + handover},
	"go-tpm-tools/eventlogwithsp800155.bin":                          gceLog,
	"go-tpm-tools/expected-pcrs.json":                                notALog,
	"go-tpm-tools/rhel8-uefi.bin":                                    gceLog,
	"go-tpm-tools/ubuntu-1804-amd-sev.bin":                           gceLog,
	"go-tpm-tools/ubuntu-2104-no-dbx.bin":                            gceLog,
	"go-tpm-tools/ubuntu-2104-no-secure-boot.bin":                    gceLog,
	"go-tpm-tools/ubuntu-2404-amd-sevsnp.bin":                        gceLog,
	"keylime/LICENSE":                                                notALog,
	"keylime/binary_bios_measurements":                               {"eventlog", exitOK, s12, handover},
	"keylime/binary_bios_measurements-bogus":                         notALog,
	"keylime/binary_bios_measurements-empty":                         notALog,
	"keylime/binary_bios_measurements-secureboot":                    {"eventlog", exitOK, s2, ""},
	"keylime/ima-log-sha1":                                           {"ima", exitOK, s12, "ima/violation " + weak},
	"keylime/ima-log-sha256":                                         {"ima", exitOK, s12, ""},
	"keylime/ima-log-sha384":                                         {"ima", exitOK, s12, "ima/violation"},
	"keylime/ima-log-sha512":                                         {"ima", exitOK, s12, "ima/violation"},
	"keylime/ima-log-sm3_256":                                        {"ima", exitOK, s12, "ima/violation ima/template-hash-unchecked"},
	"keylime/ima-log-unknown":                                        notALog,
	"keylime/mb_log.bin":                                             {"eventlog", exitOK, s2, ""},
	"rust-keylime/LICENSE":                                           notALog,
	"rust-keylime/ascii_runtime_measurements":                        {"ima", exitOK, s12, zeroLink + " " + weak},
	"rust-keylime/ima_log.txt":                                       {"ima", exitOK, s12, ""},
	"rust-keylime/invalid_ima_log.txt":                               notALog,
	"tpm2-tools/LICENSE":                                             notALog,
	"tpm2-tools/event-bootorder.bin":                                 whole,
	"tpm2-tools/event-moklisttrusted.bin":                            {"eventlog", exitOK, s2, ""},
	"tpm2-tools/event-postcode.bin":                                  {"eventlog", exitOK, s12, unhashed + " " + handover},
	"tpm2-tools/event-sd-boot-fedora37.bin":                          {"eventlog", exitOK, s2, "log/secure-boot-unknown"},
	"tpm2-tools/event-uefiaction.bin":                                {"eventlog", exitOK, s12, "log/bank-incomplete log/bank-incomplete " + fragment},
	"tpm2-tools/event-uefiservices.bin":                              {"eventlog", exitOK, s12, fragment},
	"tpm2-tools/event-uefivar.bin":                                   {"eventlog", exitOK, s12, "log/bank-incomplete log/bank-incomplete " + fragment},
	"tpm2-tools/event.bin":                                           {"eventlog", exitOK, "sha1 sha256 sha384 sha512", fragment},
	"tpm2-tools/specid-vendordata.bin":                               {"eventlog", exitOK, s12, "log/no-events"},
	"tpm2-tss/LICENSE":                                               notALog,
	"tpm2-tss/binary_measurements_nuc.bin":                           {"eventlog", exitOK, s1, "log/sha1-only " + handover + " log/secure-boot-unknown"},
	"tpm2-tss/binary_measurements_pc_client.bin":                     {"eventlog", exitOK, s12, handover + " log/secure-boot-unknown"},
	"tpm2-tss/sml-ima-ng-sha1-invalidated.bin":                       {"ima", exitPartial, s12, cutTail},
	"tpm2-tss/sml-ima-ng-sha1.bin":                                   {"ima", exitPartial, s12, zeroLink + " " + weak + " " + cutTail},
	"tpm2-tss/sml-ima-sha1-invalidated.bin":                          {"ima", exitOK, s12, "ima/violation"},
	"tpm2-tss/sml-ima-sha1.bin":                                      {"ima", exitPartial, s12, zeroLink + " " + weak + " " + cutTail},
	"tpm2-tss/sml-ima-sig-sha256-invalidated.bin":                    {"ima", exitOK, s12, zeroLink + " ima/violation"},
	"tpm2-tss/sml-ima-sig-sha256.bin":                                {"ima", exitPartial, s12, zeroLink + " " + cutTail},
}

// boots have the same outcome but for these; b-grub left no event log.
var bootOutcomes = map[string]outcome{
	"h-sha384/eventlog.bin":  {"eventlog", exitOK, s23, ""},
	"f-ima-legacy/ima.bin":   {"ima", exitOK, s12, weak},
	"f-ima-legacy/ima.ascii": {"ima", exitOK, s12, weak},
}

// violations of the lists that have any.
var violations = map[string]int{
	"keylime/ima-log-sha1": 1, "keylime/ima-log-sha384": 1, "keylime/ima-log-sha512": 1, "keylime/ima-log-sm3_256": 1,
	"tpm2-tss/sml-ima-ng-sha1-invalidated.bin": 1, "tpm2-tss/sml-ima-sha1-invalidated.bin": 1, "tpm2-tss/sml-ima-sig-sha256-invalidated.bin": 1,
}

// TestEveryRecordedFile runs both commands on all of testdata. A file without a
// row fails, as does a row without a file.
func TestEveryRecordedFile(t *testing.T) {
	seen := map[string]bool{}
	for _, path := range glob(t, "logs/*/*") {
		name := strings.TrimPrefix(filepath.ToSlash(path), recordings+"/logs/")
		want, ok := outcomes[name]
		if !ok {
			t.Errorf("%s has no expected outcome", name)
			continue
		}
		seen[name] = true
		checkOutcome(t, path, name, want)
	}
	for name := range outcomes {
		if !seen[name] {
			t.Errorf("%s is gone", name)
		}
	}
	boots := glob(t, "boots/*/eventlog.bin")
	if len(boots) < 14 {
		t.Errorf("%d boots", len(boots))
	}
	for _, path := range slices.Concat(boots, glob(t, "boots/*/ima.*")) {
		name := strings.TrimPrefix(filepath.ToSlash(path), recordings+"/boots/")
		want, ok := bootOutcomes[name]
		if !ok {
			want = outcome{"eventlog", exitOK, s12, ""}
			if strings.Contains(name, "/ima.") {
				want.cmd = "ima"
			}
		}
		checkOutcome(t, path, name, want)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(recordings + "/" + pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no files (%v)", pattern, err)
	}
	return paths
}

func checkOutcome(t *testing.T, path, name string, want outcome) {
	t.Helper()
	for _, cmd := range []string{"eventlog", "ima"} {
		code := want.code
		if cmd != want.cmd {
			code = exitInvalid
		}
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), []string{cmd, path, "--json"}, nil, &stdout, &stderr); got != code {
			t.Errorf("writ %s %s: exit code %d, expected %d: %s", cmd, name, got, code, &stderr)
			continue
		}
		if code == exitInvalid {
			if stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "writ: error: ") {
				t.Errorf("writ %s %s: stdout %q, stderr %q", cmd, name, &stdout, &stderr)
			}
			continue
		}
		checkJSON(t, name, cmd, stdout.Bytes(), want)
	}
}

func checkJSON(t *testing.T, name, cmd string, out []byte, want outcome) {
	t.Helper()
	var got struct {
		Banks      map[string]any
		Violations int
		Findings   []struct{ Code, Detail, Next string }
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Errorf("writ %s %s: %v", cmd, name, err)
		return
	}
	var banks, codes []string
	for b := range got.Banks {
		banks = append(banks, b)
	}
	slices.Sort(banks)
	for _, f := range got.Findings {
		codes = append(codes, f.Code)
		if f.Detail == "" || f.Next == "" {
			t.Errorf("writ %s %s: finding without detail or next step: %+v", cmd, name, f)
		}
	}
	if b, c := strings.Join(banks, " "), strings.Join(codes, " "); b != want.banks || c != want.findings || got.Violations != violations[name] {
		t.Errorf("writ %s %s: banks %s; findings %s; %d violations\nexpected %s; %s; %d", cmd, name, b, c, got.Violations, want.banks, want.findings, violations[name])
	}
}

// TestJSONShape pins the keys of both outputs, as others read them.
func TestJSONShape(t *testing.T) {
	for args, want := range map[string][]string{
		"eventlog boots/c-grub-sb/eventlog.bin":                {"banks", "boot", "events", "findings"},
		"ima boots/c-grub-sb/ima.bin":                          {"banks", "entries", "findings", "pcr", "violations"},
		"eventlog logs/go-attestation/option_rom_eventlog":     {"banks", "boot", "events", "findings"},
		"ima logs/tpm2-tss/sml-ima-sig-sha256-invalidated.bin": {"banks", "entries", "findings", "pcr", "violations"},
	} {
		cmd, path, _ := strings.Cut(args, " ")
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"--json", cmd, recordings + "/" + path}, nil, &stdout, &stderr); code != exitUsage {
			t.Errorf("a command's flag before the command: exit code %d", code)
		}
		run(t.Context(), []string{cmd, "--json", recordings + "/" + path}, nil, &stdout, &stderr)
		var got map[string]json.RawMessage
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if k := sortedKeys(got); !slices.Equal(k, want) {
			t.Errorf("%s: keys %v, expected %v", args, k, want)
		}
		if string(got["findings"]) == "null" {
			t.Errorf("%s: findings are null", args)
		}
		if cmd == "eventlog" {
			var events []map[string]json.RawMessage
			if err := json.Unmarshal(got["events"], &events); err != nil {
				t.Fatal(err)
			}
			for i, e := range events {
				if k := sortedKeys(e); !slices.Equal(k, []string{"data_verified", "description", "digests", "index", "pcr", "type"}) {
					t.Fatalf("%s: event %d has the keys %v", args, i, k)
				}
			}
		}
	}
}

func sortedKeys(m map[string]json.RawMessage) (ks []string) {
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// TestTooLarge: an endless input is refused at the limit.
func TestTooLarge(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"eventlog", f.Name()}, nil, &stdout, &stderr); code != exitInvalid || !strings.Contains(stderr.String(), "more than") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}

// TestHelp: every command says in one line what it does, and shows how.
func TestHelp(t *testing.T) {
	checkHelp(t, newRoot())
}

func checkHelp(t *testing.T, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: needs one line without full stop that says what it does", c.CommandPath())
		}
		if !c.HasSubCommands() && !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: needs an example", c.CommandPath())
		}
		checkHelp(t, c)
	}
}
