package appraisal_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

// recordedBank is a recorded machine with the quote over another bank.
func recordedBank(t *testing.T, name, bank string) *appraisal.Input {
	t.Helper()
	dir := fstest.MapFS{}
	root := os.DirFS(boots + name)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var b []byte
			b, err = fs.ReadFile(root, path)
			dir[path] = &fstest.MapFile{Data: b}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir["quote.bin"], dir["sig.bin"] = dir["quote_"+bank+".bin"], dir["sig_"+bank+".bin"]
	if bank == "ecc" {
		dir["ak_pub.bin"] = dir["ak_pub_ecc.bin"]
	}
	in, err := bundle.Recorded(dir, "lab.invalid", "lab", at)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestSHA1Bank: collisions are practical, so quotes over SHA-1 prove nothing;
// the verdict is about the sha256 bank alone.
func TestSHA1Bank(t *testing.T) {
	for name, bank := range map[string]string{"c-grub-sb": "sha1", "d-uki-sb": "sha1", "h-sha384": "sha384"} {
		in := recordedBank(t, name, bank)
		in.References.Set = boot(t, "c-grub-sb").in.References.Set
		s := &subject{t: t, in: in}
		s.denies("quote/bank")
	}
	in := recordedBank(t, "c-grub-sb", "ecc") // the same way with the P-256 key of the machine: judged to the end
	in.References.Set, in.References.EKRoots = boot(t, "c-grub-sb").in.References.Set, recorded(t, "c-grub-sb").References.EKRoots
	if v := appraisal.Appraise(in); !slices.Equal(slices.Compact(listed(v)), []string{"tpm/vendor"}) {
		t.Errorf("findings %q, want the vendor alone", listed(v))
	}
}

// TestPaddedIMABank: a kernel without SHA-256 pads the SHA-1 template hash with
// zeros; such a bank is refused (security rule 21).
func TestPaddedIMABank(t *testing.T) {
	s := boot(t, "c-grub-sb")
	l, err := ima.Parse(s.list)
	if err != nil {
		t.Fatal(err)
	}
	pcr := make([]byte, 32)
	for i := range l.Entries {
		padded := append(bytes.Clone(l.Entries[i].TemplateHash), make([]byte, 32-sha1.Size)...)
		sum := sha256.Sum256(append(pcr, padded...))
		pcr = sum[:]
	}
	s.values[10] = pcr
	s.sign()
	s.denies("ima/padded-bank 10")
}

// TestAggregateOnlyIMAListEarnsNoExecutables2: a list of nothing but the
// boot_aggregate, or one no policy is known to have filled, is all recognised
// and says nothing of what runs (security rule 21).
func TestAggregateOnlyIMAListEarnsNoExecutables2(t *testing.T) {
	s := boot(t, "c-grub-sb")
	l, err := ima.Parse(s.list)
	if err != nil {
		t.Fatal(err)
	}
	s.list = s.list[:l.Entries[0].End]
	s.replay()
	s.sign()
	if v := s.grants(); v.Vector.Executables != 3 {
		t.Errorf("executables %d, want 3", v.Vector.Executables)
	}
	for name, c := range map[string]struct {
		rule string
		text string
		want int8
	}{
		"learnt policy":              {"", "", 2},
		"text behind an extend rule": {reference.Extend, "ima_policy=tcb", 3},
	} {
		s := boot(t, "c-grub-sb")
		commandLine := func(e *eventlog.Event) bool {
			text, ok := e.Text()
			return ok && e.PCR == 8 && strings.Contains(text, "ima_policy")
		}
		if c.rule != "" { // a machine that boots without a policy and measures its name afterwards
			s.events(func(l *eventlog.Log) {
				l.Events = slices.DeleteFunc(l.Events, func(e eventlog.Event) bool { return commandLine(&e) })
				e := event(l, 8, eventlog.IPL, c.text)
				e.Data = []byte("kernel_cmdline: " + c.text)
				l.Events = append(l.Events, e)
			})
			aggregate(t, s)
			s.refs(func(r *reference.Set) {
				p := rule(r, 8)
				p.Rule = c.rule
				p.Events = slices.DeleteFunc(p.Events, func(e reference.Event) bool { return strings.Contains(e.Label, "ima_policy") })
			})
		}
		if v := s.grants(); v.Vector.Executables != c.want {
			t.Errorf("%s: executables %d, want %d", name, v.Vector.Executables, c.want)
		}
	}
}

// aggregate replays the boot log and mends the list's boot_aggregate, as the
// kernel of such a boot would have written it.
func aggregate(t *testing.T, s *subject) {
	t.Helper()
	l, err := ima.Parse(s.list)
	if err != nil {
		t.Fatal(err)
	}
	s.replay()
	e := &l.Entries[0]
	e.Data = bytes.Replace(e.Data, e.FileDigest, ima.BootAggregate(tpm.AlgSHA256, s.values, e.FileAlg), 1)
	sum := sha1.Sum(e.Data)
	e.TemplateHash = sum[:]
	s.list = l.Marshal()
	s.replay()
	s.sign()
}

// TestIMAListOfAnotherBoot: the boot_aggregate ties the list to the boot.
func TestIMAListOfAnotherBoot(t *testing.T) {
	s := boot(t, "c-grub-sb")
	s.list = file(t, "e-grub-sb-cmdline/ima.bin")
	s.replay()
	s.sign()
	s.denies("ima/boot-aggregate 10 0")
	l, err := ima.Parse(s.list)
	if err != nil {
		t.Fatal(err)
	}
	s.list = s.list[l.Entries[0].End:] // or no aggregate at all
	s.replay()
	s.sign()
	s.denies("ima/boot-aggregate 10 0")
	s.list = nil
	s.replay()
	s.sign()
	s.denies("ima/no-log 10")
	s.list = file(t, "c-grub-sb/ima.bin")
	s.values[10] = make([]byte, 32) // the TPM knows of none of it
	s.sign()
	s.denies("ima/boot-aggregate 10")
	s.list = []byte("not a list")
	s.sign()
	s.denies("ima/log-malformed 10")
}

// violation is the list entry of a file that changed while it was measured.
func violation(t testing.TB, list []byte) []byte {
	t.Helper()
	l, err := ima.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	e := l.Entries[len(l.Entries)-1]
	e.Data = bytes.Replace(e.Data, e.FileDigest, make([]byte, len(e.FileDigest)), 1)
	e.TemplateHash = make([]byte, sha1.Size)
	return (&ima.List{Entries: []ima.Entry{e}}).Marshal()
}

// TestViolation: files that changed while they were measured are counted, and no
// count makes up for a missing boot_aggregate.
func TestViolation(t *testing.T) {
	s := boot(t, "c-grub-sb")
	good := s.list
	s.list = slices.Concat(good, violation(t, good))
	s.replay()
	s.sign()
	s.denies("ima/violation 10")
	s.refs(func(r *reference.Set) { r.IMA.Violations = 1 })
	if v := s.grants(); v.Boot.IMA.Violations != 1 {
		t.Errorf("%d violations, want 1", v.Boot.IMA.Violations)
	}
	s.list = slices.Concat(violation(t, good), good)
	s.replay()
	s.sign()
	s.denies("ima/boot-aggregate 10 0")
}

// TestUnprovenEntries: what follows the quoted prefix of a list may neither
// grant nor deny, and is not acknowledged (security rule 2).
func TestUnprovenEntries(t *testing.T) {
	s := boot(t, "c-grub-sb")
	proven := len(s.list)
	s.list = slices.Concat(s.list, file(t, "e-grub-sb-newexec/ima.bin"))
	s.sign() // values as before
	v := s.grants()
	if v.Boot.IMA.Offset != uint64(proven) {
		t.Errorf("proven up to %d, want %d", v.Boot.IMA.Offset, proven)
	}
}
