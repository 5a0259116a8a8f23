package appraisal

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/findings.md")

const findingsPage = "../../docs/findings.md"

// TestFindingsPage keeps docs/findings.md what the code says.
func TestFindingsPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Findings\n\nEvery code a finding can have, what it means and what it does to the claims of the AR4SI vector (the value a claim is\nlowered to; 0 makes no claim). Made from the code: `go test ./verifier/appraisal -run TestFindingsPage -update`.\n\n| code | meaning | lowers |\n|---|---|---|\n")
	for _, c := range Codes() {
		var lowers []string
		for _, e := range effects(Finding{Code: c.Code}) {
			lowers = append(lowers, fmt.Sprintf("%s %d", e.claim, e.value))
		}
		if strings.HasPrefix(c.Code, ruleFailed) {
			lowers = []string{"as the rule says"}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.Code, c.Meaning, strings.Join(lowers, ", "))
	}
	if *update {
		if err := os.WriteFile(findingsPage, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(findingsPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != b.String() {
		t.Errorf("%s is not what the code says; run the test with -update", findingsPage)
	}
}

// TestEveryCodeIsListed reads the codes out of the source.
func TestEveryCodeIsListed(t *testing.T) {
	src, err := os.ReadFile("findings.go")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, c := range Codes() {
		if slices.Contains(listed, c.Code) {
			t.Errorf("%s is listed twice", c.Code)
		}
		listed = append(listed, c.Code)
	}
	found := regexp.MustCompile(`= "([a-z-]+/[a-z-]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(found) < 30 {
		t.Fatalf("found %d codes in the source", len(found))
	}
	for _, m := range found {
		if !slices.Contains(listed, m[1]) {
			t.Errorf("%s is not listed", m[1])
		}
	}
}
