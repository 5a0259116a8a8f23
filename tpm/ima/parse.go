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
	s := scan(b, maxEntries)
	l := &List{Entries: make([]Entry, 0, min(len(b)/100+1, 16384))}
	for s.Next() {
		l.Entries = append(l.Entries, s.entry)
	}
	if s.err != nil {
		return nil, s.err
	}
	l.Truncated, l.Tail = len(s.tail) > 0, s.tail
	return l, nil
}

// A Scanner reads a list like [Parse], but keeps none of it: for whoever looks at
// each entry once.
type Scanner struct {
	b       []byte
	off     int // where the next record begins
	entries int
	most    int
	parser  parser
	entry   Entry
	tail    []byte
	err     error
}

// Scan returns a Scanner before the first entry.
func Scan(b []byte) *Scanner { return scan(b, MaxEntries) }

func scan(b []byte, most int) *Scanner {
	return &Scanner{b: b, most: most, parser: parser{text: string(b)}}
}

// Next reads the next entry. It is false at the end of the list and of what can be
// read of it, which Err tells apart.
func (s *Scanner) Next() bool {
	if s.err != nil || s.off >= len(s.b) {
		return s.end()
	}
	if s.entries >= s.most {
		s.err = fmt.Errorf("measurement list has more than %d entries", s.most)
		return false
	}
	s.entry = Entry{Index: s.entries, Offset: int64(s.off)}
	n, err := s.parser.record(&s.entry, s.b[s.off:], s.off)
	if errors.Is(err, errCut) {
		s.tail, s.off = s.b[s.off:], len(s.b)
		return s.end()
	}
	if err != nil {
		s.err = fmt.Errorf("reading entry %d at byte %d: %w", s.entries, s.off, err)
		return false
	}
	s.off += n
	s.entries++
	s.entry.End = int64(s.off)
	return true
}

// end refuses what was no list at all.
func (s *Scanner) end() bool {
	switch {
	case s.err != nil || s.entries > 0:
	case len(s.b) == 0:
		s.err = errors.New("empty file: expected a measurement list; read the kernel's binary_runtime_measurements")
	case !(&List{Tail: s.tail}).TailViolation():
		s.err = errors.New("no whole entry: this is no measurement list, or only its beginning; copy it again")
	}
	return false
}

// Entry is the entry that Next has read. It is overwritten by the next call.
func (s *Scanner) Entry() *Entry { return &s.entry }

// Err says why the list could not be read, nil if it was read to its end.
func (s *Scanner) Err() error { return s.err }

var errCut = errors.New("the list ends inside the record")

// record reads one record from the front of b, which is at start in the input, into
// e and returns its size:
// PCR u32, template hash [20], template name (length u32 before it), template
// data (length u32 before it, but for the template "ima").
func (p *parser) record(e *Entry, b []byte, start int) (int, error) {
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
	skip, size, err := dataSize(e.Template, b[end:])
	if err != nil {
		return 0, err
	}
	off = end + skip
	p.data = start + off
	if len(b) < off+size {
		return 0, errCut
	}
	e.Data = b[off : off+size : off+size]
	return off + size, p.finish(e)
}

// dataSize returns where the template data begins in b and how long it is. Of
// the template "ima" it is digest [20] and name (length u32 before it).
func dataSize(template string, b []byte) (skip, size int, err error) {
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
	if known := p.expected(e); known != nil && string(known.sha1[:]) == string(e.TemplateHash) {
		e.hashes = known
		return nil
	}
	if got := sha1.Sum(e.hashed(&p.pad)); !bytes.Equal(got[:], e.TemplateHash) {
		return fmt.Errorf("template data hashes to %x, the entry says %x: the entry was changed", got, e.TemplateHash)
	}
	return nil
}
