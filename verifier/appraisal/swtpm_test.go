package appraisal_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestRecordedLogsQuotedAnew replays every recorded log that a TPM can repeat
// into one and has it quote: learnt from, it is granted; after a foreign boot
// application, extended and logged, it is denied with PCR and event.
func TestRecordedLogsQuotedAnew(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/*/*/*")
	if err != nil {
		t.Fatal(err)
	}
	maker, err := swtpm.NewCA("maker", time.Unix(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	var replayed []string
	t.Run("logs", func(t *testing.T) {
		for _, p := range paths {
			log, err := os.ReadFile(p)
			if err != nil || !repeatable(log) {
				continue // not a log, or one that only firmware could repeat
			}
			replayed = append(replayed, p)
			t.Run(strings.TrimPrefix(p, "../../testdata/"), func(t *testing.T) {
				t.Parallel()
				list, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "ima.bin"))
				quotedAnew(t, maker, log, list)
			})
		}
	})
	if len(replayed) < 25 {
		t.Errorf("%d logs were replayed, want 25 or more", len(replayed))
	}
}

// repeatable reports whether b is a boot log in the sha256 bank that starts all
// PCRs at zero.
func repeatable(b []byte) bool {
	l, err := eventlog.Parse(b)
	if err != nil {
		return false
	}
	values, err := l.Replay(tpm.AlgSHA256)
	return err == nil && len(values) > 3 && !slices.ContainsFunc(l.Events, func(e eventlog.Event) bool {
		return e.PCR == 0 && (e.Type == eventlog.HCRTM || strings.HasPrefix(string(e.Data), "StartupLocality"))
	})
}

func quotedAnew(t *testing.T, maker *swtpm.CA, log, list []byte) {
	dir := filepath.Join(t.TempDir(), "tpm")
	if err := swtpm.Manufacture(context.Background(), dir, maker, swtpm.Options{}); err != nil {
		t.Fatal(err)
	}
	i, err := swtpm.Start(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	dev := device.New(i)
	ak, err := dev.AK("lab.invalid", 1)
	if err != nil {
		t.Fatal(err)
	}
	eks, err := dev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.Parse(log)
	if err == nil {
		err = i.ReplayLog(l)
	}
	if files, bad := ima.Parse(list); err == nil && bad == nil {
		err = i.ReplayIMA(files)
	}
	if err != nil {
		t.Fatal(err)
	}
	in := &appraisal.Input{Rules: appraisal.Rules, At: at, References: appraisal.References{EKRoots: [][]byte{maker.Root().Raw}},
		Challenge: appraisal.Challenge{Domain: "lab.invalid", Node: "node", Nonce: make([]byte, 32), Issued: at, Purpose: evidence.Attestation, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{AK: ak.Public(), Generation: 1, Class: "lab", EK: eks[0].Public.Marshal(), EKCertificates: [][]byte{eks[0].Certificate}, EKChain: eks[0].Chain}}
	s := &subject{t: t, in: in}
	quote(t, dev, ak, in, log, list)
	sample, findings := appraisal.Examine(in)
	if len(findings) > 0 {
		t.Fatalf("examined: %+v", findings)
	}
	set, notes, err := reference.Learn("lab", []reference.Sample{sample}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in.References.Set = signed(t, set)
	if legacy := strings.Contains(string(list), "\x03\x00\x00\x00ima"); legacy {
		s.denies("ima/boot-aggregate 10 0") // SHA-1 over the SHA-1 bank, which the quote does not cover
		return
	}
	for _, n := range notes {
		if n.Question {
			t.Fatalf("question on PCR %d: %s", n.PCR, n.Text)
		}
	}
	v := s.grants()
	in.Prior.Boot = v.Next()
	foreign := event(l, 4, eventlog.BootServicesApp, "a foreign boot application")
	if err := i.Extend(4, foreign.Digests...); err != nil {
		t.Fatal(err)
	}
	l.Events = append(l.Events, foreign)
	quote(t, dev, ak, in, l.Marshal(), list)
	v = s.denies("counters/boot-log-changed")
	named := slices.ContainsFunc(v.Findings, func(f appraisal.Finding) bool {
		return f.Code == "boot/unknown-event" && *f.PCR == 4 && *f.Event == foreign.Index && strings.HasPrefix(f.Found, hexed(foreign.Digest(tpm.AlgSHA256)))
	})
	if !named {
		t.Errorf("findings %q, want boot/unknown-event 4 %d", listed(v), foreign.Index)
	}
}

// quote has the TPM sign for the challenge of in.
func quote(t *testing.T, dev *device.TPM, ak *device.AK, in *appraisal.Input, log, list []byte) {
	t.Helper()
	pcrs := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	ev := evidence.New(evidence.Quote{})
	ev.Set(evidence.UEFILog, evidence.Item{Content: log})
	ev.Set(evidence.IMALog, evidence.Item{Content: list})
	c := in.Challenge
	binding := ev.Binding(c.Purpose, c.Domain, c.Node, [32]byte(c.Nonce))
	attest, sig, err := ak.Quote(binding[:], pcrs)
	if err != nil {
		t.Fatal(err)
	}
	values, err := dev.PCRs(tpm.AlgSHA256, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	ev.Quote = evidence.Quote{Node: c.Node, Nonce: c.Nonce, Attest: attest, Signature: sig, Bank: tpm.AlgSHA256, Values: values}
	in.Evidence = ev
}
