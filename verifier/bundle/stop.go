package bundle

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/writ-attestation/writ/verifier/token"
)

// Stop is the end of an execution. With a Statement it is its keeper's word,
// which the key in the execution's tokens proves; without one it is the agent's,
// which saw the keeper vanish and confirms nothing. Times are nanoseconds on the
// node's boot clock.
type Stop struct {
	Exec      string `json:"exec"`
	Image     string `json:"image,omitempty"` // that it was from, as whoever started it said
	Cause     string `json:"cause"`
	Deadline  int64  `json:"deadline"`            // of the last token
	Renewed   int64  `json:"renewed,omitempty"`   // when that was asked for
	Frozen    int64  `json:"frozen,omitempty"`    // since when it stood still before it was killed
	Stopped   int64  `json:"stopped,omitempty"`   // when the last process was found gone
	LatencyUS int64  `json:"latency_us"`          // deadline or order to the last process gone
	Confirmed bool   `json:"confirmed"`           // nothing of it is left
	Level     string `json:"level"`               // enforcement level
	Admitted  uint64 `json:"admitted,omitempty"`  // index of the entry of the last token
	Halt      *Halt  `json:"halt,omitempty"`      // cause prove-halt only
	Statement string `json:"statement,omitempty"` // all of this but itself, signed with the keeper's key
}

// Halt is a node's proof that it can halt work, in answer to a nonce.
type Halt struct {
	Nonce string    `json:"nonce"` // hexadecimal
	Keys  []HaltKey `json:"keys"`
}

// HaltKey is what became of a sacrificial tree under one key alone.
type HaltKey struct {
	Key       string `json:"key"`
	LatencyUS int64  `json:"latency_us"`
	Halted    bool   `json:"halted"`
}

// ProveHalt is the cause of a Stop that is such a proof.
const ProveHalt = "prove-halt"

// Halted reports whether the stop proves that its node can halt work: every key
// of the keeper did.
func (s Stop) Halted() bool {
	if s.Cause != ProveHalt || s.Halt == nil || !s.Confirmed || s.Statement == "" {
		return false
	}
	halted := map[string]bool{}
	for _, k := range s.Halt.Keys {
		halted[k.Key] = k.Halted
	}
	return halted["kill"] && halted["kernel-timer"] && halted["init-watch"] && halted["keeper-death"]
}

var (
	execRE  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	imageRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	causeRE = regexp.MustCompile(`^[a-z-]{1,32}$`)
	levelRE = regexp.MustCompile(`^E[0-4]$`)
)

// OpenStop reads the stop that a keeper signed, and the thumbprint of its key.
func OpenStop(statement string) (s Stop, jkt string, err error) {
	jkt, payload, err := token.OpenStatement(statement)
	if err == nil {
		err = json.Unmarshal(payload, &s)
	}
	if err != nil {
		return Stop{}, "", fmt.Errorf("opening a stop record: %w", err)
	}
	s.Statement = statement
	return s, jkt, s.Check()
}

// Check reports what no stop record says: one that is not well-formed, one that
// differs from its own statement, or a confirmation that nobody signed.
func (s Stop) Check() error {
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"exec", s.Exec, execRE.MatchString(s.Exec)},
		{"image", s.Image, s.Image == "" || imageRE.MatchString(s.Image)},
		{"cause", s.Cause, causeRE.MatchString(s.Cause)},
		{"level", s.Level, levelRE.MatchString(s.Level)},
	} {
		if !c.ok {
			return fmt.Errorf("checking a stop record: %s %.80q is not allowed", c.name, c.value)
		}
	}
	if s.Statement == "" && s.Confirmed {
		return fmt.Errorf("checking a stop record: it is confirmed and has no statement of the keeper")
	}
	return nil
}
