package evidence

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// There is one encoding of everything here: that of encoding/json and of the CMW
// library. It is written, and a quote read, token by token; a renewal spent more
// on the general ones than on the quote's signature.

// plain reports whether text stands for itself in JSON.
func plain(s []byte) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// cursor reads tokens of text. After an error it stays where it is and every
// further read is empty, so that err is looked at once.
type cursor struct {
	b   []byte
	at  int
	err error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("byte %d: %w", c.at, fmt.Errorf(format, args...))
	}
}

// skip passes over a token if it comes next.
func (c *cursor) skip(token string) bool {
	if c.err != nil || len(c.b)-c.at < len(token) || string(c.b[c.at:c.at+len(token)]) != token {
		return false
	}
	c.at += len(token)
	return true
}

// expect passes over a token, which must come next.
func (c *cursor) expect(token string) {
	if !c.skip(token) {
		c.fail("expected %s (canonical form: members in order, each once, no white space)", token)
	}
}

// quoted returns what is between the quotes of the string that comes next.
func (c *cursor) quoted() []byte {
	c.expect(`"`)
	if c.err != nil {
		return nil
	}
	for i := c.at; i < len(c.b); i++ {
		switch c.b[i] {
		case '\\':
			i++
		case '"':
			s := c.b[c.at:i]
			c.at = i + 1
			return s
		}
	}
	c.fail("the text does not end")
	return nil
}

// text reads a string. It can be in another form than it is written in.
func (c *cursor) text() (s string) {
	q := c.quoted()
	if plain(q) {
		return string(q)
	}
	if err := json.Unmarshal(append(append([]byte{'"'}, q...), '"'), &s); err != nil {
		c.fail("reading text: %w", err)
	}
	return s
}

// bytes reads base64; it can be in another form than it is written in.
func (c *cursor) bytes() []byte {
	if c.skip("null") {
		return nil
	}
	out, err := base64.StdEncoding.AppendDecode([]byte{}, c.quoted())
	if err != nil {
		c.fail("decoding base64: %w", err)
	}
	return out
}

// number reads an unsigned number of at most six digits.
func (c *cursor) number() int {
	end := c.at
	for end < len(c.b) && end-c.at < 6 && c.b[end] >= '0' && c.b[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(string(c.b[c.at:end]))
	if err != nil {
		c.fail("expected a number")
		return 0
	}
	c.at = end
	return n
}

// end returns the first error, also when something follows.
func (c *cursor) end() error {
	if c.err == nil && c.at != len(c.b) {
		c.fail("expected the end, found %d bytes more", len(c.b)-c.at)
	}
	return c.err
}

// appendItem appends one member of the collection, an RFC 9999 record.
func appendItem(b []byte, k *kind, param string, value []byte) []byte {
	b = append(append(append(b, `,"`...), k.label...), `":["`...)
	b = append(append(append(b, k.media...), param...), `","`...)
	b = append(base64.RawURLEncoding.AppendEncode(b, value), `",`...)
	return append(strconv.AppendUint(b, uint64(k.ind), 10), ']')
}
