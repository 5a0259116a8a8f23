package verifier_test

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// layered splits a learnt set: the files become an allow list that the base
// names, and the class has nothing but its base.
func layered(t testing.TB, learnt *reference.Set, classes ...string) (base *reference.Set, list *reference.List, tops []*reference.Set) {
	t.Helper()
	var lines []string
	for _, f := range learnt.IMA.Files {
		for _, d := range f.Allow {
			lines = append(lines, strings.TrimPrefix(d, "sha256:")+"  "+f.Path)
		}
	}
	list, err := reference.NewList(lines)
	if err != nil {
		t.Fatal(err)
	}
	sum := list.Digest()
	base = new(reference.Set)
	*base = *learnt
	base.Name = "debian"
	base.IMA = &reference.IMA{Files: []reference.File{}, Lists: []reference.ListRef{{Digest: hex.EncodeToString(sum[:]), Name: "debian-12"}}}
	for _, c := range classes {
		tops = append(tops, &reference.Set{V: 1, Name: c, Generation: 1, Bank: "sha256", Required: []string{reference.Executables}, PCRs: []reference.PCR{},
			Base: []reference.Base{{Name: "debian", Generation: 1}}})
	}
	return base, list, tops
}

// publication is what an operator sends for a set with lists of its own.
func (d *domain) publication(set *reference.Set, lists ...*reference.List) []byte {
	d.t.Helper()
	env, err := reference.Sign(set, d.refKey)
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := reference.Read(env)
	if err != nil {
		d.t.Fatal(err)
	}
	return reference.Pack(s, nil, lists)
}

// TestSharedAllowList: two classes build on one set whose files are an allow list.
// It is parsed once for all of them, and bundles hold all of it.
func TestSharedAllowList(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	ctx := context.Background()
	learnt, _, err := reference.Learn("debian", []reference.Sample{d.sample(d.machine("c-grub-sb"))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	base, list, tops := layered(t, learnt, "web", "db")
	_, err = d.Publish(ctx, operator, d.publication(tops[0]))
	refused(t, err, protocol.ReferenceRefused) // its base is not in force
	_, err = d.Publish(ctx, operator, d.publication(base))
	refused(t, err, protocol.ReferenceRefused) // its list is not here
	if _, err := d.Publish(ctx, operator, d.publication(base, list)); err != nil {
		t.Fatal(err)
	}
	_, err = d.Publish(ctx, operator, d.publication(tops[0], list))
	refused(t, err, protocol.ReferenceRefused) // it names no such list
	var shared *reference.List
	for _, top := range tops {
		d.publish(top)
		for range 2 {
			n := d.machine("g-again")
			d.enrol(n, top.Name)
			d.mustGrant(n)
			d.mustGrant(n)
			b, err := d.Bundle(ctx, n.id, -1)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := b.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			back, err := bundle.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if r := bundle.Verify(back, d.trust()); r.Result != bundle.ResultVerified {
				t.Errorf("bundle: %+v", r)
			}
			set, err := d.ActiveSet(ctx, top.Name)
			if err != nil {
				t.Fatal(err)
			}
			if shared == nil {
				shared = set.Lists()[0]
			}
			if len(set.Lists()) != 1 || set.Lists()[0] != shared {
				t.Error("the list is not shared")
			}
		}
	}
}

// debian puts a learnt base in force; classes build on it and are not published.
func (d *domain) debian(classes ...string) (base *reference.Set, tops []*reference.Set) {
	d.t.Helper()
	learnt, _, err := reference.Learn("debian", []reference.Sample{d.sample(d.machine("c-grub-sb"))}, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	base, list, tops := layered(d.t, learnt, classes...)
	if _, err := d.Publish(ctx, operator, d.publication(base, list)); err != nil {
		d.t.Fatal(err)
	}
	return base, tops
}

// TestBaseTakesBack: what a base denies from its next generation on is denied
// for every class that builds on it.
func TestBaseTakesBack(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	base, tops := d.debian("web")
	d.publish(tops[0])
	n := d.machine("g-again")
	d.enrol(n, "web")
	d.mustGrant(n)
	base.Generation = 2
	base.Deny = []reference.Listed{{Digest: base.PCRs[0].Events[0].Allow[0], Why: "the firmware was recalled"}}
	d.publish(base) // the list is held already
	d.denied(n, "firmware/denied-event")
}

// TestBaseBreaksDependents: a base that would not hold together with a class in
// force is refused, and nothing changes for the class's nodes.
func TestBaseBreaksDependents(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	base, tops := d.debian("web")
	rule := reference.Rule{Name: "booted", Expr: "boot.exited", Claim: reference.Executables, Value: 33, Why: "x"}
	tops[0].Rules = []reference.Rule{rule}
	d.publish(tops[0])
	n := d.machine("g-again")
	d.enrol(n, "web")
	d.mustGrant(n)
	rule.Expr = "!boot.exited"
	base.Generation, base.Rules = 2, []reference.Rule{rule} // of one name, and not the same
	_, err := d.Publish(ctx, operator, d.publication(base))
	refused(t, err, protocol.ReferenceRefused)
	if err == nil || !strings.Contains(err.Error(), "web, which is in force, builds on debian") {
		t.Errorf("%v", err)
	}
	d.mustGrant(n)
	base.Rules = nil
	d.publish(base)
	d.mustGrant(n)
}
