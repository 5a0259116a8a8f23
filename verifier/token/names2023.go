package token

import (
	"encoding/json"
	"strings"
)

// Profile is the profile that a configuration calls so: "2026" or "veraison-2023".
func Profile(name string) (profile string, ok bool) {
	profile, ok = map[string]string{"2026": Profile2026, "veraison-2023": Profile2023}[name]
	return profile, ok
}

// claims2023 writes Claims under the names of EAR in 2023, which had no status of the
// whole: it is that of the worst submod.
type claims2023 struct {
	*Claims
	Verifier Verifier              `json:"ear.verifier-id"`
	Submods  map[string]submod2023 `json:"submods"`

	NoStatus   string `json:"ear_status,omitempty"` // these two hide those of Claims
	NoVerifier string `json:"ear_verifier_id,omitempty"`
}

type submod2023 struct {
	Status string `json:"ear.status"`
	Vector Vector `json:"ear.trustworthiness-vector"`
	Policy string `json:"ear.appraisal-policy-id"`
}

// marshal writes claims that were checked, under the names of their profile.
func (c *Claims) marshal() ([]byte, error) {
	if c.Profile != Profile2023 {
		return c.AppendJSON(make([]byte, 0, 1<<11)), nil
	}
	out := claims2023{Claims: c, Verifier: c.Verifier, Submods: make(map[string]submod2023)}
	for label, s := range c.Submods {
		out.Submods[label] = submod2023{s.Status, s.Vector, s.Policies[0]}
	}
	return json.Marshal(out)
}

// The generations of EAR's names, as bits of reader.ear.
const (
	names2026 = 1 << iota
	names2023
)

func generation(name string) int {
	if strings.HasPrefix(name, "ear.") {
		return names2023
	}
	return names2026
}

// settle refuses names of one profile in a token of the other, which some would read
// and others not, and completes what the profile leaves to be concluded.
func (c *Claims) settle(r *reader) {
	switch old := c.Profile == Profile2023; {
	case old && r.ear&names2026 != 0, !old && r.ear&names2023 != 0:
		r.fail(WrongProfile, "eat_profile is %.100q, but names of another one are used", c.Profile)
	case old && len(c.Submods) > 0:
		c.Status = affirming
		for _, s := range c.Submods {
			if s.Status != affirming {
				c.Status = s.Status
			}
		}
	}
}
