package verifier_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
)

// TestRetiredVerifierComesBack: a log key that was retired is recorded once, and
// neither starts a verifier nor joins again; a key nobody knew is not retired.
func TestRetiredVerifierComesBack(t *testing.T) {
	t.Parallel()
	first, id, stranger := strings.Repeat("ee", 32), strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	d := newDomain(t, func(c *verifier.Config) { c.KeyIDs["log"] = first })
	set := func(own string, peers, retired []string) error {
		t.Helper()
		d.cfg.KeyIDs["log"] = own
		d.cfg.PeerLogKeys, d.cfg.RetiredLogKeys = peers, retired
		return d.restart()
	}
	count := func(kind string) (n int) {
		for _, leaf := range d.entries(0) {
			if leaf.Kind == kind && leaf.Subject == bundle.Subject(d.cfg.Domain, "log-key/"+id) {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		own            string
		peers, retired []string
		want           error
	}{
		{first, nil, []string{id}, keys.ErrMissing}, // never recorded
		{first, []string{id}, nil, nil},
		{id, nil, nil, nil},
		{first, nil, []string{id}, nil},
		{first, nil, []string{id, id}, nil}, // each start after
		{id, nil, nil, keys.ErrMissing},
		{first, []string{id}, nil, keys.ErrMissing},
		{first, nil, []string{stranger}, keys.ErrMissing},
		{first, nil, []string{id}, nil},
	} {
		if err := set(step.own, step.peers, step.retired); !errors.Is(err, step.want) {
			t.Errorf("own %.4q, peers %.4q, retired %.4q: %v, want %v", step.own, step.peers, step.retired, err, step.want)
		}
	}
	if joined, retired := count(bundle.VerifierJoined), count(bundle.VerifierRetired); joined != 1 || retired != 1 {
		t.Errorf("joined %d times, retired %d times", joined, retired)
	}
	leaf := d.entries(0)[d.log.Size()-1]
	if leaf.Kind != bundle.VerifierStarted || !strings.Contains(string(leaf.Data), `"retired-log/`+id) || strings.Contains(string(leaf.Data), `"log/`+id) {
		t.Errorf("the last start says %s", leaf.Data)
	}
}
