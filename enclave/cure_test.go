package enclave

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCures: whoever is refused is told what to do about what is really wrong.
func TestCures(t *testing.T) {
	t.Parallel()
	failed := func(err error) error {
		return fmt.Errorf("reading: %w", &fs.PathError{Op: "open", Path: "trust.json", Err: err})
	}
	no := func(title string) *answer { return &answer{Title: title, status: 403} }
	for what, c := range map[string]struct {
		r    *Refusal
		want string
	}{
		"no trust file":         {noTrust("trust.json", failed(unix.ENOENT)), "provision this node"},
		"an unreadable one":     {noTrust("trust.json", failed(unix.EACCES)), "may not read trust.json"},
		"a damaged one":         {noTrust("trust.json", fmt.Errorf("no JSON")), "get it anew"},
		"no agent":              {noAgent(failed(unix.ECONNREFUSED)), "start `writ agent`"},
		"another user's socket": {noAgent(failed(unix.EACCES)), "--allow-uid"},
		"another user":          {refused(no("peer-not-allowed")), "--allow-uid"},
		"a suspended node":      {refused(no("node-not-active")), "writ node approve"},
		"a denied node":         {refused(no("policy-denied")), "writ status"},
		"a frozen domain":       {refused(no("domain-frozen")), "writ unfreeze"},
	} {
		if !strings.Contains(c.r.Cure, c.want) {
			t.Errorf("%s: %q does not say %q", what, c.r.Cure, c.want)
		}
	}
}
