package appraisal

import "github.com/writ-attestation/writ/verifier/reference"

// Decisions. A Verdict whose Decision is anything but Grant denies.
const (
	Grant = "grant"
	Deny  = "deny"
)

// Tiers of AR4SI.
const (
	None            = "none"
	Affirming       = "affirming"
	Warning         = "warning"
	Contraindicated = "contraindicated"
)

// Verdict is the outcome of an appraisal. The zero Verdict denies.
type Verdict struct {
	V        int       `json:"v"`
	Rules    int       `json:"rules"`
	Decision string    `json:"decision"`
	Tier     string    `json:"tier"`            // of the required claims together
	Level    string    `json:"level,omitempty"` // [reference.QuoteOnly]: no log was judged
	Vector   Vector    `json:"vector"`
	Domain   string    `json:"domain"`
	Node     string    `json:"node"`
	Nonce    []byte    `json:"nonce"`
	Binding  string    `json:"binding"`
	At       int64     `json:"at"`    // Unix seconds
	Until    int64     `json:"until"` // the earliest end of any window used; no token outlives it
	Inputs   Digests   `json:"inputs"`
	Boot     *Boot     `json:"boot,omitempty"` // what is now proven of this boot
	Findings []Finding `json:"findings"`
}

// Vector is the AR4SI trustworthiness vector; 0 makes no claim.
type Vector struct {
	InstanceIdentity int8 `json:"instance-identity,omitempty"`
	Configuration    int8 `json:"configuration,omitempty"`
	Executables      int8 `json:"executables,omitempty"`
	Hardware         int8 `json:"hardware,omitempty"`
}

// Finding is one thing that kept evidence from being affirmed. Code is stable;
// Next says what a person can do.
type Finding struct {
	Code     string `json:"code"`
	PCR      *int   `json:"pcr,omitempty"`
	Event    *int   `json:"event,omitempty"` // index in the boot log, or of the entry in the IMA list
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Next     string `json:"next"`
}

// Granted reports whether the verdict permits a token.
func (v *Verdict) Granted() bool { return v.Decision == Grant }

// Marshal writes the verdict; equal verdicts have equal bytes.
func (v *Verdict) Marshal() []byte { return v.AppendJSON(make([]byte, 0, 1<<11)) }

// Next is the state of the boot to judge the node's next evidence by, nil when
// nothing was proven. It carries this boot's IMA findings on.
func (v *Verdict) Next() *Boot {
	if v.Boot == nil {
		return nil
	}
	b := *v.Boot
	if b.IMA != nil {
		i := *b.IMA
		for _, f := range v.Findings {
			if carried(f.Code) {
				i.Findings = append(i.Findings, f)
			}
		}
		b.IMA = &i
	}
	return &b
}

// carried findings concern single IMA entries, which a resumed appraisal does
// not see again.
func carried(code string) bool {
	switch code {
	case imaUnknown, imaVulnerable, imaDenied, imaAggregate, imaWeak, imaBuffer:
		return true
	}
	return false
}

// claim returns the named element of the vector.
func (v *Vector) claim(name string) *int8 {
	switch name {
	case reference.InstanceIdentity:
		return &v.InstanceIdentity
	case reference.Configuration:
		return &v.Configuration
	case reference.Executables:
		return &v.Executables
	case reference.Hardware:
		return &v.Hardware
	}
	return new(int8) // not derived: makes no claim, and so denies where it is required
}

// Claim returns the value of a claim by its AR4SI name, 0 for none.
func (v Vector) Claim(name string) int8 { return *v.claim(name) }

// Names of the claims a Vector holds, in AR4SI's order.
func Names() []string {
	return []string{reference.InstanceIdentity, reference.Configuration, reference.Executables, reference.Hardware}
}

// TierOf places one claim (AR4SI section 2.3): the values of the standard and
// the private half of each range.
func TierOf(value int8) string {
	switch v := int(value); {
	case v >= 2 && v <= 31, v <= -2 && v >= -32:
		return Affirming
	case v >= 32 && v <= 95, v <= -33 && v >= -96:
		return Warning
	case v >= 96, v <= -97:
		return Contraindicated
	}
	return None
}

// worse orders tiers for "the worst applies": contraindicated, warning, none,
// affirming.
func worse(a, b string) string {
	rank := map[string]int{Affirming: 0, None: 1, Warning: 2, Contraindicated: 3}
	if rank[a] >= rank[b] {
		return a
	}
	return b
}

// lower moves a claim to a value unless it is already at a worse one.
func (v *Vector) lower(name string, value int8) {
	c := v.claim(name)
	if worse(TierOf(*c), TierOf(value)) != TierOf(*c) || (TierOf(*c) == TierOf(value) && value > *c) {
		*c = value
	}
}
