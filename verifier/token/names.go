package token

import (
	"crypto/sha256"
	"time"
)

// Every name a token is written or read by is in this file, and those that EAR had in
// 2023 in names2023.go. They come from RFC 7519, 7800, 9449, 9711,
// draft-ietf-rats-ear-03 and draft-ietf-oauth-status-list.
const (
	tokenType = "eat+jwt" // RFC 9782
	affirming = "affirming"
)

// The profiles of EAR that a token can be in.
const (
	Profile2026 = "tag:ietf.org,2026:rats/ear#03"    // draft-ietf-rats-ear-03; that of claims that name none
	Profile2023 = "tag:github.com,2023:veraison/ear" // which Veraison's and Trustee's clients read
)

// Claims is a legitimacy token: the attestation result of one node for one
// audience. Times are Unix seconds. Equal Claims have equal bytes.
type Claims struct {
	Issuer    string            `json:"iss"`
	Subject   string            `json:"sub"` // spiffe://<domain>/node/<id>
	Audience  string            `json:"aud"` // exactly one
	IssuedAt  int64             `json:"iat"`
	NotBefore int64             `json:"nbf"`
	Expires   int64             `json:"exp"`
	ID        string            `json:"jti"`
	Confirm   Confirm           `json:"cnf"`
	Profile   string            `json:"eat_profile"` // one of the profiles
	Nonce     string            `json:"eat_nonce"`   // the requester's r: 32 bytes in base64url
	BootCount uint32            `json:"bootcount"`   // resetCount of the TPM
	Status    string            `json:"ear_status"`
	Verifier  Verifier          `json:"ear_verifier_id"`
	Submods   map[string]Submod `json:"submods"`         // by what was appraised: platform, os-boot, os-runtime
	Listed    Listed            `json:"status,omitzero"` // where a status list has it; none: the zero Listed
	Writ      Writ              `json:"writ"`
}

// Lease is how long work may run, counted by its keeper from the moment it
// asked for the token.
func (c *Claims) Lease() time.Duration {
	return time.Duration(c.Expires-c.IssuedAt) * time.Second
}

// Confirm names the key whose holder may use the token: one by which DPoP proofs are
// made (RFC 9449 6.1), or that of a client certificate (RFC 8705 3.1), never both.
type Confirm struct {
	JKT string `json:"jkt,omitempty"`      // Thumbprint
	X5T string `json:"x5t#S256,omitempty"` // CertificateThumbprint
}

// CertificateThumbprint names a certificate in DER: its SHA-256 in base64url.
func CertificateThumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return encoding.EncodeToString(sum[:])
}

// Verifier says what software judged the evidence.
type Verifier struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

// Submod is the result for one appraised part of the node.
type Submod struct {
	Status   string   `json:"ear_status"`
	Vector   Vector   `json:"ear_trustworthiness_vector"`
	Policies []string `json:"ear_appraisal_policy_ids"` // URIs in order of application, at least one
}

// Vector is the AR4SI trustworthiness vector. 0 makes no claim.
type Vector struct {
	InstanceIdentity int8 `json:"instance-identity,omitempty"`
	Configuration    int8 `json:"configuration,omitempty"`
	Executables      int8 `json:"executables,omitempty"`
	FileSystem       int8 `json:"file-system,omitempty"`
	Hardware         int8 `json:"hardware,omitempty"`
	RuntimeOpaque    int8 `json:"runtime-opaque,omitempty"`
	StorageOpaque    int8 `json:"storage-opaque,omitempty"`
	SourcedData      int8 `json:"sourced-data,omitempty"`
}

// Writ is what no standard has a name for.
type Writ struct {
	V          int    `json:"v"`              // 1
	State      string `json:"state"`          // synchronized or elevated-assurance
	Seq        uint64 `json:"seq"`            // of this node's tokens; the first is 1
	Prev       string `json:"prev,omitempty"` // base64url Digest of the token before; absent in the first
	Epoch      uint64 `json:"epoch"`          // of the domain
	Execution  string `json:"exec,omitempty"`
	Workload   string `json:"wl,omitempty"` // "sha256:<hex>", the node's word
	Level      string `json:"level"`        // enforcement level, the node's word
	Key        string `json:"key"`          // where the key of cnf lives: "lease" or "tpm"
	Evidence   string `json:"evidence"`     // SHA-256, as the two below
	References string `json:"references"`
	Verdict    string `json:"verdict"`
	Log        Log    `json:"log"`
}

