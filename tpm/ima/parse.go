package ima

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
)

// Parse reads a binary list, or the rest of one from an entry on. A last record
// that is cut is no error: see [List.Truncated]. Everything else must be in
// order, the template hash of each entry that is no violation included;
// [List.Marshal] gives the same bytes back.
func Parse(b []byte) (*List, error) { return parse(b, MaxEntries) }

func parse(b []byte, maxEntries int) (*List, error) {
	if len(b) == 0 {
		return nil, errors.New("empty file: expected a measurement list; read the kernel's binary_runtime_measurements")
	}
	l := &List{Entries: make([]Entry, 0, min(len(b)/100+1, 16384))}
	p := parser{paths: make([]byte, 0, len(b)/2), ends: make([]int, 0, cap(l.Entries))}
	for off := 0; off < len(b); {
		if len(l.Entries) >= maxEntries {
			return nil, fmt.Errorf("measurement list has more than %d entries", maxEntries)
		}
		l.Entries = append(l.Entries, Entry{Index: len(l.Entries), Offset: int64(off)})
		e := &l.Entries[len(l.Entries)-1]
		n, err := p.record(e, b[off:])
		if errors.Is(err, errCut) {
			l.Entries = l.Entries[:e.Index]
			l.Truncated, l.Tail = true, b[off:]
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading entry %d at byte %d: %w", e.Index, off, err)
		}
		off += n
		e.End = int64(off)
	}
	p.nameAll(l.Entries)
	if len(l.Entries) == 0 && !l.TailViolation() {
		return nil, errors.New("no whole entry: this is no measurement list, or only its beginning; copy it again")
	}
	return l, nil
}

var errCut = errors.New("the list ends inside the record")

// record reads one record from the front of b into e and returns its size:
// PCR u32, template hash [20], template name (length u32 before it), template
// data (length u32 before it, but for the template "ima").
func (p *parser) record(e *Entry, b []byte) (int, error) {
	if len(b) < headerSize+4 {
		return 0, errCut
	}
	le := binary.LittleEndian
	e.PCR, e.TemplateHash = le.Uint32(b), b[4:headerSize:headerSize]
	if e.PCR > 23 {
		return 0, fmt.Errorf("PCR %d: expected 0 to 23; this is no measurement list, or one in big-endian byte order", e.PCR)
	}
	n := le.Uint32(b[headerSize:])
	if n == 0 || n > maxTemplateName {
		return 0, fmt.Errorf("template name of %d bytes: expected 1 to %d", n, maxTemplateName)
	}
	off := headerSize + 4
	end := off + int(n)
	if len(b) < end {
		return 0, errCut
	}
	if err := p.template(e, b[off:end]); err != nil {
		return 0, err
	}
	start, size, err := dataSize(e.Template, b[end:])
	if err != nil {
		return 0, err
	}
	off = end + start
	if len(b) < off+size {
		return 0, errCut
	}
	e.Data = b[off : off+size : off+size]
	return off + size, p.finish(e)
}

// dataSize returns where the template data starts in b and how long it is. Of
// the template "ima" it is digest [20] and name (length u32 before it).
func dataSize(template string, b []byte) (start, size int, err error) {
	le := binary.LittleEndian
	if template == legacyTemplate {
		if len(b) < sha1.Size+4 {
			return 0, 0, errCut
		}
		n := le.Uint32(b[sha1.Size:])
		if n > maxLegacyName {
			return 0, 0, fmt.Errorf("name of %d bytes in template ima: expected at most %d", n, maxLegacyName)
		}
		return 0, sha1.Size + 4 + int(n), nil
	}
	if len(b) < 4 {
		return 0, 0, errCut
	}
	n := le.Uint32(b)
	if n > MaxTemplate {
		return 0, 0, fmt.Errorf("template data of %d bytes: expected at most %d", n, MaxTemplate)
	}
	return 4, int(n), nil
}

// finish reads the template data of e and compares it with the template hash.
func (p *parser) finish(e *Entry) error {
	e.Violation = isZero(e.TemplateHash)
	if err := p.fields(e); err != nil {
		return err
	}
	if e.Violation || len(e.TemplateHash) != sha1.Size {
		return nil
	}
	if got := sha1.Sum(e.hashed(&p.pad)); !bytes.Equal(got[:], e.TemplateHash) {
		return fmt.Errorf("template data hashes to %x, the entry says %x: the entry was changed", got, e.TemplateHash)
	}
	return nil
}
