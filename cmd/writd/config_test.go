package main

import (
	"crypto/ed25519"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// TestExampleConfig holds the commented example against the program: as it
// stands it is accepted, and with every default written out it says the same.
func TestExampleConfig(t *testing.T) {
	plain, err := parseConfig(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAll(exampleConfig, []byte("$1"))
	spelt, err := parseConfig(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*config{plain, spelt} { // empty and absent lists are the same here
		v := reflect.ValueOf(c).Elem()
		for i := range v.NumField() {
			if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 {
				f.SetZero()
			}
		}
	}
	if !reflect.DeepEqual(plain, spelt) {
		t.Errorf("defaults of the program %+v\nand of the example %+v", plain, spelt)
	}
	typ := reflect.TypeFor[config]()
	for i := range typ.NumField() {
		if key := typ.Field(i).Tag.Get("toml"); !regexp.MustCompile(`(?m)^#?` + key + `( = |[.])`).Match(exampleConfig) {
			t.Errorf("%s is not in the example", key)
		}
	}
}

func TestBadConfig(t *testing.T) {
	w, err := ledger.NewWitness("w.example", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want string }{
		{`domain = "prod.example.org"` + "\nlisten_addr = \"x\"", "listen_addr"},
		{`domain = "Prod.Example.org"`, "lower-case"},
		{"domain = \"a.b\"\ntoken_life = \"1h\"", "2s to 300s"},
		{"domain = \"a.b\"\nadmin = \"0.0.0.0:8444\"", "loopback"},
		{"domain = \"a.b\"\nissuer = \"http://a.b\"", "https"},
		{"domain = \"a.b\"\nmin_level = \"E9\"", "E0 to E4"},
		{"domain = \"a.b\"\nreference_keys = [\"x\"]", "PEM"},
		{"domain = \"a.b\"\napprovals = 0", "at least 1"},
		{"domain = \"a.b\"\ndatabase = \"mysql://h/d\"", "mysql"},
		{"domain = \"a.b\"\ndatabase = \"postgres://u:secret@h/d\"", "PGPASSFILE"},
		{"domain = \"a.b\"\n[public]\npages = [\"demo\"]", "some of"},
		{"domain = \"a.b\"\nretention.evidence = \"90 days\"", "90d"},
		{"domain = \"a.b\"\nretention.evidence = \"10m\"", "at least 1h"},
		{"domain = \"a.b\"\nretention.entries = \"90d\"", "at least as long"},
		{"domain = \"a.b\"\n[retention]\nevidence = \"90d\"\nentries = \"30d\"", "at least as long"},
		{"domain = \"a.b\"\nwitness_max_age = \"1s\"", "four times"},
		{"domain = \"a.b\"\nwitnesses = \"\"\"\nwitness w WITNESS\nquorum w\n\"\"\"", "without a URL"},
		{"domain = ", "line 1"},
	} {
		c.text = strings.ReplaceAll(c.text, "WITNESS", w.VerifierKey())
		if _, err := parseConfig([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want an error with %q", c.text, err, c.want)
		}
	}
}

// TestConfigWarnings: what can be served and will not work is said before the start.
func TestConfigWarnings(t *testing.T) {
	t.Parallel()
	example, err := parseConfig(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(example.warnings(0, 0), "\n")
	for _, want := range []string{"domain is the example's", "no reference_keys", `ek_roots = ["vendors"]`} {
		if !strings.Contains(said, want) {
			t.Errorf("of the example nothing is said of %q:\n%s", want, said)
		}
	}
	example.Domain, example.ReferenceKeys = "mine.example", []string{"x"}
	if said := example.warnings(1, 0); len(said) > 0 {
		t.Errorf("%q", said)
	}
	example.Approvals = 1
	if said := example.warnings(0, 1); len(said) != 1 || !strings.Contains(said[0], "approvals") {
		t.Errorf("%q", said)
	}
}