// Log places the decision in the domain's history.
type Log struct {
	Origin string `json:"origin"` // <domain>/log
	Index  int64  `json:"index"`
}

// parseClaims reads a payload. Unknown claims are ignored, as EAR demands;
// duplicate, null and fractional ones are refused.
func parseClaims(s string) (*Claims, error) {
	r := &reader{s: s}
	c := new(Claims)
	r.object(func(name string) {
		switch name {
		case "iss":
			c.Issuer = r.string()
		case "sub":
			c.Subject = r.string()
		case "aud":
			c.Audience = r.string()
		case "iat":
			c.IssuedAt = r.int(64)
		case "nbf":
			c.NotBefore = r.int(64)
		case "exp":
			c.Expires = r.int(64)
		case "jti":
			c.ID = r.string()
		case "cnf":
			c.Confirm.read(r)
		case "eat_profile":
			c.Profile = r.string()
		case "eat_nonce":
			c.Nonce = r.string()
		case "bootcount":
			c.BootCount = uint32(r.uint(32))
		case "ear_status":
			r.ear |= names2026
			c.Status = r.string()
		case "ear_verifier_id", "ear.verifier-id":
			r.ear |= generation(name)
			c.Verifier.read(r)
		case "submods":
			c.Submods = make(map[string]Submod)
			r.object(func(label string) { c.Submods[label] = readSubmod(r) })
		case "status":
			c.Listed.read(r)
		case "writ":
			c.Writ.read(r)
		default:
			r.skip()
		}
	})
	c.settle(r)
	return c, r.end()
}

func (c *Confirm) read(r *reader) {
	r.object(func(name string) {
		switch name {
		case "jkt":
			c.JKT = r.string()
		case "x5t#S256":
			c.X5T = r.string()
		default:
			r.skip()
		}
	})
}

func (v *Verifier) read(r *reader) {
	r.object(func(name string) {
		switch name {
		case "developer":
			v.Developer = r.string()
		case "build":
			v.Build = r.string()
		default:
			r.skip()
		}
	})
}

func readSubmod(r *reader) (s Submod) {
	r.object(func(name string) {
		switch name {
		case "ear_status", "ear.status":
			r.ear |= generation(name)
			s.Status = r.string()
		case "ear_trustworthiness_vector", "ear.trustworthiness-vector":
			r.ear |= generation(name)
			s.Vector.read(r)
		case "ear.appraisal-policy-id":
			r.ear |= names2023
			s.Policies = []string{r.string()}
		case "ear_appraisal_policy_ids":
			r.ear |= names2026
			r.array(func() { s.Policies = append(s.Policies, r.string()) })
		default:
			r.skip()
		}
	})
	return s
}

func (v *Vector) read(r *reader) {
	r.object(func(name string) {
		switch name {
		case "instance-identity":
			v.InstanceIdentity = int8(r.int(8))
		case "configuration":
			v.Configuration = int8(r.int(8))
		case "executables":
			v.Executables = int8(r.int(8))
		case "file-system":
			v.FileSystem = int8(r.int(8))
		case "hardware":
			v.Hardware = int8(r.int(8))
		case "runtime-opaque":
			v.RuntimeOpaque = int8(r.int(8))
		case "storage-opaque":
			v.StorageOpaque = int8(r.int(8))
		case "sourced-data":
			v.SourcedData = int8(r.int(8))
		default:
			r.skip()
		}
	})
}

func (w *Writ) read(r *reader) {
	r.object(func(name string) {
		switch name {
		case "v":
			w.V = int(r.int(32))
		case "state":
			w.State = r.string()
		case "seq":
			w.Seq = r.uint(64)
		case "prev":
			w.Prev = r.string()
		case "epoch":
			w.Epoch = r.uint(64)
		case "exec":
			w.Execution = r.string()
		case "wl":
			w.Workload = r.string()
		case "level":
			w.Level = r.string()
		case "key":
			w.Key = r.string()
		case "evidence":
			w.Evidence = r.string()
		case "references":
			w.References = r.string()
		case "verdict":
			w.Verdict = r.string()
		case "log":
			w.Log.read(r)
		default:
			r.skip()
		}
	})
}

func (l *Log) read(r *reader) {
	r.object(func(name string) {
		switch name {
		case "origin":
			l.Origin = r.string()
		case "index":
			l.Index = r.int(64)
		default:
			r.skip()
		}
	})
}
