// Package reference holds the reference values evidence is appraised against:
// which TPMs, which boot events and which files are known, as a signed JSON
// document whose generation only rises.
//
// A set is closed. A PCR it does not mention, a section that a required claim
// needs and that is missing, an empty list: each of them denies. It never
// speaks of PCR values, only of the events behind them, so that a verdict can
// name what was wrong.
package reference

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/rules"
)

// MaxSize bounds a set, maxName a name of a digest (bytes).
const (
	MaxSize = 16 << 20
	maxName = 120
)

// Claims of the AR4SI trustworthiness vector that a set may require.
const (
	InstanceIdentity = "instance-identity"
	Configuration    = "configuration"
	Executables      = "executables"
	FileSystem       = "file-system"
	Hardware         = "hardware"
)

var claims = []string{InstanceIdentity, Configuration, Executables, FileSystem, Hardware}

// Set is one version of the reference values of a machine class.
type Set struct {
	V          int      `json:"v"`                    // 1
	Name       string   `json:"name"`                 // the machine class it speaks of
	Generation uint64   `json:"generation"`           // strictly rises per name
	NotBefore  int64    `json:"not_before,omitempty"` // Unix seconds; 0: not limited
	NotAfter   int64    `json:"not_after,omitempty"`
	Base       []Base   `json:"base,omitempty"`  // the sets it builds on
	Level      string   `json:"level,omitempty"` // [QuoteOnly], or nothing
	PoP        string   `json:"pop,omitempty"`   // [PoPTPM]: the key of proof of possession lives in the TPM; or nothing
	Bank       string   `json:"bank"`            // the PCR bank of every digest below, "sha256" or "sha384"
	Required   []string `json:"required"`        // claims that must be affirming for a grant
	TPM        TPM      `json:"tpm"`
	SecureBoot string   `json:"secure_boot"` // "required" or "any"; anything else denies
	PCRs       []PCR    `json:"pcrs"`        // ascending, each once
	Pins       *Pins    `json:"pins,omitempty"`
	IMA        *IMA     `json:"ima,omitempty"`
	Rules      []Rule   `json:"rules,omitempty"`      // further conditions, see package rules
	Deny       []Listed `json:"deny,omitempty"`       // digests refused wherever they appear
	Vulnerable []Listed `json:"vulnerable,omitempty"` // digests that lower trust wherever they appear

	// Names say what digests are, "shim 15.8", by their lower-case hexadecimal
	// without algorithm. They are shown to people and decide nothing.
	Names map[string]string `json:"names,omitempty"`

	rules map[string]*Rule
	files map[string]*File
	lists map[string]Judgement
	pcrs  map[int]*PCR

	buffers  map[string]*File
	expected map[string][]expected // what files allows for good and lists leave allowed
	keys     []*ima.Key
}

// PoPTPM as a set's PoP refuses keys of proof of possession that are not certified to
// live in the node's TPM.
const PoPTPM = "tpm"

// TPM says which TPMs are genuine hardware.
type TPM struct {
	Vendors []string `json:"vendors"` // as [tpm.Vendor] names them: TCG vendor ids such as "IFX"

	// DeviceMakers are who may vouch with an IAK in place of an EK certificate, as
	// [tpm.DeviceMaker] names them: the organisation of the certificate's issuer.
	DeviceMakers []string `json:"device_makers,omitempty"`
}

// How the events of a PCR are compared.
const (
	Match  = "match"  // exactly these events in this order
	Extend = "extend" // these events first, anything after them
	Ignore = "ignore" // not judged, and so proves nothing
)

// PCR lists the events of one PCR.
type PCR struct {
	PCR    int      `json:"pcr"`
	Rule   string   `json:"rule"`
	Why    string   `json:"why,omitempty"` // shown to people
	Events []Event  `json:"events,omitempty"`
	Values []string `json:"values,omitempty"` // allowed values, level [QuoteOnly] alone
}

// Event is one place in the order of events, with every digest known for it.
// What it denies or calls vulnerable is so everywhere.
type Event struct {
	Label      string   `json:"label"` // shown to people; proves nothing
	Allow      []string `json:"allow"` // lower-case hexadecimal; empty denies
	Vulnerable []string `json:"vulnerable,omitempty"`
	Deny       []string `json:"deny,omitempty"`
	Optional   bool     `json:"optional,omitempty"`
}

// IMA lists the files the kernel may measure.
type IMA struct {
	Violations int       `json:"violations"`        // how many are tolerated
	Signed     string    `json:"signed,omitempty"`  // [SignedFiles]: a signature by one of Keys allows a file
	Keys       []string  `json:"keys,omitempty"`    // PEM: certificates or public keys that sign files
	Exclude    []Exclude `json:"exclude,omitempty"` // what is not judged; it lowers what can be affirmed
	Buffers    []File    `json:"buffers,omitempty"` // what the kernel measures beside files, by its name for it
	Lists      []ListRef `json:"lists,omitempty"`   // further allowed files, kept apart
	Files      []File    `json:"files"`             // ascending by path, each once
}

