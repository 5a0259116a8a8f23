package oslog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/writ-attestation/writ/tpm"
)

const (
	separator  = 0x1e // RFC 7464, 2.2: begins a record, and a line feed ends it
	maxRecord  = 16 << 10
	maxDigests = 8
)

// Parse reads a whole log. An empty one has no records, and proves nothing. It
// refuses what is no log to its last byte, a record cut short among it, and JSON
// that two readers could understand in two ways.
func Parse(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("systemd's measurement log has %d bytes: expected at most %d", len(b), MaxSize)
	}
	l := &Log{}
	for len(b) > 0 {
		i := len(l.Records)
		if i >= MaxRecords {
			return nil, fmt.Errorf("systemd's measurement log has more than %d records", MaxRecords)
		}
		if b[0] != separator {
			return nil, fmt.Errorf("reading record %d: byte 0x%02x where a record separator (0x1e) is expected; this is no JSON-SEQ", i, b[0])
		}
		raw, rest, ok := bytes.Cut(b[1:], []byte{'\n'})
		if !ok {
			return nil, fmt.Errorf("reading record %d: it does not end in a line feed: the log was cut; copy it again, under a shared lock", i)
		}
		r, err := parseRecord(raw)
		if err != nil {
			return nil, fmt.Errorf("reading record %d: %w", i, err)
		}
		if i > 0 && r.BootID != l.Records[0].BootID {
			return nil, fmt.Errorf("reading record %d: boot id %s, and those before it have %s; expected one boot", i, r.BootID, l.Records[0].BootID)
		}
		l.Records, b = append(l.Records, r), rest
	}
	return l, nil
}

// Marshal returns the bytes of the log, those that were parsed.
func (l *Log) Marshal() []byte {
	var b []byte
	for i := range l.Records {
		b = append(b, separator)
		b = append(b, l.Records[i].raw...)
		b = append(b, '\n')
	}
	return b
}

// parseRecord reads pcr or nv_index, digests, content_type "systemd", content;
// recnum, which the Canonical Event Log has and systemd does not write, may be
// there.
func parseRecord(raw []byte) (Record, error) {
	r := Record{PCR: -1, raw: raw}
	if len(raw) > maxRecord {
		return r, fmt.Errorf("%d bytes: expected at most %d", len(raw), maxRecord)
	}
	if !utf8.Valid(raw) || bytes.ContainsFunc(raw, func(c rune) bool { return c < ' ' }) {
		return r, errors.New("control characters or no UTF-8")
	}
	f, err := members(raw)
	if err != nil {
		return r, err
	}
	if err := f.only("recnum", "pcr", "nv_index", "digests", "content_type", "content"); err != nil {
		return r, err
	}
	_, isPCR := f["pcr"]
	if _, isNV := f["nv_index"]; isPCR == isNV {
		return r, errors.New("expected one of pcr and nv_index")
	}
	if isPCR {
		n, err := f.number("pcr", 23)
		if err != nil {
			return r, err
		}
		r.PCR = int(n)
	} else if _, err := f.number("nv_index", 0xffffffff); err != nil {
		return r, err
	}
	if _, ok := f["recnum"]; ok {
		if _, err := f.number("recnum", 1<<53); err != nil {
			return r, err
		}
	}
	if kind, err := f.text("content_type"); err != nil || kind != "systemd" {
		return r, fmt.Errorf("content_type %q: expected systemd", kind)
	}
	if r.Digests, err = parseDigests(f["digests"]); err != nil {
		return r, err
	}
	return r, r.parseContent(f["content"])
}

// parseContent reads what systemd says about a record. Members that later
// versions add are kept, unread, if they are strings, numbers or booleans.
func (r *Record) parseContent(raw []byte) error {
	f, err := members(raw)
	if err != nil {
		return fmt.Errorf("content: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(f)) { // whatever is wrong, the same is named each time
		if v := f[name]; v[0] == '{' || v[0] == '[' {
			return fmt.Errorf("content: member %q is no plain value", name)
		}
	}
	if r.Text, err = f.optional("string"); err != nil {
		return fmt.Errorf("content: %w", err)
	}
	if r.Type, err = f.optional("eventType"); err != nil {
		return fmt.Errorf("content: %w", err)
	}
	if r.BootID, err = f.text("bootId"); err != nil {
		return fmt.Errorf("content: %w", err)
	}
	if b, err := lowerHex(r.BootID); err != nil || len(b) != 16 {
		return fmt.Errorf("content: bootId %q: expected 32 hexadecimal digits", r.BootID)
	}
	if r.Time, err = f.number("timestamp", 1<<63); err != nil {
		return fmt.Errorf("content: %w", err)
	}
	return nil
}

// parseDigests reads [{"hashAlg":"sha256","digest":"<hex>"}], each bank once.
func parseDigests(raw []byte) ([]Digest, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 || len(list) > maxDigests {
		return nil, fmt.Errorf("digests: expected an array of 1 to %d", maxDigests)
	}
	out := make([]Digest, 0, len(list))
	for _, raw := range list {
		f, err := members(raw)
		if err != nil {
			return nil, fmt.Errorf("digests: %w", err)
		}
		name, err := f.text("hashAlg")
		if err != nil {
			return nil, fmt.Errorf("digests: %w", err)
		}
		text, err := f.text("digest")
		if err != nil {
			return nil, fmt.Errorf("digests: %w", err)
		}
		alg, err := tpm.ParseAlg(name)
		if err != nil || alg.String() != name {
			return nil, fmt.Errorf("digests: unknown algorithm %q", name)
		}
		sum, err := lowerHex(text)
		if err != nil || len(sum) != alg.Size() {
			return nil, fmt.Errorf("digests: expected %d hexadecimal digits for %v", 2*alg.Size(), alg)
		}
		for _, d := range out {
			if d.Alg == alg {
				return nil, fmt.Errorf("digests: two of %v", alg)
			}
		}
		if len(f) != 2 {
			return nil, errors.New("digests: expected hashAlg and digest")
		}
		out = append(out, Digest{alg, sum})
	}
	return out, nil
}

func lowerHex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err == nil && s != strings.ToLower(s) {
		err = errors.New("upper case")
	}
	return b, err
}

// An object holds the members of a JSON object by their exact names. Package
// json alone would take the last of two, and "PCR" for "pcr".
type object map[string]json.RawMessage

func members(raw []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("expected a JSON object")
	}
	out := object{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, errors.New("broken JSON")
		}
		name, _ := t.(string)
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("member %q is there twice", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, errors.New("broken JSON")
		}
		out[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("broken JSON")
	}
	if len(bytes.TrimSpace(raw[d.InputOffset():])) > 0 {
		return nil, errors.New("more than one JSON object")
	}
	return out, nil
}

func (o object) only(names ...string) error {
	known := 0
	for _, n := range names {
		if _, ok := o[n]; ok {
			known++
		}
	}
	if known != len(o) {
		return fmt.Errorf("unknown members: expected only %s", strings.Join(names, ", "))
	}
	return nil
}

// optional is text of a member that may be missing.
func (o object) optional(name string) (string, error) {
	if _, ok := o[name]; !ok {
		return "", nil
	}
	return o.text(name)
}

func (o object) text(name string) (s string, err error) {
	if raw := o[name]; len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("member %q: expected a string", name)
	}
	return s, nil
}

func (o object) number(name string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(string(o[name]), 10, 64)
	if err != nil || n > most {
		return 0, fmt.Errorf("member %q: expected a whole number, at most %d", name, most)
	}
	return n, nil
}
