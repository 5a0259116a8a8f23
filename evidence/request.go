package evidence

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/writ-attestation/writ/internal/jsonform"
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
	Argv      string `json:"argv,omitempty"`   // "sha256:" and the digest of the policy by which the keeper allowed the command line
	Level     string `json:"level"`            // enforcement level, "E0" to "E4"
	R         string `json:"r"`                // the requester's 32 random bytes, base64url: becomes eat_nonce
	ID        string `json:"id"`               // request id: a retry with the same id gets the same token
}

// What the members are made of, beside letters and digits.
const (
	idMarks  = "._-"
	keyMarks = "_-"
)

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// isName reports whether s is from least to most letters, digits and marks.
func isName(s string, least, most int, marks string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(marks, c) >= 0:
		default:
			return false
		}
	}
	return len(s) >= least && len(s) <= most
}

func isID(s string) bool { return isName(s, 1, 64, idMarks) }

// members are the members of a request in their order, the optional ones between
// audience and level.
func (r *Request) members() [8]struct {
	name  string
	value *string
} {
	return [...]struct {
		name  string
		value *string
	}{{"wl", &r.Workload}, {"exec", &r.Execution}, {"keeper", &r.Keeper}, {"key", &r.Key}, {"parent", &r.Parent}, {"image", &r.Image}, {"argv", &r.Argv}, {"level", &r.Level}}
}

// Marshal writes the one encoding ParseRequest accepts.
func (r Request) Marshal() []byte {
	o := jsonform.In(make([]byte, 0, 256))
	o.String("audience", r.Audience)
	for _, m := range r.members() {
		if *m.value != "" || m.name == "level" {
			o.String(m.name, *m.value)
		}
	}
	o.String("r", r.R)
	o.String("id", r.ID)
	return o.End()
}

// ParseRequest reads and checks a request.
func ParseRequest(b []byte) (Request, error) {
	r := scan(b)
	if !bytes.Equal(r.Marshal(), b) {
		r = Request{}
		if err := strict(b, &r); err != nil {
			return Request{}, fmt.Errorf("reading the request: %w", err)
		}
		return Request{}, fmt.Errorf("reading the request: not in the canonical form")
	}
	return r, r.check()
}

// scan reads a request in the form that Marshal writes; what it makes of any other
// does not marshal to it.
func scan(b []byte) (r Request) {
	c := &cursor{b: b}
	c.expect(`{"audience":`)
	r.Audience = c.text()
	for _, m := range r.members() {
		if c.skip(`,"` + m.name + `":`) {
			*m.value = c.text()
		}
	}
	c.expect(`,"r":`)
	r.R = c.text()
	c.expect(`,"id":`)
	r.ID = c.text()
	c.expect("}")
	return r
}

func (r Request) check() error {
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"audience", r.Audience, r.Audience != "" && len(r.Audience) <= 512},
		{"wl", r.Workload, r.Workload == "" || isDigest(r.Workload)},
		{"keeper", r.Keeper, r.Keeper == "" || isDigest(r.Keeper)},
		{"image", r.Image, r.Image == "" || isDigest(r.Image)},
		{"argv", r.Argv, r.Argv == "" || isDigest(r.Argv)},
		{"key", r.Key, r.Key == "" || isName(r.Key, 43, 43, keyMarks)},
		{"exec", r.Execution, r.Execution == "" || isID(r.Execution)},
		{"parent", r.Parent, r.Parent == "" || isID(r.Parent)},
		{"level", r.Level, len(r.Level) == 2 && r.Level >= "E0" && r.Level <= "E4"},
		{"id", r.ID, isID(r.ID)},
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
