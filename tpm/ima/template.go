package ima

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/writ-attestation/writ/tpm"
)

const (
	legacyTemplate  = "ima"
	maxTemplateName = 255
	maxLegacyName   = 255 // IMA_EVENT_NAME_LEN_MAX
)

// templates are the fields of the templates the kernel names
// (security/integrity/ima/ima_template.c). A custom one is named by its fields.
var templates = map[string]string{
	legacyTemplate: "d|n",
	"ima-ng":       "d-ng|n-ng",
	"ima-sig":      "d-ng|n-ng|sig",
	"ima-ngv2":     "d-ngv2|n-ng",
	"ima-sigv2":    "d-ngv2|n-ng|sig",
	"ima-buf":      "d-ng|n-ng|buf",
	"ima-modsig":   "d-ng|n-ng|sig|d-modsig|modsig",
	"evm-sig":      "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
}

// A parser keeps what one entry's parsing leaves for the next: lists repeat one
// template thousands of times.
type parser struct {
	name   string
	layout []string // nil before the first entry
	digest string   // the last file's hash algorithm
	alg    fileAlg
	pad    []byte                                             // room for template data that is hashed padded
	text   string                                             // the input, of which paths are parts; "" if they are not in it
	data   int                                                // where the entry's template data begins in text
	at     int                                                // where the field that is read begins in text
	expect func(template, path string, digest []byte) *Hashes // nil: none is
}

// template sets the entry's template and remembers its fields. No hash covers
// the name, so whoever holds the list can give an entry another template. Hence
// digest and name are only ever read from the first two fields, where all of the
// kernel's templates have them: a signature, which the owner of a file chooses,
// must never pass for the digest.
func (p *parser) template(e *Entry, name []byte) error {
	if p.layout == nil || string(name) != p.name {
		layout, ok := templates[string(name)]
		if !ok {
			layout = string(name)
		}
		fields := strings.Split(layout, "|")
		if len(fields) < 2 || !isDigest(fields[0]) || !isName(fields[1]) {
			return fmt.Errorf("template %q: expected one of the kernel's, or d-ng|n-ng and more fields", name)
		}
		for _, f := range fields[2:] {
			if isDigest(f) || isName(f) || f == "" {
				return fmt.Errorf("template %q: expected one digest and one name", name)
			}
		}
		p.name, p.layout = string(name), fields
	}
	e.Template = p.name
	return nil
}

func isDigest(field string) bool { return field == "d" || field == "d-ng" || field == "d-ngv2" }

func isName(field string) bool { return field == "n" || field == "n-ng" }

// fields reads the template data into the entry, to its last byte.
func (p *parser) fields(e *Entry) error {
	if e.Template == legacyTemplate {
		e.FileAlg, e.FileDigest = tpm.AlgSHA1, e.Data[:sha1.Size:sha1.Size]
		p.at = p.data + sha1.Size + 4
		return p.setPath(e, e.Data[sha1.Size+4:])
	}
	rest := e.Data
	for _, field := range p.layout {
		if len(rest) < 4 {
			return fmt.Errorf("field %s is missing", field)
		}
		n := binary.LittleEndian.Uint32(rest)
		if rest = rest[4:]; uint64(n) > uint64(len(rest)) {
			return fmt.Errorf("field %s of %d bytes: %d are left of the template data", field, n, len(rest))
		}
		p.at = p.data + len(e.Data) - len(rest)
		if err := p.setField(e, field, rest[:n:n]); err != nil {
			return fmt.Errorf("reading field %s: %w", field, err)
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes after the last field of template %s", len(rest), e.Template)
	}
	return nil
}

func (p *parser) setField(e *Entry, field string, v []byte) error {
	switch field {
	case "d-ng":
		return p.setDigest(e, v)
	case "d": // 20 bytes: SHA-1, or MD5 padded
		if len(v) != sha1.Size {
			return fmt.Errorf("digest of %d bytes: expected %d", len(v), sha1.Size)
		}
		e.FileAlg, e.FileDigest = tpm.AlgSHA1, v
	case "n":
		return p.setPath(e, bytes.TrimSuffix(v, []byte{0}))
	case "d-ngv2":
		kind, rest, ok := bytes.Cut(v, []byte(":"))
		if !ok || string(kind) != "ima" && string(kind) != "verity" {
			return fmt.Errorf("digest %q: expected its type first, ima or verity", v)
		}
		e.DigestType = string(kind)
		return p.setDigest(e, rest)
	case "n-ng":
		name, ok := bytes.CutSuffix(v, []byte{0})
		if !ok {
			return errors.New("name without closing NUL")
		}
		return p.setPath(e, name)
	case "sig":
		e.Signature = v
	case "buf":
		e.Buffer = v
	}
	return nil
}

func (p *parser) setPath(e *Entry, name []byte) error {
	if len(name) >= MaxPath {
		return fmt.Errorf("name of %d bytes: expected less than %d", len(name), MaxPath)
	}
	if bytes.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("name %q has a NUL in it", name)
	}
	if p.text == "" {
		e.Path = string(name)
	} else {
		e.Path = p.text[p.at : p.at+len(name)]
	}
	return nil
}

