package verifier_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

var update = flag.Bool("update", false, "write testdata/vectors/bundles anew")

// TestBundles takes bundles of a first token, a renewal and a denial; each
// verifies with no network. With -update they become the vectors that package
// bundle is tested with.
func TestBundles(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.member("a-direct")
	files := map[string]*bundle.Bundle{}
	d.mustGrant(n)
	files["first"] = d.verifies(n, bundle.ResultVerified)
	s := d.shot(n)
	s.byDigest, s.offset = true, len(n.list)-200
	d.mustGrantShot(n, s)
	files["renewed"] = d.verifies(n, bundle.ResultVerified)
	n.logged(n.extend(4, "a foreign boot application"))
	d.denied(n, "boot/unknown-event")
	files["denied"] = d.verifies(n, bundle.ResultDenied)
	if !*update {
		return
	}
	dir := "../testdata/vectors/bundles"
	err := os.MkdirAll(dir, 0o755)
	for name, b := range files {
		raw, merr := b.Marshal()
		err = errors.Join(err, merr, os.WriteFile(filepath.Join(dir, name+".writ.json"), append(raw, '\n'), 0o644))
	}
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "trust.json"), d.trust().Marshal(), 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

// TestBundleOfAnything: only decisions on the node have a bundle.
func TestBundleOfAnything(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	_, err := d.Bundle(ctx, n.id, -1)
	refused(t, err, protocol.NotFound)
	base := d.claims(d.mustGrant(n).Token)
	if _, err := d.Token(ctx, base, request(d, "lease")); err != nil {
		t.Fatal(err)
	}
	for i := range int64(d.log.Size()) + 2 {
		b, err := d.Bundle(ctx, n.id, i)
		if i != base.Writ.Log.Index {
			refused(t, err, protocol.NotFound)
		} else if err != nil || b.Token == "" {
			t.Errorf("%+v, %v", b, err)
		}
	}
	_, err = d.Bundle(ctx, "unknown", -1)
	refused(t, err, protocol.NotEnrolled)
}
