package rules

import (
	"strings"
	"testing"
)

func facts() *Facts {
	return &Facts{Node: Node{Class: "web"}, TPM: TPM{Vendor: "IFX", Version: "7.85", ResetCount: 3}, SecureBoot: State{Known: true, Enabled: true},
		PCRs: map[int64]string{0: "aa"}, Events: []Event{{Index: 0, PCR: 8, Digest: "bb", Text: "ro quiet lockdown=confidentiality"}, {Index: 1, PCR: 4, Digest: "cc"}}, IMA: IMA{Entries: 10}}
}

func TestHolds(t *testing.T) {
	for _, c := range []struct {
		expr string
		want bool
	}{
		{`secure_boot.known && secure_boot.enabled`, true},
		{`events.exists(e, e.pcr == 8 && e.text.contains("lockdown="))`, true},
		{`events.filter(e, e.pcr == 4).size() == 2`, false},
		{`node.class == "web" && tpm.vendor in ["IFX", "STM"]`, true},
		{`ima.violations == 0 && ima.entries > 5`, true},
		{`pcrs[0] == "aa"`, true},
		{`events.all(e, e.digest != "cc")`, false},
	} {
		r, err := Compile(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if got, err := r.Holds(facts()); got != c.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", c.expr, got, err, c.want)
		}
	}
}

// TestRuleWithoutAnAnswer: what is missing, fails or costs too much is no yes.
func TestRuleWithoutAnAnswer(t *testing.T) {
	long := facts()
	for range 2000 {
		long.Events = append(long.Events, Event{Text: strings.Repeat("x", 50)})
	}
	for _, expr := range []string{
		`pcrs[23] == ""`,
		`events[9999].pcr == 0`,
		`1 / (ima.violations) > 0`,
		`events.all(a, events.all(b, a.index + b.index >= 0))`,
	} {
		r, err := Compile(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if ok, err := r.Holds(long); ok || err == nil {
			t.Errorf("%s: %v, %v; want an error", expr, ok, err)
		}
	}
}

func TestBadExpression(t *testing.T) {
	for _, c := range []struct{ expr, want string }{
		{"secure_boot.enabeld", "line 1, column 12"},
		{"boot.exited &&\n boot.kernels.size() > 0", "line 2, column 6"},
		{"boot.pk == 1", "line 1, column 9"},
		{"node.class == \"a\" &&\n  frobnicate(1)", "line 2, column 13"},
		{"1 + 1", "bool"},
		{"", "line 1"},
		{`timestamp("2026-01-01T00:00:00Z") < timestamp("2027-01-01T00:00:00Z")`, "timestamp"},
		{`duration("1h") > duration("1m")`, "duration"},
		{strings.Repeat("true && ", 1000) + "true", "at most"},
		{strings.Repeat("(", 600) + "true" + strings.Repeat(")", 600), "compiling"},
	} {
		if _, err := Compile(c.expr); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want an error with %q", c.expr, err, c.want)
		}
	}
}

// TestUnprovenIsNotEmpty: that a list has no member of a kind follows only from a
// list that is proven.
func TestUnprovenIsNotEmpty(t *testing.T) {
	f := facts()
	for _, c := range []struct {
		expr     string
		unproven []string
		want     bool
	}{
		{`boot.drivers.all(d, d.digest == "aa")`, nil, true},
		{`boot.drivers.all(d, d.digest == "aa")`, []string{"drivers"}, false},
		{`!boot.dma_protection_off`, nil, true},
		{`!boot.dma_protection_off`, []string{"dma_protection_off"}, false},
		{`!boot.dma_protection_off`, []string{"drivers"}, true},
		{`boot.drivers.size() == 0 || true`, []string{"drivers"}, true},
		{`boot == boot`, []string{"drivers"}, false},
		{`!("x" in boot.dbx) && boot.sections.size() == 0`, []string{"sections"}, false},
	} {
		r, err := Compile(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		f.Unproven = c.unproven
		if got, err := r.Holds(f); got != c.want || (err == nil) != c.want {
			t.Errorf("%s without %v: %v, %v", c.expr, c.unproven, got, err)
		}
	}
}
