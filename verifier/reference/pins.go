package reference

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// QuoteOnly is the level of a set that judges bare PCR values, for machines whose
// firmware or cloud keeps no boot log. It says less: a value does not tell what
// ran or what is wrong. Such a set affirms instance-identity 2, hardware 2 and
// configuration 3, and never executables.
const QuoteOnly = "quote-only"

// Pins let what is known by its signer or version go without a digest.
type Pins struct {
	// Authorities are certificates (SHA-256 of their DER, hexadecimal). When Secure
	// Boot is on, every event of PCR 7 is known and every authority in it is one of
	// these, then the programs in PCR 4 need no digest. Nothing else is covered:
	// initrd and command line are not signed, so PCR 8, 9 and 11 keep their rules.
	Authorities []string `json:"authorities,omitempty"`
	// Firmware is the least version in PCR 0; see [AtLeast] for how it is compared.
	Firmware string `json:"firmware,omitempty"`
	// SBAT are the least generations of shim's SbatLevel in PCR 7.
	SBAT []Component `json:"sbat,omitempty"`
}

// Component is a line of an SBAT level.
type Component struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"`
}

func (s *Set) checkLevel() error {
	for _, p := range s.PCRs {
		if len(p.Values) > 0 && s.Level != QuoteOnly {
			return fmt.Errorf("PCR %d: values stand in a set of level %s only; list events", p.PCR, QuoteOnly)
		}
		if s.Level == QuoteOnly && (len(p.Events) > 0 || p.Rule == Extend) {
			return fmt.Errorf("PCR %d: a set of level %s knows values, no events", p.PCR, QuoteOnly)
		}
		for _, v := range p.Values {
			if !isHex(v, sha256.Size) {
				return fmt.Errorf("PCR %d: %.80q is not a value in lower-case hexadecimal", p.PCR, v)
			}
		}
	}
	switch {
	case s.Level == "":
		return nil
	case s.Level != QuoteOnly:
		return fmt.Errorf("level %.40q, expected %q or nothing", s.Level, QuoteOnly)
	case s.IMA != nil || s.Pins != nil || s.SecureBoot == "required":
		return fmt.Errorf("level %s: files, pins and Secure Boot cannot be judged without logs", QuoteOnly)
	case slices.Contains(s.Required, Executables) || slices.Contains(s.Required, FileSystem):
		return fmt.Errorf("level %s never affirms executables or file-system, so it cannot require them", QuoteOnly)
	}
	return nil
}

func (p *Pins) check() error {
	for _, a := range p.Authorities {
		if !isHex(a, sha256.Size) {
			return fmt.Errorf("authority %.80q is not a SHA-256 digest in lower-case hexadecimal", a)
		}
	}
	for i, c := range p.SBAT {
		if c.Name == "" || c.Generation == 0 || slices.ContainsFunc(p.SBAT[:i], func(o Component) bool { return o.Name == c.Name }) {
			return fmt.Errorf("SBAT component %.40q: a name and a generation, each once, are needed", c.Name)
		}
	}
	if len(p.Authorities) == 0 && p.Firmware == "" && len(p.SBAT) == 0 {
		return errors.New("pins say nothing")
	}
	return nil
}

// Lacks returns the components of an SBAT level that are below the pinned
// generations ("shim,3, expected 4"), and all that it does not name.
func (p *Pins) Lacks(level string) []string {
	have := map[string]uint64{}
	for line := range strings.Lines(level) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 32); err == nil && have[fields[0]] == 0 {
			have[fields[0]] = n
		}
	}
	var out []string
	for _, c := range p.SBAT {
		if have[c.Name] < c.Generation {
			out = append(out, fmt.Sprintf("%s,%d, expected %d", c.Name, have[c.Name], c.Generation))
		}
	}
	return out
}

// AtLeast compares versions as makers write them: numbers in them by value, all
// else must be the same ("N40ET41W" is at least "N40ET40W", nothing is at least
// "edk2-1" but another edk2). Of two that agree so far the longer is the later.
func AtLeast(version, least string) bool {
	version, least = strings.TrimSpace(version), strings.TrimSpace(least)
	for least != "" {
		a, b := digits(version), digits(least)
		if a != "" && b != "" {
			if c := compareNumbers(a, b); c != 0 {
				return c > 0
			}
			version, least = version[len(a):], least[len(b):]
			continue
		}
		if version == "" || version[0] != least[0] {
			return false
		}
		version, least = version[1:], least[1:]
	}
	return true
}

func digits(s string) string {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return s[:n]
}

func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// composePins merges the pins of layers: authorities add up, minimums rise. Two
// minimums of firmware that cannot be compared are refused.
func composePins(sets []*Set) (*Pins, error) {
	var out *Pins
	for _, s := range sets {
		p := s.Pins
		if p == nil {
			continue
		}
		if out == nil {
			out = new(Pins)
		}
		out.Authorities = union(out.Authorities, p.Authorities)
		switch {
		case p.Firmware == "" || out.Firmware != "" && AtLeast(out.Firmware, p.Firmware):
		case out.Firmware == "" || AtLeast(p.Firmware, out.Firmware):
			out.Firmware = p.Firmware
		default:
			return nil, fmt.Errorf("firmware of at least %q and of at least %q cannot be compared", out.Firmware, p.Firmware)
		}
		for _, c := range p.SBAT {
			i := slices.IndexFunc(out.SBAT, func(o Component) bool { return o.Name == c.Name })
			if i < 0 {
				out.SBAT = append(out.SBAT, c)
				continue
			}
			sbat := slices.Clone(out.SBAT)
			sbat[i].Generation = max(sbat[i].Generation, c.Generation)
			out.SBAT = sbat
		}
	}
	return out, nil
}
