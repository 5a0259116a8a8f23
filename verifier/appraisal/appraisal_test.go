package appraisal_test

import (
	"crypto/ed25519"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

const boots = "../../testdata/boots/"

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).Unix()

// recorded is a real machine's evidence with its own maker's root trusted.
func recorded(t testing.TB, name string) *appraisal.Input {
	t.Helper()
	in, err := bundle.Recorded(os.DirFS(boots+name), "lab.invalid", "lab", at)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(boots + name + "/ca/swtpm-localca-rootca-cert.pem")
	if err != nil {
		t.Fatal(err)
	}
	root, err := bundle.ParseCertificatePEM(string(pem))
	if err != nil {
		t.Fatal(err)
	}
	in.References.EKRoots = [][]byte{root}
	return in
}

// sample is the recorded machine as a good boot to learn from.
func sample(t testing.TB, name string) reference.Sample {
	t.Helper()
	in := recorded(t, name)
	log, err := eventlog.Parse(in.Evidence.Item(evidence.UEFILog).Content)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ima.Parse(in.Evidence.Item(evidence.IMALog).Content)
	if err != nil {
		t.Fatal(err)
	}
	n, _, ok := list.Prefix(tpm.AlgSHA256, nil, in.Evidence.Quote.Values[10])
	if !ok {
		t.Fatalf("%s: the IMA list does not replay", name)
	}
	return reference.Sample{Name: name, Vendor: "id:00001014", Log: log, PCRs: in.Evidence.Quote.Values, IMA: list.Entries[:n]}
}

func learn(t testing.TB, names ...string) *reference.Signed {
	t.Helper()
	var samples []reference.Sample
	for _, n := range names {
		samples = append(samples, sample(t, n))
	}
	set, notes, err := reference.Learn("lab", samples, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		if n.Question {
			t.Logf("question: PCR %d: %s", n.PCR, n.Text)
		}
	}
	return signed(t, set)
}

func signed(t testing.TB, set *reference.Set) *reference.Signed {
	t.Helper()
	env, err := reference.Sign(set, ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := reference.Read(env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// found lists the findings as "code pcr", claims left out.
func found(v appraisal.Verdict) []string {
	var out []string
	for _, f := range v.Findings {
		if strings.HasPrefix(f.Code, "claim/") {
			continue
		}
		s := f.Code
		if f.PCR != nil {
			s += " " + string(rune('0'+*f.PCR/10)) + string(rune('0'+*f.PCR%10))
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestRecordedMachines holds every recorded boot against references learnt from
// another boot of the same machine; what must be found is from SOURCES.md.
func TestRecordedMachines(t *testing.T) {
	grub := learn(t, "c-grub-sb", "g-again", "g-keep-1")
	for _, c := range []struct {
		boot  string
		grant bool
		want  []string
	}{
		{"c-grub-sb", true, nil},
		{"g-again", true, nil},
		{"g-keep-2", true, nil},
		{"b-grub", false, []string{"boot/no-log"}},
		{"e-grub-sb-cmdline", false, []string{"boot-files/unknown-event 09", "command-line/unknown-event 08"}},
		{"e-grub-sb-initrd", false, []string{"boot-files/unknown-event 09"}},
		{"e-grub-sb-newexec", false, []string{"ima/unknown-file 10"}},
		{"d-uki", false, nil},
	} {
		t.Run(c.boot, func(t *testing.T) {
			in := recorded(t, c.boot)
			in.References.Set = grub
			v := appraisal.Appraise(in)
			if v.Granted() != c.grant {
				t.Errorf("granted: %v, want %v\n%s", v.Granted(), c.grant, v.Marshal())
			}
			slices.Sort(c.want)
			if got := found(v); c.boot != "d-uki" && !slices.Equal(got, c.want) {
				t.Errorf("findings %q, want %q\n%s", got, c.want, v.Marshal())
			}
		})
	}
}
