package eventlog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// TestDataVerified says for one recorded event of each kind what its digest
// covers. The expected values were found with sha1sum and sha256sum.
func TestDataVerified(t *testing.T) {
	logs := recorded(t)
	for _, tt := range []struct {
		log      string
		event    int
		verified bool
		text     string // of Text, "" for none
		describe string // in Description
	}{
		{"boots/c-grub-sb/eventlog.bin", 0, false, "", "not measured"},
		{"boots/c-grub-sb/eventlog.bin", 4, true, "", `variable "SecureBoot", value 0x01`},
		{"boots/c-grub-sb/eventlog.bin", 10, true, "", `unverified name: "BootOrder"`},
		{"boots/c-grub-sb/eventlog.bin", 25, false, "", `unverified: "MokList"`},
		{"boots/c-grub-sb/eventlog.bin", 31, true, "[ -z (hd0,gpt1)/EFI/debian -o ! -e (hd0,gpt1)/EFI/debian ]", "unverified label: grub_cmd"},
		{"boots/c-grub-sb/eventlog.bin", 40, false, "", `unverified: "/vmlinuz"`},
		{"boots/d-uki/eventlog.bin", 34, false, "", "unverified: tag 0x8f3b22ec: \"Linux initrd\""},
		{"logs/go-attestation/sb_cert_eventlog", 8, true, "", `variable "db", 1572 bytes`},
		{"logs/go-attestation/sb_cert_eventlog", 12, false, "", `unverified: variable "Shim", 1080 bytes (6 more bytes than it says)`},
		{"logs/go-attestation/sb_cert_eventlog", 10, false, "", "unverified: image of"},
		{"logs/go-attestation/sb_cert_eventlog", 9, true, "", "partition table of disk"},
		{"logs/go-attestation/option_rom_eventlog", 60, false, "", "not measured"},
		{"logs/go-tpm-tools/rhel8-uefi.bin", 28, true, "set pager=1", "unverified label: grub_cmd"},
		{"logs/go-tpm-tools/arch-linux-workstation.bin", 24, false, "", `unverified: "initrd=\\intel-ucode.img`},
		{"logs/go-tpm-tools/confidential-gke-debug-251000_eventlog.bin", 1, false, "", "not measured, unverified: \"SP800-155 Event3\""},
		{"logs/tpm2-tools/event-postcode.bin", 2, false, "", "unverified: 0x"},
		{"logs/tpm2-tools/event-uefiaction.bin", 1, true, "Calling EFI Application from Boot Option", "Calling EFI"},
		{"logs/keylime/binary_bios_measurements", 1, false, "", "locality 3"},
	} {
		t.Run(fmt.Sprintf("%s/%d", tt.log, tt.event), func(t *testing.T) {
			e := &logs[tt.log].Events[tt.event]
			text, ok := e.Text()
			if e.DataVerified() != tt.verified || text != tt.text || ok != (tt.text != "") {
				t.Errorf("%v: verified %v, text %q: expected %v, %q", e.Type, e.DataVerified(), text, tt.verified, tt.text)
			}
			if d := e.Description(); !strings.Contains(d, tt.describe) {
				t.Errorf("described as %s, expected %s in it", d, tt.describe)
			}
		})
	}
}

// TestSectionNames: systemd-stub measures each PE section's name, then its
// content; only the name is in the log.
func TestSectionNames(t *testing.T) {
	l := recorded(t)["boots/d-uki/eventlog.bin"]
	var names []string
	for i := range l.Events {
		if e := &l.Events[i]; e.PCR == 11 {
			if name, ok := e.Text(); ok {
				names = append(names, name)
			}
		}
	}
	if got := strings.Join(names, " "); got != ".linux .osrel .cmdline .initrd" {
		t.Errorf("verified names in PCR 11: %s", got)
	}
}

// TestSecureBoot: the state of each machine, as SOURCES.md and its makers say.
func TestSecureBoot(t *testing.T) {
	logs := recorded(t)
	for name, want := range map[string]string{
		"boots/a-direct/eventlog.bin":                                       "off",
		"boots/c-grub-sb/eventlog.bin":                                      "on",
		"boots/d-uki/eventlog.bin":                                          "off",
		"boots/d-uki-sb/eventlog.bin":                                       "on",
		"logs/go-tpm-tools/arch-linux-workstation.bin":                      "unknown", // the variable has no value
		"logs/go-attestation/crypto_agile_eventlog":                         "unknown", // the same
		"logs/go-tpm-tools/debian-10.bin":                                   "on",
		"logs/go-tpm-tools/ubuntu-2104-no-secure-boot.bin":                  "off",
		"logs/keylime/binary_bios_measurements-secureboot":                  "on",
		"logs/keylime/mb_log.bin":                                           "on",
		"logs/tpm2-tools/event.bin":                                         "unknown", // a fragment
		"logs/tpm2-tools/event-uefivar.bin":                                 "unknown", // the variable, but no separator
		"logs/go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog": "off",
	} {
		got := "unknown"
		if s := logs[name].SecureBoot(); s.Enabled {
			got = "on"
		} else if s.Known {
			got = "off"
		}
		if got != want {
			t.Errorf("%s: Secure Boot is %s, expected %s", name, got, want)
		}
	}
}

// TestVariable: names count only where the digest covers them.
func TestVariable(t *testing.T) {
	boot := variable("Boot0001", []byte("disk"))
	l := parse(t, newBuilder(tpm.AlgSHA256).
		event(1, eventlog.VariableBoot, []byte("disk"), boot). // the value alone
		event(1, eventlog.VariableBoot, boot, boot).
		event(1, eventlog.VariableBoot2, boot, boot).
		event(1, eventlog.VariableBoot2, []byte("disk"), boot).
		event(1, eventlog.IPL, boot, boot).b)
	for i, want := range map[int]bool{1: false, 2: true, 3: true, 4: false, 5: false} {
		name, guid, data, ok := l.Events[i].Variable()
		if ok != want || ok && (name != "Boot0001" || guid != eventlog.GlobalVariable || string(data) != "disk") {
			t.Errorf("event %d: %q %s %q %v", i, name, guid, data, ok)
		}
	}
	if !l.Events[1].DataVerified() || l.Events[4].DataVerified() {
		t.Error("only EV_EFI_VARIABLE_BOOT may hash the value alone")
	}
}
