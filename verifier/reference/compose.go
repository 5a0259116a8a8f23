package reference

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxLayers bounds what a set builds on, directly or not.
const maxLayers = 16

// Base names a set that another builds on: the one in force, of at least a
// generation or of exactly a digest.
type Base struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation,omitempty"` // at least
	Digest     string `json:"digest,omitempty"`     // hexadecimal SHA-256 of the set's own bytes
}

func (s *Set) checkBase() error {
	if len(s.Base) > maxLayers {
		return fmt.Errorf("it builds on %d sets, at most %d are allowed", len(s.Base), maxLayers)
	}
	for _, b := range s.Base {
		if !nameRE.MatchString(b.Name) || b.Name == s.Name {
			return fmt.Errorf("it builds on %.64q, which names no other set", b.Name)
		}
		if b.Generation == 0 && b.Digest == "" || b.Digest != "" && !isHex(b.Digest, 32) {
			return fmt.Errorf("it builds on %s of any generation: name the least, or a digest", b.Name)
		}
	}
	return nil
}

// Whole reports whether everything the set names is at hand; a set that is not
// whole denies.
func (s *Signed) Whole() bool {
	return s.resolved || len(s.Base) == 0 && (s.IMA == nil || len(s.IMA.Lists) == 0)
}

// Complete returns the set together with the sets it builds on and the allow
// lists they name. All must be given and nothing else. Lists are shared, not
// copied.
//
// The layers are one set afterwards, whatever their order: what any of them
// denies is denied, then what any calls vulnerable is that, then what any allows
// is allowed; the strictest rule of a PCR, the narrowest validity and every
// required claim hold.
func (s *Signed) Complete(layers []*Signed, lists []*List) (*Signed, error) {
	out := &Signed{Set: s.Set, Envelope: s.Envelope, envelope: s.envelope, own: s.own, sum: s.own, layers: layers, lists: lists, resolved: true}
	if len(s.Base)+len(layers) > 0 {
		if err := s.connected(layers); err != nil {
			return nil, fmt.Errorf("composing reference set %s: %w", s.Name, err)
		}
		set, err := compose(s.Set, layers)
		if err != nil {
			return nil, fmt.Errorf("composing reference set %s: %w", s.Name, err)
		}
		out.Set, out.sum = set, set.Digest()
	}
	var refs []ListRef
	if out.IMA != nil {
		refs = out.IMA.Lists
	}
	if len(refs) != len(lists) {
		return nil, fmt.Errorf("completing reference set %s: it names %d allow lists, %d are given", s.Name, len(refs), len(lists))
	}
	for _, r := range refs {
		if !slices.ContainsFunc(lists, func(l *List) bool { return l.hexDigest() == r.Digest }) {
			return nil, fmt.Errorf("completing reference set %s: allow list %s (%s) is missing", s.Name, r.Digest, r.Name)
		}
	}
	return out, nil
}

