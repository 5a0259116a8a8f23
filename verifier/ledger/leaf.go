package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxEntry is the longest leaf in bytes: entry bundles prefix each with a
// uint16 (c2sp.org/tlog-tiles).
const MaxEntry = 65535

const (
	leafVersion = 1
	maxKind     = 64  // bytes
	maxName     = 512 // bytes of subject and of actor
)

// Leaf is an entry as it is read back from the log.
type Leaf struct {
	Kind    string
	At      int64 // Unix seconds, assigned by the ledger, never decreasing
	Subject string
	Actor   string
	Data    json.RawMessage // a JSON object
}

// leafJSON fixes the order of the fields: it is the hashed form.
type leafJSON struct {
	V       int    `json:"v"`
	Kind    string `json:"kind"`
	At      int64  `json:"at"`
	Subject string `json:"subject"`
	Actor   string `json:"actor"`
	Data    any    `json:"data"`
}

// LeafHash is the hash of a leaf's bytes in the tree: RFC 6962, section 2.1.
func LeafHash(b []byte) Hash { return tlog.RecordHash(b) }

// Marshal returns the leaf's bytes.
func (l Leaf) Marshal() ([]byte, error) {
	return marshalLeaf(Entry{Kind: l.Kind, Subject: l.Subject, Actor: l.Actor, Data: l.Data}, l.At)
}

// ParseLeaf is the inverse of [Leaf.Marshal]: of any entry there is one form
// alone, so whitespace, other field orders, unknown or repeated fields and
// other escapes are refused.
func ParseLeaf(b []byte) (Leaf, error) {
	if len(b) > MaxEntry {
		return Leaf{}, fmt.Errorf("leaf has %d bytes, at most %d fit", len(b), MaxEntry)
	}
	if !utf8.Valid(b) {
		return Leaf{}, errors.New("leaf is not UTF-8")
	}
	var data json.RawMessage
	in := leafJSON{Data: &data}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return Leaf{}, fmt.Errorf("decoding leaf: %w", err)
	}
	if in.V != leafVersion {
		return Leaf{}, fmt.Errorf("leaf has version %d, expected %d", in.V, leafVersion)
	}
	l := Leaf{Kind: in.Kind, At: in.At, Subject: in.Subject, Actor: in.Actor, Data: data}
	again, err := l.Marshal()
	if err != nil {
		return Leaf{}, err
	}
	if !bytes.Equal(again, b) {
		return Leaf{}, errors.New("leaf is not in the one form that entries have")
	}
	if err := uniqueNames(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return Leaf{}, fmt.Errorf("reading leaf data: %w", err)
	}
	return l, nil
}

// marshalLeaf encodes an entry with its time. What [ParseLeaf] would refuse is
// refused here.
func marshalLeaf(e Entry, at int64) ([]byte, error) {
	if !validKind(e.Kind) {
		return nil, fmt.Errorf("entry kind %.80q is not lower-case words joined by dots and hyphens", e.Kind)
	}
	for _, name := range []string{e.Subject, e.Actor} {
		if len(name) > maxName || !utf8.ValidString(name) {
			return nil, fmt.Errorf("subject or actor %.40q... is longer than %d bytes or not UTF-8", name, maxName)
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("entry time %d is before 1970", at)
	}
	if e.Data == nil {
		e.Data = struct{}{}
	}
	b, err := json.Marshal(leafJSON{leafVersion, e.Kind, at, e.Subject, e.Actor, e.Data})
	if err != nil {
		return nil, fmt.Errorf("encoding %s entry: %w", e.Kind, err)
	}
	if len(b) > MaxEntry {
		return nil, fmt.Errorf("%s entry has %d bytes, at most %d fit: put bulk into a blob and its digest into the entry", e.Kind, len(b), MaxEntry)
	}
	if !bytes.HasSuffix(b, []byte("}}")) {
		return nil, fmt.Errorf("data of a %s entry is not a JSON object", e.Kind)
	}
	return b, nil
}

// validKind reports whether s is words of a-z and 0-9 with one dot or hyphen
// between each two.
func validKind(s string) bool {
	inWord := false
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			inWord = true
		case (c == '.' || c == '-') && inWord:
			inWord = false
		default:
			return false
		}
	}
	return inWord && len(s) <= maxKind
}

// uniqueNames reads one JSON value and refuses an object that has a member
// twice: readers disagree on which of the two counts.
func uniqueNames(dec *json.Decoder) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			if s, ok := name.(string); !ok || seen[s] {
				return fmt.Errorf("member %.40q is repeated", name)
			} else {
				seen[s] = true
			}
			if err := uniqueNames(dec); err != nil {
				return err
			}
		}
	case json.Delim('['):
		for dec.More() {
			if err := uniqueNames(dec); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = dec.Token()
	return err
}