// File is one path with the digests known for it: "sha256:" and hexadecimal, or
// "verity:sha256:" for the digest of an fs-verity descriptor. What it denies or
// calls vulnerable is so at every path: a file can be renamed.
type File struct {
	Path       string   `json:"path"`
	Allow      []string `json:"allow"`
	Valid      []Dated  `json:"valid,omitempty"` // allowed for a time
	Vulnerable []string `json:"vulnerable,omitempty"`
	Deny       []string `json:"deny,omitempty"`
}

// Listed is a digest judged wherever it appears.
type Listed struct {
	Digest string `json:"digest"` // lower-case hexadecimal, of any algorithm
	Why    string `json:"why"`
}

// Rule is a condition in CEL that must hold. It can only lower trust: Value is
// what the claim becomes when it does not hold or has no answer, and is never an
// affirming one.
type Rule struct {
	Name  string `json:"name"`
	Expr  string `json:"expr"`
	Claim string `json:"claim"`
	Value int8   `json:"value"`
	Why   string `json:"why"` // shown to people: what to do

	compiled *rules.Rule
}

// Holds evaluates the rule.
func (r *Rule) Holds(f *rules.Facts) (bool, error) { return r.compiled.Holds(f) }

// Judgement is what a set says of one digest. The order is the rule: deny wins
// over vulnerable, vulnerable over allow, and the zero value is unknown.
type Judgement int

// The judgements, in rising order of precedence.
const (
	Unknown Judgement = iota
	Allowed
	Weak
	Denied
)

// Parse reads a set in the one encoding Marshal writes and checks that its
// parts make sense together.
func Parse(b []byte) (*Set, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("reading reference set: %d bytes, at most %d are allowed", len(b), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	s := new(Set)
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("reading reference set: %w", err)
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(s.Marshal(), b) {
		return nil, errors.New("reading reference set: not in the form `writ reference` writes (member order, no white space)")
	}
	return s, nil
}

// Marshal writes the set.
func (s *Set) Marshal() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("reference: a set of strings does not marshal: " + err.Error())
	}
	return b
}

// Digest identifies the set: SHA-256 of its bytes.
func (s *Set) Digest() [32]byte { return sha256.Sum256(s.Marshal()) }

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ValidName reports whether a set, and so a machine class, may have a name.
func ValidName(name string) bool { return nameRE.MatchString(name) }

// Check reports the first thing wrong with the set and prepares its look-ups.
func (s *Set) Check() error {
	if s.V != 1 {
		return fmt.Errorf("checking reference set: expected version 1, found %d", s.V)
	}
	if !nameRE.MatchString(s.Name) || s.Generation == 0 {
		return fmt.Errorf("checking reference set %.64q: a name of [a-z0-9._-] and a generation of at least 1 are needed", s.Name)
	}
	alg, err := tpm.ParseAlg(s.Bank)
	if err != nil || (alg != tpm.AlgSHA256 && alg != tpm.AlgSHA384) {
		return fmt.Errorf("checking reference set %s: bank %.20q is not one that proves anything; use sha256 or sha384", s.Name, s.Bank)
	}
	for _, r := range s.Required {
		if !slices.Contains(claims, r) {
			return fmt.Errorf("checking reference set %s: required claim %.40q is not one of AR4SI's that Writ derives", s.Name, r)
		}
	}
	if len(s.Required) == 0 {
		return fmt.Errorf("checking reference set %s: no claim is required, so nothing could be granted", s.Name)
	}
	if err := s.checkBase(); err != nil {
		return fmt.Errorf("checking reference set %s: %w", s.Name, err)
	}
	if s.PoP != "" && s.PoP != PoPTPM {
		return fmt.Errorf("checking reference set %s: pop %.40q, expected %q or nothing", s.Name, s.PoP, PoPTPM)
	}
	if err := s.checkLevel(); err != nil {
		return fmt.Errorf("checking reference set %s: %w", s.Name, err)
	}
	if s.Pins != nil {
		if err := s.Pins.check(); err != nil {
			return fmt.Errorf("checking reference set %s: %w", s.Name, err)
		}
	}
	if err := s.index(alg.Size()); err != nil {
		return fmt.Errorf("checking reference set %s: %w", s.Name, err)
	}
	return nil
}

