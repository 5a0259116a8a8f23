package appraisal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/oslog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// installed is the subject booted from a unified kernel image whose systemd went on
// measuring, quoted after the records of raw, with what it sends as its log.
func installed(t *testing.T, raw, sent []byte) *subject {
	t.Helper()
	s := boot(t, "d-uki")
	l, err := oslog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	values, err := l.Replay(tpm.AlgSHA256, s.values)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(s.values, values)
	s.sign()
	s.in.Evidence.Set(evidence.OSLog, evidence.Item{Content: sent})
	return s
}

// taught gives the subject the set learnt from itself.
func (s *subject) taught() *subject {
	s.t.Helper()
	sample, findings := appraisal.Examine(s.in)
	if len(findings) > 0 {
		s.t.Fatalf("cannot learn: %+v", findings)
	}
	sample.Vendor = "WRIT"
	set, _, err := reference.Learn("lab", []reference.Sample{sample}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.in.References.Set = signed(s.t, set)
	return s
}

// TestSystemdLog: what systemd measured after boot is proven by the same quote and
// judged like the boot's own events.
func TestSystemdLog(t *testing.T) {
	raw, err := os.ReadFile("../../tpm/oslog/testdata/boot.log")
	if err != nil {
		t.Fatal(err)
	}
	good := installed(t, raw, raw).taught()
	good.grants()
	refs := good.in.References.Set
	records := bytes.SplitAfter(raw, []byte("\n"))
	records = records[:len(records)-1]
	phase := func(text string) []byte { // a record of PCR 11
		sum := sha256.Sum256([]byte(text))
		return []byte("\x1e" + `{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"` + hex.EncodeToString(sum[:]) + `"}],"content_type":"systemd","content":{"string":"` + text +
			`","bootId":"3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b","timestamp":1,"eventType":"phase"}}` + "\n")
	}
	twice := func(b []byte) []byte { return bytes.Join([][]byte{b, b}, nil) }
	for name, c := range map[string]struct {
		measured, sent []byte
		finding        string // "": granted
	}{
		"TestRecordsAfterTheQuote":  {raw, append(bytes.Clone(raw), phase("shutdown")...), ""},
		"TestSystemdLogLeftOut":     {raw, nil, "boot/replay 11"},
		"TestSystemdRecordDropped":  {raw, bytes.Join(records[1:], nil), "boot/replay 11"},
		"TestSystemdRecordDoubled":  {raw, append(bytes.Clone(records[0]), raw...), "boot/replay 11"},
		"TestSystemdLogOfAnother":   {raw, twice(phase("other")), "boot/replay 11"},
		"TestUnknownPhase":          {append(bytes.Clone(raw), phase("rescue")...), append(bytes.Clone(raw), phase("rescue")...), "uki/unknown-event 11"},
		"TestSystemdLogTruncated":   {raw, raw[:len(raw)-9], "boot/os-log-malformed"},
		"TestSystemdRecordOfPCR4":   {raw, append(bytes.Replace(phase("x"), []byte(`"pcr":11`), []byte(`"pcr":4`), 1), raw...), ""},
		"TestSystemdTextIsNoDigest": {raw, bytes.Replace(raw, []byte("enter-initrd"), []byte("leave-initrd"), 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := installed(t, c.measured, c.sent)
			s.in.References.Set = refs
			if c.finding == "" {
				s.grants()
				return
			}
			s.denies(c.finding)
		})
	}
}

// TestRulesSeeSystemdText: only text that hashes to its digest.
func TestRulesSeeSystemdText(t *testing.T) {
	raw, err := os.ReadFile("../../tpm/oslog/testdata/boot.log")
	if err != nil {
		t.Fatal(err)
	}
	const expr = `events.exists(e, e.pcr == 11 && e.text == "enter-initrd")`
	for sent, granted := range map[string]bool{string(raw): true, strings.Replace(string(raw), "enter-initrd", "leave-initrd", 1): false} {
		s := installed(t, raw, raw).taught()
		s.in.Evidence.Set(evidence.OSLog, evidence.Item{Content: []byte(sent)})
		set, err := reference.Parse(s.in.References.Set.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		set.Rules = []reference.Rule{{Name: "phase", Expr: expr, Claim: reference.Executables, Value: 33, Why: "x"}}
		s.in.References.Set = signed(t, set)
		if v := appraisal.Appraise(s.in); v.Granted() != granted {
			t.Errorf("with the text it says %v: %s, %q", granted, v.Decision, listed(v))
		}
	}
}
