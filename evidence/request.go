package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
)

// Request is what a node asks a token for. It is bound by the quote (or, for a
// further execution, by a proof with the key that the quote bound), so nobody
// between keeper and verifier can ask for something else. What it says of the
// workload and the level stays the node's own word.
type Request struct {
	Audience  string `json:"audience"`         // the one aud of the token
	Workload  string `json:"wl,omitempty"`     // "sha256:" and the digest of the executable
	Execution string `json:"exec,omitempty"`   // id of the execution
	Keeper    string `json:"keeper,omitempty"` // "sha256:" and the digest of the keeper's program
	Key       string `json:"key,omitempty"`    // thumbprint of the keeper's key, which signs how the execution ended
	Parent    string `json:"parent,omitempty"` // id of the execution that started it
	Image     string `json:"image,omitempty"`  // "sha256:" and the digest of the image it is from, as whoever starts it says
	Level     string `json:"level"`            // enforcement level, "E0" to "E4"
	R         string `json:"r"`                // the requester's 32 random bytes, base64url: becomes eat_nonce
	ID        string `json:"id"`               // request id: a retry with the same id gets the same token
}

var (
	workloadRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	idRE       = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	keyRE      = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	levelRE    = regexp.MustCompile(`^E[0-4]$`)
)

// Marshal writes the one encoding ParseRequest accepts.
func (r Request) Marshal() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("evidence: a request of strings does not marshal: " + err.Error())
	}
	return b
}

// ParseRequest reads and checks a request.
func ParseRequest(b []byte) (Request, error) {
	var r Request
	if err := strict(b, &r); err != nil {
		return Request{}, fmt.Errorf("reading the request: %w", err)
	}
	if !bytes.Equal(r.Marshal(), b) {
		return Request{}, fmt.Errorf("reading the request: not in the canonical form")
	}
	return r, r.check()
}

func (r Request) check() error {
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"audience", r.Audience, r.Audience != "" && len(r.Audience) <= 512},
		{"wl", r.Workload, r.Workload == "" || workloadRE.MatchString(r.Workload)},
		{"keeper", r.Keeper, r.Keeper == "" || workloadRE.MatchString(r.Keeper)},
		{"image", r.Image, r.Image == "" || workloadRE.MatchString(r.Image)},
		{"key", r.Key, r.Key == "" || keyRE.MatchString(r.Key)},
		{"exec", r.Execution, r.Execution == "" || idRE.MatchString(r.Execution)},
		{"parent", r.Parent, r.Parent == "" || idRE.MatchString(r.Parent)},
		{"level", r.Level, levelRE.MatchString(r.Level)},
		{"id", r.ID, idRE.MatchString(r.ID)},
	} {
		if !c.ok {
			return fmt.Errorf("checking the request: %s %.80q is not allowed", c.name, c.value)
		}
	}
	// Encoded again, since Go's decoder skips line breaks and ignores trailing bits.
	if n, err := base64.RawURLEncoding.DecodeString(r.R); err != nil || len(n) != 32 || base64.RawURLEncoding.EncodeToString(n) != r.R {
		return fmt.Errorf("checking the request: r is not 32 bytes in base64url")
	}
	return nil
}
