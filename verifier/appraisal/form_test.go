package appraisal

import (
	"encoding/json"
	"testing"
	"testing/quick"
)

// TestForm: everything that is hashed has the form that encoding/json gives it, so
// that the verdicts of earlier versions are made again byte for byte.
func TestForm(t *testing.T) {
	form := func(v any, got []byte) bool {
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != "x"+string(want) {
			t.Errorf("%T is written\n%s, expected\nx%s", v, got, want)
			return false
		}
		return true
	}
	x := []byte("x")
	for _, check := range []any{
		func(v Verdict) bool { return form(&v, v.AppendJSON(x)) },
		func(k Boot) bool { return form(&k, k.AppendJSON(x)) },
		func(c Challenge) bool { return form(&c, c.AppendJSON(x)) },
		func(p Prior) bool { return form(&p, p.AppendJSON(x)) },
	} {
		if err := quick.Check(check, &quick.Config{MaxCount: 200}); err != nil {
			t.Error(err)
		}
	}
	for _, v := range []Verdict{{}, {Findings: []Finding{}, Boot: &Boot{IMA: &IMA{Findings: []Finding{}}}}} {
		form(&v, v.AppendJSON(x))
	}
	for _, p := range []Prior{{}, {EKChain: [][]byte{}, EKCertificates: [][]byte{nil, {}}, IAK: new(IAK)}} {
		form(&p, p.AppendJSON(x))
	}
}