// index builds the look-ups and checks every digest on the way: one written in
// another form would never match, and a deny list would be silently open.
func (s *Set) index(size int) error {
	s.pcrs, s.files, s.lists = map[int]*PCR{}, map[string]*File{}, map[string]Judgement{}
	s.buffers, s.keys = map[string]*File{}, nil
	for i := range s.PCRs {
		p := &s.PCRs[i]
		if p.PCR < 0 || p.PCR > 23 || (i > 0 && p.PCR <= s.PCRs[i-1].PCR) {
			return fmt.Errorf("PCR %d is out of range or out of order", p.PCR)
		}
		if err := s.indexPCR(p, size); err != nil {
			return fmt.Errorf("PCR %d: %w", p.PCR, err)
		}
	}
	if s.IMA != nil {
		if err := s.indexIMA(s.IMA); err != nil {
			return err
		}
	}
	for j, list := range map[Judgement][]Listed{Weak: s.Vulnerable, Denied: s.Deny} {
		for _, l := range list {
			if !isHex(l.Digest, len(l.Digest)/2) || len(l.Digest) < 2*tpm.AlgSHA1.Size() {
				return fmt.Errorf("listed digest %.140q is not lower-case hexadecimal", l.Digest)
			}
			s.list(j, l.Digest)
		}
	}
	s.expect()
	for d, name := range s.Names {
		if !isHex(d, len(d)/2) || name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("names: %.140q: %.120q is not a digest and up to %d printable characters", d, name, maxName)
		}
	}
	return s.compile()
}

func (s *Set) indexPCR(p *PCR, size int) error {
	if p.Rule != Match && p.Rule != Extend && p.Rule != Ignore {
		return fmt.Errorf("rule %.20q is none of match, extend, ignore", p.Rule)
	}
	if p.Rule == Extend && len(p.Events) == 0 {
		return errors.New("rule extend without an event accepts anything; say ignore if that is meant")
	}
	for _, e := range p.Events {
		for _, d := range slices.Concat(e.Allow, e.Vulnerable, e.Deny) {
			if !isHex(d, size) {
				return fmt.Errorf("%.60q: %.80q is not a digest of %d bytes in lower-case hexadecimal", e.Label, d, size)
			}
		}
		s.list(Weak, e.Vulnerable...)
		s.list(Denied, e.Deny...)
	}
	s.pcrs[p.PCR] = p
	return nil
}

func (s *Set) indexFile(f *File) error {
	for _, d := range f.digests() {
		if _, ok := fileDigest(d); !ok {
			return fmt.Errorf("%.140q is not an algorithm, a colon and a digest in lower-case hexadecimal", d)
		}
	}
	for j, list := range map[Judgement][]string{Weak: f.Vulnerable, Denied: f.Deny} {
		for _, d := range list {
			sum, _ := fileDigest(d)
			s.list(j, sum)
		}
	}
	return nil
}

// compile prepares the rules.
func (s *Set) compile() error {
	s.rules = map[string]*Rule{}
	for i := range s.Rules {
		r := &s.Rules[i]
		if !nameRE.MatchString(r.Name) || s.rules[r.Name] != nil {
			return fmt.Errorf("rule %.64q: a name of [a-z0-9._-] of its own is needed", r.Name)
		}
		if !slices.Contains(claims, r.Claim) {
			return fmt.Errorf("rule %s: claim %.40q is not one that Writ derives", r.Name, r.Claim)
		}
		if v := int(r.Value); (v >= 2 && v <= 31) || (v <= -2 && v >= -32) {
			return fmt.Errorf("rule %s: value %d is affirming, and a rule can only lower trust", r.Name, r.Value)
		}
		var err error
		if r.compiled, err = rules.Compile(r.Expr); err != nil {
			return fmt.Errorf("rule %s: %w", r.Name, err)
		}
		s.rules[r.Name] = r
	}
	return nil
}

// Rule returns the rule of that name, nil when there is none.
func (s *Set) Rule(name string) *Rule { return s.rules[name] }

// list notes what holds wherever the digests appear; the worse word stays.
func (s *Set) list(j Judgement, digests ...string) {
	for _, d := range digests {
		s.lists[d] = max(s.lists[d], j)
	}
}

func isHex(s string, size int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == size && hex.EncodeToString(b) == s
}

// PCR returns what the set says of a PCR, nil when it says nothing.
func (s *Set) PCR(i int) *PCR { return s.pcrs[i] }

// Listed says what holds for a digest (hexadecimal) wherever it appears.
func (s *Set) Listed(digest string) Judgement { return s.lists[digest] }

// File judges a measured file by the lists that no window limits; digest is in
// hexadecimal and alg names its algorithm.
func (s *Set) File(path, alg, digest string) Judgement {
	j := s.lists[digest]
	if f := s.files[path]; f != nil {
		j = max(j, judge(alg+":"+digest, f.Allow, f.Vulnerable, f.Deny))
	}
	return j
}

// Judge says what the event's own lists say of a digest.
func (e *Event) Judge(digest string) Judgement {
	return judge(digest, e.Allow, e.Vulnerable, e.Deny)
}

func judge(d string, allow, vulnerable, deny []string) Judgement {
	switch {
	case slices.Contains(deny, d):
		return Denied
	case slices.Contains(vulnerable, d):
		return Weak
	case slices.Contains(allow, d):
		return Allowed
	}
	return Unknown
}
