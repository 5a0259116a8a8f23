package token

import (
	"bytes"
	"compress/zlib"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

const (
	statusListType = "statuslist+jwt" // draft-ietf-oauth-status-list

	maxStatusList = 1 << 20 // bytes of the JWT
	maxStatuses   = 1 << 20 // bytes of the list, unpacked
)

// Status is what a status list says of a token.
type Status byte

// The statuses of the standard. Only the first lets a token count.
const (
	Valid     Status = 0
	Invalid   Status = 1 // for ever
	Suspended Status = 2
)

// Listed is the place of a token in a status list: its claim status.
type Listed struct {
	List Place `json:"status_list"`
}

// Place is an index in the list at a URI.
type Place struct {
	Index uint64 `json:"idx"`
	URI   string `json:"uri"`
}

// StatusList is the statuses of tokens at a moment, in the words of their issuer
// (Token Status List). It is no legitimacy: check the token first.
type StatusList struct {
	URI      string
	IssuedAt int64 // Unix seconds
	Expires  int64 // it says nothing from then on
	TTL      int64 // seconds after which to look for a newer one; 0: not said

	bits   int // of one status: 1, 2, 4 or 8
	packed []byte
}

// NewStatusList is a list of n tokens that are all valid, of two bits each.
func NewStatusList(n int) *StatusList {
	return &StatusList{bits: 2, packed: make([]byte, (n+3)/4)}
}

// at is where a status stands: its byte, and by how much it is shifted there.
func (l *StatusList) at(index uint64) (i uint64, shift int) {
	per := uint64(8 / l.bits)
	return index / per, int(index%per) * l.bits
}

// Set changes a status, which must fit the list's two bits.
func (l *StatusList) Set(index uint64, s Status) {
	i, shift := l.at(index)
	l.packed[i] = l.packed[i]&^(byte(1<<l.bits-1)<<shift) | byte(s)<<shift
}

// Status is that of the token at an index; Invalid outside of the list.
func (l *StatusList) Status(index uint64) Status {
	if l.bits == 0 {
		return Invalid
	}
	i, shift := l.at(index)
	if i >= uint64(len(l.packed)) {
		return Invalid
	}
	return Status(l.packed[i] >> shift & byte(1<<l.bits-1))
}

// statusClaims is a StatusList as it is written.
type statusClaims struct {
	URI      string `json:"sub"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	TTL      int64  `json:"ttl,omitempty"`
	List     struct {
		Bits int    `json:"bits"`
		List string `json:"lst"`
	} `json:"status_list"`
}

// IssueStatusList signs a list with a P-256 key of the issuer.
func IssueStatusList(l *StatusList, key crypto.Signer, rand io.Reader) (string, error) {
	kid, err := Thumbprint(key.Public())
	if err != nil {
		return "", fmt.Errorf("issuing a status list: %w", err)
	}
	c := statusClaims{URI: l.URI, IssuedAt: l.IssuedAt, Expires: l.Expires, TTL: l.TTL}
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(l.packed); err != nil {
		return "", fmt.Errorf("packing a status list: %w", err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("packing a status list: %w", err)
	}
	c.List.Bits, c.List.List = l.bits, encoding.EncodeToString(b.Bytes())
	payload, err := json.Marshal(&c)
	if err != nil {
		panic("token: a status list of plain values does not marshal: " + err.Error())
	}
	return sign(rand, signingInput(statusListType, kid, payload), key)
}

// ParseStatusList returns the list that the issuer of keys signed for a URI, if it
// still speaks at the given time. The error is an *Error.
func ParseStatusList(list string, keys Keys, uri string, at time.Time) (*StatusList, error) {
	if uri == "" {
		return nil, refuse(NoExpectation, "the URI of the list must be expected")
	}
	payload, err := openUpTo(maxStatusList, list, statusListType, keys)
	if err != nil {
		return nil, err
	}
	l, packed, err := parseStatusList(payload)
	if err != nil {
		return nil, err
	}
	switch now := at.Unix(); {
	case l.URI != uri:
		return nil, refuse(WrongSubject, "sub is %.100q, expected %q", l.URI, uri)
	case l.IssuedAt <= 0 || l.Expires <= l.IssuedAt || l.TTL < 0:
		return nil, refuse(Incomplete, "iat and exp are required")
	case l.bits != 1 && l.bits != 2 && l.bits != 4 && l.bits != 8:
		return nil, refuse(Malformed, "bits is %d, expected 1, 2, 4 or 8", l.bits)
	case now >= l.Expires:
		return nil, refuse(Expired, "it expired at %d, it is %d; fetch it anew", l.Expires, now)
	case at.Add(skew).Unix() < l.IssuedAt:
		return nil, refuse(NotYetValid, "it was issued at %d, it is %d; check the clocks", l.IssuedAt, now)
	}
	l.packed, err = unpack(packed)
	return l, err
}

func parseStatusList(s string) (l *StatusList, packed string, err error) {
	r := &reader{s: s}
	l = new(StatusList)
	r.object(func(name string) {
		switch name {
		case "sub":
			l.URI = r.string()
		case "iat":
			l.IssuedAt = r.int(64)
		case "exp":
			l.Expires = r.int(64)
		case "ttl":
			l.TTL = r.int(64)
		case "status_list":
			r.object(func(name string) {
				switch name {
				case "bits":
					l.bits = int(r.int(8))
				case "lst":
					packed = r.string()
				default:
					r.skip()
				}
			})
		default:
			r.skip()
		}
	})
	return l, packed, r.end()
}

// unpack reads lst: zlib (RFC 1950) in base64url.
func unpack(lst string) ([]byte, error) {
	raw, err := encoding.DecodeString(lst)
	if err != nil {
		return nil, refuse(Malformed, "lst is not base64url")
	}
	in := bytes.NewReader(raw)
	z, err := zlib.NewReader(in)
	if err != nil {
		return nil, refuse(Malformed, "lst is not zlib")
	}
	out, err := io.ReadAll(io.LimitReader(z, maxStatuses+1))
	switch {
	case len(out) > maxStatuses:
		return nil, refuse(Oversize, "lst unpacks to more than %d bytes", maxStatuses)
	case err != nil || in.Len() > 0:
		return nil, refuse(Malformed, "lst is not one whole zlib stream")
	}
	return out, nil
}

func (l *Listed) read(r *reader) {
	r.object(func(name string) {
		if name != "status_list" { // other ways to be told; we know one
			r.skip()
			return
		}
		placed := false
		r.object(func(name string) {
			switch name {
			case "idx":
				l.List.Index, placed = r.uint(53), true
			case "uri":
				l.List.URI = r.string()
			default:
				r.skip()
			}
		})
		if !placed || l.List.URI == "" {
			r.fail(Incomplete, "status_list has no idx or no uri")
		}
	})
}
