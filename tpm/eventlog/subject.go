package eventlog

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf16"
)

// Tags of the DER elements that lead to a certificate's subject (X.690).
const (
	derOID      = 0x06
	derSequence = 0x30
	derSet      = 0x31
	derVersion  = 0xa0
)

// element takes one DER element with the tag off the front of b: its contents,
// and what follows.
func element(b []byte, tag byte) (contents, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != tag {
		return nil, nil, false
	}
	size, head := int(b[1]), 2
	if size >= 0x80 {
		n := size & 0x7f
		if n == 0 || n > 3 || len(b) < 2+n {
			return nil, nil, false
		}
		size, head = 0, 2+n
		for _, c := range b[2:head] {
			size = size<<8 | int(c)
		}
	}
	if size > len(b)-head {
		return nil, nil, false
	}
	return b[head : head+size], b[head+size:], true
}

// isElement reports whether b is one DER sequence and nothing else, as a
// certificate is.
func isElement(b []byte) bool {
	_, rest, ok := element(b, derSequence)
	return ok && len(rest) == 0
}

// subject returns the subject of a certificate as RFC 4514 writes names. It does
// not use crypto/x509, which refuses certificates that machines are shipped
// with (negative serials) and reads far more than a name.
func subject(der []byte) string {
	certificate, _, ok := element(der, derSequence)
	if !ok {
		return ""
	}
	b, _, ok := element(certificate, derSequence)
	if !ok {
		return ""
	}
	if _, rest, ok := element(b, derVersion); ok {
		b = rest
	}
	for _, tag := range [...]byte{0x02, derSequence, derSequence, derSequence} { // serial, algorithm, issuer, validity
		if _, b, ok = element(b, tag); !ok {
			return ""
		}
	}
	name, _, ok := element(b, derSequence)
	if !ok {
		return ""
	}
	return nameText(name)
}

// nameText writes an RDNSequence, the most specific part first.
func nameText(name []byte) string {
	var parts []string
	for len(name) > 0 {
		set, rest, ok := element(name, derSet)
		if !ok {
			return ""
		}
		name = rest
		var values []string
		for len(set) > 0 {
			pair, rest, ok := element(set, derSequence)
			if !ok {
				return ""
			}
			set = rest
			oid, value, ok := element(pair, derOID)
			if !ok || len(value) < 2 {
				return ""
			}
			text, _, ok := element(value, value[0])
			if !ok {
				return ""
			}
			values = append(values, attribute(oid)+"="+escapeName(stringText(value[0], text)))
		}
		parts = append(parts, strings.Join(values, "+"))
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ",")
}

// attribute names an attribute by its OID: those of X.520 that have short
// names, and the address; else the OID's bytes.
func attribute(oid []byte) string {
	if len(oid) == 3 && oid[0] == 0x55 && oid[1] == 0x04 {
		switch oid[2] {
		case 3:
			return "CN"
		case 5:
			return "SERIALNUMBER"
		case 6:
			return "C"
		case 7:
			return "L"
		case 8:
			return "ST"
		case 9:
			return "STREET"
		case 10:
			return "O"
		case 11:
			return "OU"
		case 17:
			return "POSTALCODE"
		}
	}
	if string(oid) == "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01" { // PKCS #9
		return "EMAIL"
	}
	return "oid:" + hex.EncodeToString(oid)
}

// stringText decodes a string by its tag: BMPString, TeletexString as Latin-1,
// else UTF-8 and its subsets.
func stringText(tag byte, b []byte) string {
	switch tag {
	case 0x1e:
		units := make([]uint16, len(b)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(b[2*i:])
		}
		return string(utf16.Decode(units))
	case 0x14:
		runes := make([]rune, len(b))
		for i, c := range b {
			runes[i] = rune(c)
		}
		return string(runes)
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}

// escapeName escapes what would end a value (RFC 4514, 2.4), and replaces what
// cannot be printed.
func escapeName(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return strings.ContainsRune(`,+"\<>;`, r) || !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !unicode.IsPrint(r):
			r = '\ufffd'
		case strings.ContainsRune(`,+"\<>;`, r):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
