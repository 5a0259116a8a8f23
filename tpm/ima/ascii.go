package ima

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ParseASCII reads the kernel's text form of a list
// (ascii_runtime_measurements), one entry a line: PCR, template hash, template,
// its fields. The template data is rebuilt from the fields and must match the
// template hash, so a path may hold spaces. Offsets are those of the lines.
// Template hashes of other lengths than SHA-1's are not compared: the line does
// not say their algorithm.
func ParseASCII(b []byte) (*List, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, errors.New("empty file: expected a measurement list; read the kernel's ascii_runtime_measurements")
	}
	l := &List{}
	p := parser{}
	for off := 0; off < len(b); {
		if len(l.Entries) >= MaxEntries {
			return nil, fmt.Errorf("measurement list has more than %d entries", MaxEntries)
		}
		line, _, whole := bytes.Cut(b[off:], []byte("\n"))
		e := Entry{Index: len(l.Entries), Offset: int64(off)}
		if err := p.line(&e, string(line)); err != nil {
			if whole || len(l.Entries) == 0 {
				return nil, fmt.Errorf("reading line %d: %w", e.Index+1, err)
			}
			l.Truncated = true // the last line has no end and makes no sense
			break
		}
		off = min(off+len(line)+1, len(b))
		e.End = int64(off)
		l.Entries = append(l.Entries, e)
	}
	return l, nil
}

// IsASCII reports whether b looks like a text list: it starts with a PCR number
// and a space. A binary one starts with the bytes of a number below 24.
func IsASCII(b []byte) bool {
	n := bytes.IndexByte(b[:min(len(b), 3)], ' ')
	if n <= 0 {
		return false
	}
	_, err := strconv.ParseUint(string(b[:n]), 10, 8)
	return err == nil
}

func (p *parser) line(e *Entry, line string) error {
	f := strings.SplitN(line, " ", 4)
	if len(f) < 4 {
		return errors.New("expected a PCR, a template hash, a template and its fields")
	}
	pcr, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil || pcr > 23 {
		return fmt.Errorf("PCR %q: expected 0 to 23", f[0])
	}
	e.PCR = uint32(pcr)
	if e.TemplateHash, err = hex.DecodeString(f[1]); err != nil || len(e.TemplateHash) < sha1.Size || len(e.TemplateHash) > 64 {
		return fmt.Errorf("template hash %q: expected hexadecimal digits of a digest", f[1])
	}
	if len(f[2]) > maxTemplateName {
		return fmt.Errorf("template name of %d bytes: expected at most %d", len(f[2]), maxTemplateName)
	}
	if err := p.template(e, []byte(f[2])); err != nil {
		return err
	}
	if e.Data, err = p.asciiData(e.Template, f[3]); err != nil {
		return err
	}
	if len(e.Data) > MaxTemplate {
		return fmt.Errorf("template data of %d bytes: expected at most %d", len(e.Data), MaxTemplate)
	}
	return p.finish(e)
}

// asciiData rebuilds template data from the text of its fields: digest and name
// first, then fields in hexadecimal, which may be empty.
func (p *parser) asciiData(template, text string) ([]byte, error) {
	le := binary.LittleEndian
	digest, rest, ok := strings.Cut(text, " ")
	if !ok {
		return nil, errors.New("expected a digest and a name")
	}
	if template == legacyTemplate {
		sum, err := hex.DecodeString(digest)
		if err != nil || len(sum) != sha1.Size || len(rest) > maxLegacyName {
			return nil, fmt.Errorf("fields %q: expected a SHA-1 digest and a name", text)
		}
		return append(le.AppendUint32(sum, uint32(len(rest))), rest...), nil
	}
	if !strings.HasPrefix(p.layout[0], "d-ng") || p.layout[1] != "n-ng" {
		return nil, fmt.Errorf("template %s cannot be read from text: use the binary list", template)
	}
	tail := make([]string, len(p.layout)-2)
	for i := len(tail) - 1; i >= 0; i-- { // from the right: the name may hold spaces
		cut := strings.LastIndexByte(rest, ' ')
		if cut < 0 {
			return nil, fmt.Errorf("field %s is missing", p.layout[i+2])
		}
		rest, tail[i] = rest[:cut], rest[cut+1:]
	}
	d, err := asciiDigest(digest)
	if err != nil {
		return nil, err
	}
	b := append(le.AppendUint32(nil, uint32(len(d))), d...)
	b = append(le.AppendUint32(b, uint32(len(rest)+1)), rest...)
	b = append(b, 0)
	for i, t := range tail {
		v, err := asciiField(p.layout[i+2], t)
		if err != nil {
			return nil, fmt.Errorf("reading field %s: %w", p.layout[i+2], err)
		}
		b = append(le.AppendUint32(b, uint32(len(v))), v...)
	}
	return b, nil
}

func asciiField(field, text string) ([]byte, error) {
	switch field {
	case "sig", "buf", "modsig":
		return hex.DecodeString(text)
	case "d-modsig":
		if text == "" {
			return nil, nil
		}
		return asciiDigest(text)
	}
	return nil, errors.New("cannot be read from text: use the binary list")
}

// asciiDigest turns "sha256:<hex>" into the binary form "sha256:", NUL, digest.
func asciiDigest(text string) ([]byte, error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return nil, fmt.Errorf("digest %q: expected an algorithm, a colon and hexadecimal digits", text)
	}
	sum, err := hex.DecodeString(text[i+1:])
	if err != nil {
		return nil, fmt.Errorf("digest %q: expected hexadecimal digits after the colon", text)
	}
	return append(append([]byte(text[:i+1]), 0), sum...), nil
}
