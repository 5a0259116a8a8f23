// Package jsonform appends values in the form that encoding/json gives them, without
// its reflection. What is hashed, signed or stored has that one form, whoever writes
// it; a renewal writes it a dozen times.
package jsonform

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
)

const hexDigits = "0123456789abcdef"

// String appends s as a JSON string.
func String(b []byte, s string) []byte {
	start := len(b)
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x80 { // UTF-8, or what is to be replaced in it
			return append(b[:start], marshal(s)...)
		}
		if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' && c != 0x7f {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		case 0x7f:
			b = append(b, c)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}

func marshal(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("jsonform: a string does not marshal: " + err.Error())
	}
	return b
}

// Bytes appends content as a JSON string in base64, or null for nil.
func Bytes(b, content []byte) []byte {
	if content == nil {
		return append(b, "null"...)
	}
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), content), '"')
}

// An Object appends members one after another: in the order of the calls, each name
// as it stands. The zero Object begins with the first one; End completes it.
type Object struct {
	B    []byte
	open bool
}

// In is an Object at the end of b.
func In(b []byte) *Object { return &Object{B: b} }

// Name begins a member, whose value is to be appended to B.
func (o *Object) Name(name string) *Object {
	if o.open {
		o.B = append(o.B, ',')
	} else {
		o.B, o.open = append(o.B, '{'), true
	}
	o.B = append(append(append(o.B, '"'), name...), '"', ':')
	return o
}

// String appends a member.
func (o *Object) String(name, value string) { o.B = String(o.Name(name).B, value) }

// Filled appends a member unless it is empty, as omitempty does.
func (o *Object) Filled(name, value string) {
	if value != "" {
		o.String(name, value)
	}
}

// Int appends a member.
func (o *Object) Int(name string, value int64) { o.B = strconv.AppendInt(o.Name(name).B, value, 10) }

// Uint appends a member.
func (o *Object) Uint(name string, value uint64) { o.B = strconv.AppendUint(o.Name(name).B, value, 10) }

// Bytes appends a member, as [Bytes] does.
func (o *Object) Bytes(name string, value []byte) { o.B = Bytes(o.Name(name).B, value) }

// Raw appends a member whose value is JSON in its form already.
func (o *Object) Raw(name string, value []byte) { o.B = append(o.Name(name).B, value...) }

// Strings appends a member that is a list, or null for nil.
func (o *Object) Strings(name string, values []string) {
	o.Name(name)
	if values == nil {
		o.B = append(o.B, "null"...)
		return
	}
	o.B = append(o.B, '[')
	for i, v := range values {
		if i > 0 {
			o.B = append(o.B, ',')
		}
		o.B = String(o.B, v)
	}
	o.B = append(o.B, ']')
}

// End completes the object and returns all of it.
func (o *Object) End() []byte {
	if !o.open {
		o.B = append(o.B, '{')
	}
	return append(o.B, '}')
}