// connected requires every set that is named, in the version that is named, and
// no other.
func (s *Signed) connected(layers []*Signed) error {
	if len(layers) > maxLayers {
		return fmt.Errorf("%d layers, at most %d are allowed", len(layers), maxLayers)
	}
	byName := map[string]*Signed{}
	for _, l := range layers {
		if byName[l.Name] != nil {
			return fmt.Errorf("%s is given twice", l.Name)
		}
		byName[l.Name] = l
	}
	used := map[string]bool{}
	var visit func(from *Signed, path []string) error
	visit = func(from *Signed, path []string) error {
		for _, b := range from.Base {
			l := byName[b.Name]
			switch {
			case slices.Contains(path, b.Name):
				return fmt.Errorf("%s builds on itself", b.Name)
			case l == nil:
				return fmt.Errorf("%s builds on %s, which is not in force", from.Name, b.Name)
			case l.Generation < b.Generation:
				return fmt.Errorf("%s builds on %s of generation %d or more, found %d", from.Name, b.Name, b.Generation, l.Generation)
			case b.Digest != "" && b.Digest != hex.EncodeToString(l.own[:]):
				return fmt.Errorf("%s builds on %s with digest %s, found %x", from.Name, b.Name, b.Digest, l.own)
			}
			if used[b.Name] {
				continue
			}
			used[b.Name] = true
			if err := visit(l, append(path, b.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit(s, []string{s.Name}); err != nil {
		return err
	}
	if len(used) != len(layers) {
		return errors.New("a set is given that nothing builds on")
	}
	return nil
}

// compose merges sets into one that has no base. It looks at all layers at once,
// so their order changes nothing.
func compose(top *Set, layers []*Signed) (*Set, error) {
	sets := []*Set{top}
	for _, l := range layers {
		sets = append(sets, l.Set)
	}
	slices.SortFunc(sets[1:], func(a, b *Set) int { return cmp.Compare(a.Name, b.Name) })
	out := &Set{V: top.V, Name: top.Name, Generation: top.Generation, Bank: top.Bank, PCRs: []PCR{}}
	for _, s := range sets {
		out.NotBefore = max(out.NotBefore, s.NotBefore)
		if s.NotAfter != 0 && (out.NotAfter == 0 || s.NotAfter < out.NotAfter) {
			out.NotAfter = s.NotAfter
		}
		out.Required = union(out.Required, s.Required)
		out.TPM.Vendors = union(out.TPM.Vendors, s.TPM.Vendors)
		out.TPM.DeviceMakers = union(out.TPM.DeviceMakers, s.TPM.DeviceMakers)
		out.Deny = union(out.Deny, s.Deny)
		out.Vulnerable = union(out.Vulnerable, s.Vulnerable)
		for _, d := range slices.Sorted(maps.Keys(s.Names)) {
			if out.Names == nil {
				out.Names = map[string]string{}
			}
			out.Names[d] = s.Names[d]
		}
		if s.SecureBoot != "" && (out.SecureBoot == "" || out.SecureBoot == "any") {
			out.SecureBoot = s.SecureBoot
		}
		for _, r := range s.Rules {
			r.compiled = nil
			out.Rules = union(out.Rules, []Rule{r}) // another of the same name is refused by Check
		}
	}
	for i := range 24 {
		p, err := composePCR(i, sets)
		if err != nil {
			return nil, fmt.Errorf("PCR %d: %w", i, err)
		}
		if p != nil {
			out.PCRs = append(out.PCRs, *p)
		}
	}
	for _, s := range sets {
		if s.PoP != "" {
			out.PoP = s.PoP // the strictest
		}
		if s.Level != top.Level {
			return nil, fmt.Errorf("%s has level %q, %s has %q", s.Name, s.Level, top.Name, top.Level)
		}
	}
	var err error
	if out.Pins, err = composePins(sets); err != nil {
		return nil, err
	}
	out.Level, out.IMA = top.Level, composeIMA(sets)
	return out, out.Check()
}

// union appends what b has and a has not. It changes neither.
func union[T comparable](a, b []T) []T {
	if len(b) == 0 {
		return a
	}
	out := slices.Clone(a)
	if len(a)+len(b) < 16 {
		for _, x := range b {
			if !slices.Contains(out, x) {
				out = append(out, x)
			}
		}
		return out
	}
	seen := make(map[T]bool, len(a)+len(b))
	for _, x := range a {
		seen[x] = true
	}
	for _, x := range b {
		if !seen[x] {
			seen[x], out = true, append(out, x)
		}
	}
	return out
}

// strictness orders the rules of a PCR.
var strictness = map[string]int{Ignore: 1, Extend: 2, Match: 3}

// composePCR merges what the sets say of a PCR. The longest order of places
// counts, and each of the others must be part of it, by label: alternatives are
// added to places, and places of a layer never contradict each other.
func composePCR(i int, sets []*Set) (*PCR, error) {
	var out *PCR
	var longest []Event
	for _, s := range sets {
		p := s.PCR(i)
		if p == nil {
			continue
		}
		if out == nil || strictness[p.Rule] > strictness[out.Rule] {
			var values []string
			if out != nil {
				values = out.Values
			}
			out = &PCR{PCR: i, Rule: p.Rule, Why: p.Why, Values: values}
		}
		out.Values = union(out.Values, p.Values)
		if len(p.Events) > len(longest) {
			longest = p.Events
		}
	}
	if out == nil || len(longest) == 0 {
		return out, nil
	}
	out.Events = make([]Event, len(longest))
	for k, e := range longest {
		out.Events[k] = Event{Label: e.Label, Allow: []string{}, Optional: true}
	}
	for _, s := range sets {
		p := s.PCR(i)
		if p == nil {
			continue
		}
		at := 0
		for _, e := range p.Events {
			for at < len(longest) && longest[at].Label != e.Label {
				at++
			}
			if at == len(longest) {
				return nil, fmt.Errorf("%s has the place %.80q, which does not fit the order of the longest layer", s.Name, e.Label)
			}
			out.Events[at].merge(&e)
			at++
		}
	}
	return out, nil
}

// merge adds the alternatives of another layer for the same place.
func (e *Event) merge(o *Event) {
	e.Allow, e.Vulnerable, e.Deny = union(e.Allow, o.Allow), union(e.Vulnerable, o.Vulnerable), union(e.Deny, o.Deny)
	e.Optional = e.Optional && o.Optional
}

func composeIMA(sets []*Set) *IMA {
	var out *IMA
	files, buffers := map[string]*File{}, map[string]*File{}
	for _, s := range sets {
		m := s.IMA
		if m == nil {
			continue
		}
		if out == nil {
			out = &IMA{Violations: m.Violations}
		}
		out.Violations = min(out.Violations, m.Violations)
		if m.Signed != "" {
			out.Signed = m.Signed
		}
		out.Keys, out.Exclude = union(out.Keys, m.Keys), union(out.Exclude, m.Exclude)
		for _, l := range m.Lists {
			if !slices.ContainsFunc(out.Lists, func(o ListRef) bool { return o.Digest == l.Digest }) {
				out.Lists = append(out.Lists, l)
			}
		}
		mergeFiles(files, m.Files)
		mergeFiles(buffers, m.Buffers)
	}
	if out != nil {
		out.Files, out.Buffers = sortFiles(files), sortFiles(buffers)
		if len(out.Buffers) == 0 {
			out.Buffers = nil
		}
	}
	return out
}

func mergeFiles(into map[string]*File, files []File) {
	for _, f := range files {
		m := into[f.Path]
		if m == nil {
			m = &File{Path: f.Path, Allow: []string{}}
			into[f.Path] = m
		}
		m.Allow, m.Valid = union(m.Allow, f.Allow), union(m.Valid, f.Valid)
		m.Vulnerable, m.Deny = union(m.Vulnerable, f.Vulnerable), union(m.Deny, f.Deny)
	}
}

func sortFiles(files map[string]*File) []File {
	out := make([]File, 0, len(files))
	for _, f := range files {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out
}