// setDigest reads "algorithm:", NUL, digest.
func (p *parser) setDigest(e *Entry, v []byte) error {
	name, sum, ok := bytes.Cut(v, []byte(":\x00"))
	if !ok {
		return fmt.Errorf("digest %q: expected an algorithm and a colon first", v)
	}
	if p.digest == "" || string(name) != p.digest {
		a, ok := fileAlgs[string(name)]
		if !ok {
			return fmt.Errorf("unknown hash algorithm %q", name)
		}
		p.digest, p.alg = string(name), a
	}
	a := p.alg
	if len(sum) != a.size {
		return fmt.Errorf("%s digest of %d bytes: expected %d", name, len(sum), a.size)
	}
	e.FileAlg, e.FileDigest = a.alg, sum
	return nil
}

type fileAlg struct {
	alg  tpm.Alg // 0: no TPM_ALG_ID
	size int
}

// fileAlgs are the kernel's names of hash algorithms (crypto/hash_info.c), and
// the TPM's name of SM3, which newer kernels write.
var fileAlgs = map[string]fileAlg{
	"sha1": {tpm.AlgSHA1, 20}, "sha256": {tpm.AlgSHA256, 32}, "sha384": {tpm.AlgSHA384, 48}, "sha512": {tpm.AlgSHA512, 64},
	"sm3": {tpm.AlgSM3, 32}, "sm3-256": {tpm.AlgSM3, 32}, "sm3_256": {tpm.AlgSM3, 32},
	"sha3-256": {tpm.AlgSHA3256, 32}, "sha3-384": {tpm.AlgSHA3384, 48}, "sha3-512": {tpm.AlgSHA3512, 64},
	"md4": {0, 16}, "md5": {0, 16}, "sha224": {0, 28},
	"rmd128": {0, 16}, "rmd160": {0, 20}, "rmd256": {0, 32}, "rmd320": {0, 40},
	"wp256": {0, 32}, "wp384": {0, 48}, "wp512": {0, 64},
	"tgr128": {0, 16}, "tgr160": {0, 20}, "tgr192": {0, 24},
	"streebog256": {0, 32}, "streebog512": {0, 64},
}

var padding [maxLegacyName + 1]byte

// hashed is what the template hash is computed over: the template data; for the
// template "ima" the digest and the name padded to 256 bytes, in buf.
func (e *Entry) hashed(buf *[]byte) []byte {
	if e.Template != legacyTemplate {
		return e.Data
	}
	name := e.Data[sha1.Size+4:]
	b := append(append((*buf)[:0], e.Data[:sha1.Size]...), name...)
	*buf = append(b, padding[len(name):]...)
	return *buf
}
