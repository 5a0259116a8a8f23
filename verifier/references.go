package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// activeReference is the set in force for a class.
type activeReference struct {
	Generation uint64 `json:"generation"`
	Digest     string `json:"digest"`   // of the set
	Envelope   string `json:"envelope"` // blob
	Entry      uint64 `json:"entry"`
}

func referenceKey(class string) ledger.Key { return ledger.Key{Kind: kindReference, ID: class} }

// activeSet is the reference set in force for a class, with everything it names
// in the versions in force; nil when there is none. One that names what is not
// in force comes bare, which denies.
func (s *Service) activeSet(ctx context.Context, class string) (*reference.Signed, error) {
	return s.wholeSet(ctx, &reads{s: s, fresh: true, rows: map[ledger.Key][]byte{}}, class)
}

// wholeSet is activeSet by the class's row in r. The sets it builds on are read
// anew: of them the commit sees only the domain's generation.
func (s *Service) wholeSet(ctx context.Context, r *reads, class string) (*reference.Signed, error) {
	a, ok, err := read[activeReference](ctx, r, referenceKey(class))
	if err != nil || !ok {
		return nil, err
	}
	set, err := s.parsedSet(ctx, a)
	if err != nil || set.Whole() {
		return set, err
	}
	layers, err := s.layers(ctx, set)
	if err != nil {
		return nil, err
	}
	key := "whole"
	for _, l := range append([]*reference.Signed{set}, layers...) {
		sum := l.Own()
		key += "/" + hex.EncodeToString(sum[:])
	}
	if v, ok := s.sets.Load(key); ok {
		return v.(*reference.Signed), nil
	}
	lists, err := s.namedLists(ctx, append(layers, set))
	if err != nil {
		return nil, err
	}
	whole, err := set.Complete(layers, lists)
	if err != nil {
		return set, nil // the verdict says so
	}
	v, _ := s.sets.LoadOrStore(key, whole)
	return v.(*reference.Signed), nil
}

// inForce is the set in force of a name without what it names, nil for none.
func (s *Service) inForce(ctx context.Context, name string) (*reference.Signed, error) {
	a, ok, err := row[activeReference](ctx, s, referenceKey(name))
	if err != nil || !ok {
		return nil, err
	}
	return s.parsedSet(ctx, &a)
}

// parsedSet is the set that a row names. Parsed sets are kept by digest: they are
// facts, not verdicts.
func (s *Service) parsedSet(ctx context.Context, a *activeReference) (*reference.Signed, error) {
	if v, ok := s.sets.Load(a.Digest); ok {
		return v.(*reference.Signed), nil
	}
	env, err := s.blob(ctx, a.Envelope)
	if err != nil {
		return nil, err
	}
	set, err := reference.Read(env)
	if err != nil {
		return nil, err
	}
	v, _ := s.sets.LoadOrStore(a.Digest, set)
	return v.(*reference.Signed), nil
}

// layers are the sets in force that a set builds on, directly or not; those that
// are missing are left out.
func (s *Service) layers(ctx context.Context, set *reference.Signed) ([]*reference.Signed, error) {
	var out []*reference.Signed
	seen := map[string]bool{set.Name: true}
	for open := set.Base; len(open) > 0; open = open[1:] {
		if seen[open[0].Name] {
			continue
		}
		seen[open[0].Name] = true
		l, err := s.inForce(ctx, open[0].Name)
		if err != nil {
			return nil, err
		}
		if l != nil {
			out, open = append(out, l), slices.Concat(open, l.Base)
		}
	}
	return out, nil
}

// namedLists are the allow lists that sets name, each once.
func (s *Service) namedLists(ctx context.Context, sets []*reference.Signed) ([]*reference.List, error) {
	var out []*reference.List
	seen := map[string]bool{}
	for _, set := range sets {
		if set.IMA == nil {
			continue
		}
		for _, r := range set.IMA.Lists {
			if seen[r.Digest] {
				continue
			}
			seen[r.Digest] = true
			l, err := s.list(ctx, r.Digest)
			if err != nil {
				return nil, fmt.Errorf("reading allow list %s of %s: %w", r.Digest, set.Name, err)
			}
			out = append(out, l)
		}
	}
	return out, nil
}

// list is an allow list by its digest. It is read and parsed once, whatever the
// number of sets and nodes that it is for.
func (s *Service) list(ctx context.Context, digest string) (*reference.List, error) {
	key := "list/" + digest
	v, _ := s.sets.LoadOrStore(key, sync.OnceValues(func() (*reference.List, error) {
		b, err := s.blob(context.WithoutCancel(ctx), digest)
		if err != nil {
			return nil, err
		}
		return reference.ParseList(b)
	}))
	l, err := v.(func() (*reference.List, error))()
	if err != nil {
		s.sets.Delete(key)
	}
	return l, err
}

