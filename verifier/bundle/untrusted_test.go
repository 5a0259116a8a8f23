package bundle_test

import (
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
)

// results are a report's checks by name.
func results(r *bundle.Report) map[string]string {
	out := map[string]string{}
	for _, c := range r.Checks {
		out[c.Name] = c.Result
	}
	return out
}

func TestWithoutATrustFileNothingIsVerifiedOrDenied(t *testing.T) {
	for _, name := range []string{"first", "renewed", "denied"} {
		r := bundle.Inspect(load(t, name))
		if got := results(r); r.Result != bundle.ResultPartial || got["signer"] != bundle.Skipped || got["verdict"] != bundle.Pass || got["decision"] != bundle.Pass {
			t.Errorf("%s: %s %v", name, r.Result, r.Checks)
		}
	}
	b := load(t, "first")
	b.Verdict = load(t, "renewed").Verdict
	if r := bundle.Inspect(b); r.Result != bundle.ResultInvalid {
		t.Errorf("another verdict: %s", r.Result)
	}
	b = load(t, "first")
	b.Entry = load(t, "denied").Entry
	if r := bundle.Inspect(b); r.Result != bundle.ResultInvalid {
		t.Errorf("another entry: %s", r.Result)
	}
}

func TestTokenByItself(t *testing.T) {
	b, tr := load(t, "first"), trust(t)
	issued := time.Unix(b.Input.At, 0)
	for _, c := range []struct {
		name, token string
		trust       *bundle.Trust
		at          time.Time
		want        string
	}{
		{"good, but for revocations", b.Token, tr, issued.Add(time.Second), bundle.ResultPartial},
		{"ended", b.Token, tr, issued.Add(time.Hour), bundle.ResultDenied},
		{"of the future", b.Token, tr, issued.Add(-time.Hour), bundle.ResultDenied},
		{"no trust file", b.Token, nil, issued, bundle.ResultPartial},
		{"changed", b.Token[:len(b.Token)-4] + "AAAA", tr, issued, bundle.ResultInvalid},
		{"no token", "a.b", tr, issued, bundle.ResultInvalid},
		{"too large", strings.Repeat("a", 1<<20), tr, issued, bundle.ResultInvalid},
		{"of nobody's keys", b.Token, &bundle.Trust{Domain: tr.Domain}, issued, bundle.ResultInvalid},
	} {
		if r := bundle.InspectToken(c.token, c.trust, c.at); r.Result != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, r.Result, c.want, r.Checks)
		}
	}
}

func TestReceiptByItself(t *testing.T) {
	b, tr := load(t, "first"), trust(t)
	other := load(t, "renewed")
	for _, c := range []struct {
		name, receipt string
		entry         []byte
		trust         *bundle.Trust
		want          string
	}{
		{"good", b.Receipt, b.Entry, tr, bundle.ResultVerified},
		{"no trust file", b.Receipt, b.Entry, nil, bundle.ResultPartial},
		{"another entry", b.Receipt, other.Entry, tr, bundle.ResultInvalid},
		{"another log", b.Receipt, b.Entry, &bundle.Trust{Domain: tr.Domain}, bundle.ResultInvalid},
		{"no receipt", "", b.Entry, nil, bundle.ResultInvalid},
		{"no entry", b.Receipt, nil, nil, bundle.ResultInvalid},
	} {
		if r := bundle.InspectReceipt(c.receipt, c.entry, c.trust); r.Result != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, r.Result, c.want, r.Checks)
		}
	}
}
