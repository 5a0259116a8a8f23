package eventlog_test

import (
	"bytes"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// FuzzParse: what parses is what it marshals to, and nothing that can be asked
// of a log panics.
func FuzzParse(f *testing.F) {
	for _, l := range recorded(f) {
		if b := l.Marshal(); len(b) < 20000 {
			f.Add(b)
		}
	}
	f.Add(read(f, "logs/go-attestation/short_no_action_eventlog"))
	f.Add(newBuilder(tpm.AlgSHA256, tpm.AlgSM3).event(0, eventlog.HCRTM, zeros, []byte("HCRTM")).b)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := eventlog.Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Marshal(), b) {
			t.Fatal("Marshal is not what was parsed")
		}
		for _, alg := range l.Algs {
			values, err := l.Replay(alg)
			for i, v := range values {
				if err == nil && (i < 0 || i > 23 || len(v) != alg.Size()) {
					t.Fatalf("PCR %d in %v: %x", i, alg, v)
				}
			}
		}
		l.Findings()
		for i := range l.Events {
			e := &l.Events[i]
			_ = e.Description()
			_, textOK := e.Text()
			_, _, _, variableOK := e.Variable()
			if (textOK || variableOK) && !e.DataVerified() {
				t.Fatalf("event %d is used and not verified", i)
			}
			e.Label()
		}
		if s := l.SecureBoot(); s.Enabled && !s.Known {
			t.Fatal("Secure Boot is on and unknown")
		}
	})
}
