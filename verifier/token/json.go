package token

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds on the JSON of a token, far above what one needs.
const (
	maxDepth   = 16
	maxMembers = 64 // of one object
)

// reader reads JSON strictly and in one pass. It exists because encoding/json
// takes "EXP" for "exp" and the last of two equal names, where another reader of
// the same token takes the first (RFC 8725 section 2.4), and because its
// reflection costs a third of a signature check. The first error sticks; every
// method does nothing after it.
type reader struct {
	s     string
	i     int
	depth int
	ear   int // which generations of EAR's names were met
	err   error
}

func (r *reader) fail(code, format string, args ...any) {
	if r.err == nil {
		r.err = refuse(code, format, args...)
		r.i = len(r.s)
	}
}

// next returns the next byte that is not white space without taking it, 0 at
// the end and after an error.
func (r *reader) next() byte {
	for r.i < len(r.s) {
		switch c := r.s[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
	return 0
}

func (r *reader) expect(c byte) bool {
	if r.next() != c {
		r.fail(Malformed, "the JSON has no %q at byte %d", c, r.i)
		return false
	}
	r.i++
	return true
}

// more is called before each element of a list; it takes the comma between two
// and the closing byte.
func (r *reader) more(first bool, closing byte) bool {
	switch c := r.next(); {
	case r.err != nil:
		return false
	case c == closing:
		r.i++
		return false
	case first:
		return true
	}
	return r.expect(',')
}

func (r *reader) enter(c byte) bool {
	r.depth++
	if r.depth > maxDepth {
		r.fail(Malformed, "the JSON is more than %d deep", maxDepth)
	}
	return r.expect(c)
}

// object calls member for each name; member takes the value.
func (r *reader) object(member func(name string)) {
	if !r.enter('{') {
		return
	}
	var space [24]string
	seen := space[:0]
	for r.more(len(seen) == 0, '}') {
		name := r.raw()
		switch {
		case r.err != nil:
			return
		case slices.Contains(seen, name):
			r.fail(DuplicateName, "%.40q stands twice in one object", name)
		case len(seen) == maxMembers:
			r.fail(Malformed, "one object has more than %d members", maxMembers)
		}
		seen = append(seen, name)
		if r.expect(':') {
			member(name)
		}
	}
	r.depth--
}

func (r *reader) array(element func()) {
	if !r.enter('[') {
		return
	}
	for first := true; r.more(first, ']'); first = false {
		element()
	}
	r.depth--
}

// raw takes a string without escapes and returns what is between the quotes.
// Names are read by it: an escape there only serves to hide one.
func (r *reader) raw() string {
	if !r.expect('"') {
		return ""
	}
	for start := r.i; r.i < len(r.s); r.i++ {
		switch c := r.s[r.i]; {
		case c == '"':
			r.i++
			return r.s[start : r.i-1]
		case c == '\\' || c < ' ':
			r.fail(Malformed, "the JSON has an escape or a control character at byte %d", r.i)
		}
	}
	r.fail(Malformed, "the JSON ends within a string")
	return ""
}

func (r *reader) string() string {
	r.next()
	start, escaped := r.i, false
	if !r.expect('"') {
		return ""
	}
	for ; r.i < len(r.s) && r.s[r.i] != '"'; r.i++ {
		if r.s[r.i] == '\\' {
			escaped = true
			r.i++
		}
	}
	if !r.expect('"') {
		return ""
	}
	if !escaped {
		r.i = start
		return r.raw()
	}
	var s string
	if err := json.Unmarshal([]byte(r.s[start:r.i]), &s); err != nil {
		r.fail(Malformed, "the JSON has a malformed string at byte %d", start)
	}
	return s
}

// number takes the bytes that may stand in a number; the caller says whether
// they are one.
func (r *reader) number() string {
	r.next()
	start := r.i
	for r.i < len(r.s) && strings.IndexByte("+-.0123456789Ee", r.s[r.i]) >= 0 {
		r.i++
	}
	return r.s[start:r.i]
}

// whole takes a number without fraction and exponent, as all of EAT's are.
// strconv alone would let "+1" and "01" pass.
func (r *reader) whole() string {
	n := r.number()
	if d := strings.TrimPrefix(n, "-"); d == "" || d[0] < '0' || d[0] > '9' || d[0] == '0' && len(d) > 1 {
		r.fail(Malformed, "the JSON has no whole number before byte %d", r.i)
	}
	return n
}

func (r *reader) int(bits int) int64 {
	n, err := strconv.ParseInt(r.whole(), 10, bits)
	if err != nil {
		r.fail(Malformed, "the JSON has no whole number of %d bits before byte %d", bits, r.i)
	}
	return n
}

func (r *reader) uint(bits int) uint64 {
	n, err := strconv.ParseUint(r.whole(), 10, bits)
	if err != nil {
		r.fail(Malformed, "the JSON has no whole number of %d bits before byte %d", bits, r.i)
	}
	return n
}

// skip takes any value.
func (r *reader) skip() {
	switch r.next() {
	case '{':
		r.object(func(string) { r.skip() })
	case '[':
		r.array(r.skip)
	case '"':
		r.string()
	case 't':
		r.literal("true")
	case 'f':
		r.literal("false")
	case 'n':
		r.literal("null")
	default:
		if !json.Valid([]byte(r.number())) {
			r.fail(Malformed, "the JSON has no value before byte %d", r.i)
		}
	}
}

func (r *reader) literal(want string) {
	if !strings.HasPrefix(r.s[r.i:], want) {
		r.fail(Malformed, "the JSON has no value at byte %d", r.i)
		return
	}
	r.i += len(want)
}

// end says whether all of it was one value in UTF-8.
func (r *reader) end() error {
	if r.next() != 0 || r.i < len(r.s) {
		r.fail(Malformed, "the JSON goes on after its value at byte %d", r.i)
	}
	if r.err == nil && !utf8.ValidString(r.s) {
		r.fail(Malformed, "the JSON is not UTF-8")
	}
	return r.err
}