// readPublication parses what an operator publishes and makes sure that, once in
// force, everything the set names is at hand. blobs are what is to be stored.
func (s *Service) readPublication(ctx context.Context, raw []byte) (set *reference.Signed, blobs [][]byte, err error) {
	refuse := func(err error) error {
		return &protocol.Refusal{Code: protocol.ReferenceRefused, Detail: err.Error()}
	}
	set, sent, lists, err := reference.Open(raw)
	if err == nil && len(sent) > 0 {
		err = fmt.Errorf("publish the sets that %s builds on by themselves, before it", set.Name)
	}
	if err == nil {
		err = set.Verify(s.cfg.ReferenceKeys, s.cfg.ReferenceThreshold)
	}
	if err != nil {
		return nil, nil, refuse(err)
	}
	blobs = [][]byte{set.Envelope}
	given := map[string]bool{}
	for _, l := range lists {
		blobs, given[hexSum(l.Marshal())] = append(blobs, l.Marshal()), true
	}
	if set.IMA != nil {
		for _, r := range set.IMA.Lists {
			if given[r.Digest] {
				delete(given, r.Digest)
			} else if l, err := s.list(ctx, r.Digest); err == nil {
				lists = append(lists, l)
			} else {
				return nil, nil, refuse(fmt.Errorf("allow list %s (%.80q) is not held here; publish it with the set", r.Digest, r.Name))
			}
		}
	}
	for digest := range given {
		return nil, nil, refuse(fmt.Errorf("%s names no allow list %s", set.Name, digest))
	}
	layers, err := s.layers(ctx, set)
	if err != nil {
		return nil, nil, err
	}
	inherited, err := s.namedLists(ctx, layers)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range inherited {
		if !slices.ContainsFunc(lists, func(o *reference.List) bool { return o.Digest() == l.Digest() }) {
			lists = append(lists, l)
		}
	}
	if _, err := set.Complete(layers, lists); err != nil {
		return nil, nil, refuse(err)
	}
	if err := s.checkDependents(ctx, set, lists); err != nil {
		return nil, nil, err
	}
	return set, blobs, nil
}

// checkDependents refuses a set with which one in force that builds on it would no
// longer hold together, and so deny all its nodes. lists are those that the set names.
func (s *Service) checkDependents(ctx context.Context, set *reference.Signed, lists []*reference.List) error {
	active, err := s.References(ctx)
	if err != nil {
		return err
	}
	for _, a := range active {
		top, err := s.inForce(ctx, a.Name)
		if err != nil {
			return err
		}
		if top == nil || top.Name == set.Name {
			continue
		}
		layers, err := s.layers(ctx, top)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(layers, func(l *reference.Signed) bool { return l.Name == set.Name })
		pins := func(of *reference.Signed) bool {
			return slices.ContainsFunc(of.Base, func(b reference.Base) bool { return b.Name == set.Name && b.Digest != "" })
		}
		if at < 0 || pins(top) || slices.ContainsFunc(layers, pins) {
			continue // one that names a digest wants no other until it is published anew
		}
		layers[at] = set
		before, err := s.activeSet(ctx, a.Name)
		if err != nil {
			return err
		}
		if !before.Whole() {
			continue // it denies as it is: this set may be what mends it
		}
		if err := s.holds(ctx, top, layers, lists); err != nil {
			return protocol.Refuse(protocol.ReferenceRefused, "%s, which is in force, builds on %s and would deny all its nodes: %v; publish a generation of %s that fits first", a.Name, set.Name, err, a.Name)
		}
	}
	return nil
}

// holds reports why a set and its layers do not hold together. given are lists that
// may not be stored yet.
func (s *Service) holds(ctx context.Context, top *reference.Signed, layers []*reference.Signed, given []*reference.List) error {
	var lists []*reference.List
	seen := map[string]bool{}
	for _, of := range append([]*reference.Signed{top}, layers...) {
		if of.IMA == nil {
			continue
		}
		for _, r := range of.IMA.Lists {
			if seen[r.Digest] {
				continue
			}
			seen[r.Digest] = true
			at := slices.IndexFunc(given, func(l *reference.List) bool { d := l.Digest(); return hex.EncodeToString(d[:]) == r.Digest })
			if at >= 0 {
				lists = append(lists, given[at])
				continue
			}
			l, err := s.list(ctx, r.Digest)
			if err != nil {
				return err
			}
			lists = append(lists, l)
		}
	}
	_, err := top.Complete(layers, lists)
	return err
}

// restoreSet is the set of a stored input with what it named then.
func (s *Service) restoreSet(ctx context.Context, envelope string, layers []string, incomplete bool) (*reference.Signed, error) {
	sets := make([]*reference.Signed, 0, 1+len(layers))
	for _, digest := range append([]string{envelope}, layers...) {
		env, err := s.blob(ctx, digest)
		if err != nil {
			return nil, err
		}
		set, err := reference.Read(env)
		if err != nil {
			return nil, err
		}
		sets = append(sets, set)
	}
	if sets[0].Whole() || incomplete {
		return sets[0], nil
	}
	lists, err := s.namedLists(ctx, sets)
	if err != nil {
		return nil, err
	}
	return sets[0].Complete(sets[1:], lists)
}
