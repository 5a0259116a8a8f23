// Package evidence is the wire format of what a node says about itself: a CMW
// collection (RFC 9999, JSON) of one TPM quote and the items it stands for.
//
// Nothing here is believed. The package says what was sent, in one encoding
// only (Parse accepts exactly what Marshal writes), and what the quote must
// have signed for the items to belong to it ([Evidence.Binding]).
package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"

	"github.com/veraison/cmw"
)

// CollectionType is the value of "__cmwc_t", MediaType the type of the whole.
const (
	CollectionType = "tag:writ,2026:tpm-evidence#v1"
	MediaType      = "application/cmw+json"
)

// Limits: a request, evidence within a bundle, a boot log, a small item (bytes).
// What one request brought is at most MaxSize, but lists grow from request to
// request.
const (
	MaxSize    = 16 << 20
	MaxHeld    = 60 << 20
	MaxBootLog = 4 << 20
	maxItem    = 64 << 10
)

// The labels of the items, in the order they are bound and written.
const (
	BindKey = "bind-key" // JWK of the agent's P-256 key of this boot
	EKCert  = "ek-cert"  // DER
	IMALog  = "ima-log"  // binary_runtime_measurements, grows
	KeyCert = "key-cert" // TPM2_Certify of bind-key
	OSLog   = "os-log"   // systemd's tpm2-measure.log, grows
	quote   = "quote"
	Ask     = "request"  // a Request
	UEFILog = "uefi-log" // binary_bios_measurements
)

type kind struct {
	label, media string
	ind          cmw.Indicator
	max          int
	bound        bool // covered by the binding; the lists that grow while quoting are not
}

var kinds = []kind{
	{BindKey, "application/jwk+json", cmw.Evidence, maxItem, true},
	{EKCert, "application/pkix-cert", cmw.Endorsements, maxItem, true},
	{IMALog, "application/vnd.writ.ima-log", cmw.Evidence, MaxSize, false},
	{KeyCert, "application/vnd.writ.tpm2-certify+json", cmw.Evidence, maxItem, true},
	{OSLog, "application/json-seq", cmw.Evidence, MaxBootLog, false},
	{quote, "application/vnd.writ.tpm2-quote+json", cmw.Evidence, maxItem, false},
	{Ask, "application/vnd.writ.request+json", cmw.Evidence, maxItem, true},
	{UEFILog, "application/vnd.writ.tcg-event-log", cmw.Evidence, MaxBootLog, true},
}

// Item is one part of the evidence. A zero Item is absent.
type Item struct {
	Content []byte // what was sent: nil when the item is only named by its digest
	Digest  []byte // SHA-256 of the full content, when the sender names the item so (";digest=sha-256")
	Offset  uint64 // where Content begins in the full content (";offset=N", ima-log only)

	known *known // of Content, where it was computed before
}

// Present reports whether the item was sent in any form. Empty content is no
// form: Parse refuses it, so nothing writes it.
func (i Item) Present() bool { return len(i.Content) > 0 || i.Digest != nil }

// SHA256 is the digest of the full content.
func (i Item) SHA256() [32]byte {
	if i.Digest != nil {
		return [32]byte(i.Digest)
	}
	if i.known != nil {
		return i.known.sum
	}
	return sha256.Sum256(i.Content)
}

// Evidence is one parsed collection.
type Evidence struct {
	Quote Quote
	items map[string]Item
}

// New starts a collection around a quote.
func New(q Quote) *Evidence { return &Evidence{Quote: q, items: map[string]Item{}} }

// Item returns the item with one of the labels above; it is absent when zero.
func (e *Evidence) Item(label string) Item { return e.items[label] }

// Set puts an item in place; a zero Item removes it. Its content must not change
// afterwards.
func (e *Evidence) Set(label string, it Item) {
	if !it.Present() {
		delete(e.items, label)
		return
	}
	it.known = nil // of content that the caller may have replaced
	for _, k := range kinds {
		if k.label == label && k.bound {
			it.known = &known{sum: it.SHA256()} // Binding and Digest will want it
		}
	}
	e.items[label] = it
}

// known is a digest that need not be taken again.
type known struct {
	sum [32]byte
	at  hash.Hash // after the content, to go on from; nobody writes to it. nil: not kept
}

// Whole is an item of full content that is held for long: its digest is taken
// here, once. The content must not change afterwards.
func Whole(content []byte) Item {
	h := sha256.New()
	h.Write(content)
	return Item{Content: content, known: &known{sum: [32]byte(h.Sum(nil)), at: h}}
}

// Grow is an item with more at its end. Of one that [Whole] or Grow made, only that
// is hashed.
func (i Item) Grow(more []byte) Item {
	c, ok := hash.Cloner(nil), false
	if i.known != nil {
		c, ok = i.known.at.(hash.Cloner)
	}
	if !ok {
		return Whole(slices.Concat(i.Content, more))
	}
	if len(more) == 0 {
		return i
	}
	content := slices.Concat(i.Content, more)
	h, err := c.Clone()
	if err != nil {
		return Whole(content)
	}
	h.Write(more)
	return Item{Content: content, known: &known{sum: [32]byte(h.Sum(nil)), at: h}}
}

// Full is [Evidence.Complete] with content that was not held before.
func (e *Evidence) Full(label string, content []byte) (*Evidence, error) {
	return e.Complete(label, Whole(content))
}

// Complete returns a copy in which an item is replaced by its whole content, as it
// is stored, judged and bundled. It refuses content that is not the one the item
// names.
func (e *Evidence) Complete(label string, whole Item) (*Evidence, error) {
	it, content := e.items[label], whole.Content
	if sum := whole.SHA256(); it.Digest != nil && sum != [32]byte(it.Digest) {
		return nil, fmt.Errorf("completing %s: expected content with SHA-256 %x, found %x", label, it.Digest, sum)
	}
	n, size := uint64(len(it.Content)), uint64(len(content))
	if it.Digest == nil && (it.Offset > size || n > size-it.Offset || !bytes.Equal(content[it.Offset:it.Offset+n], it.Content)) {
		return nil, fmt.Errorf("completing %s: the %d bytes sent for offset %d are not those of the %d bytes held", label, n, it.Offset, size)
	}
	out := &Evidence{Quote: e.Quote, items: make(map[string]Item, len(e.items))}
	for l, i := range e.items {
		out.items[l] = i
	}
	out.items[label] = Item{Content: content, known: whole.known}
	return out, nil
}

// Request returns the decoded request item.
func (e *Evidence) Request() (Request, error) {
	it := e.items[Ask]
	if it.Content == nil {
		return Request{}, errors.New("reading request: no such item in the evidence")
	}
	return ParseRequest(it.Content)
}

// Digest is the identity of full evidence, the same for the wire, the store
// and a bundle: SHA-256 over (label, 0, SHA-256 of the full content) of every
// item in label order.
func (e *Evidence) Digest() [32]byte {
	var buf [1024]byte
	all := buf[:0]
	for _, k := range kinds {
		var sum [32]byte
		switch it := e.items[k.label]; {
		case k.label == quote:
			sum = sha256.Sum256(e.Quote.marshal())
		case it.Present():
			sum = it.SHA256()
		default:
			continue
		}
		all = append(append(all, k.label...), 0)
		all = append(all, sum[:]...)
	}
	return sha256.Sum256(all)
}

// Marshal writes the collection. Labels are in ascending order and there is no
// white space, so that equal evidence has equal bytes. The error is always nil.
func (e *Evidence) Marshal() ([]byte, error) {
	q := e.Quote.marshal()
	size := base64.RawURLEncoding.EncodedLen(len(q)) + 128*(len(kinds)+1) // labels, media types
	for _, it := range e.items {
		size += base64.RawURLEncoding.EncodedLen(max(len(it.Content), len(it.Digest)))
	}
	b := append(make([]byte, 0, size), collectionStart...)
	for i := range kinds {
		k := &kinds[i]
		switch it := e.items[k.label]; {
		case k.label == quote:
			b = appendItem(b, k, "", q)
		case it.Digest != nil:
			b = appendItem(b, k, digestParam, it.Digest)
		case it.Present() && it.Offset > 0:
			b = appendItem(b, k, offsetParam+strconv.FormatUint(it.Offset, 10), it.Content)
		case it.Present():
			b = appendItem(b, k, "", it.Content)
		}
	}
	return append(b, '}'), nil
}

const (
	collectionStart = `{"__cmwc_t":"` + CollectionType + `"`
	offsetParam     = ";offset="
	digestParam     = ";digest=sha-256"
)

// Parse reads a collection strictly: known labels, each once, each with its
// own media type, within the limits, in the one encoding Marshal writes.
func Parse(b []byte) (*Evidence, error) { return parse(b, MaxSize) }

// parse reads evidence of at most limit bytes.
func parse(b []byte, limit int) (*Evidence, error) {
	if len(b) > limit {
		return nil, fmt.Errorf("reading evidence: %d bytes, at most %d are allowed", len(b), limit)
	}
	if e := canonical(b, limit); e != nil {
		return e, nil
	}
	return nil, flaw(b, limit)
}

// canonical reads a collection in the one form that Marshal writes: the items one
// after another, labels ascending, nothing between. nil: it is in no such form, or
// an item of it is not what it should be.
func canonical(b []byte, limit int) *Evidence {
	e := &Evidence{items: map[string]Item{}}
	rest, ok := bytes.CutPrefix(b, []byte(collectionStart))
	quoted := false
	for _, k := range kinds {
		item, has := bytes.CutPrefix(rest, []byte(`,"`+k.label+`":["`))
		if !ok || !has {
			continue
		}
		media, after, ok1 := bytes.Cut(item, []byte(`","`))
		value, after, ok2 := bytes.Cut(after, []byte(`",`))
		after, ok3 := bytes.CutPrefix(after, []byte(strconv.Itoa(int(k.ind))+"]"))
		if !ok1 || !ok2 || !ok3 || e.add(k, string(media), value, limit) != nil {
			return nil
		}
		rest, quoted = after, quoted || k.label == quote
	}
	if !ok || !quoted || string(rest) != "}" {
		return nil
	}
	return e
}

// flaw says what is wrong with a collection that is not canonical. It is decoded by
// hand: cmw v0.2.0 panics on an item such as ["a/b",1].
func flaw(b []byte, limit int) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("reading evidence: not a JSON object: %w", err)
	}
	var typ string
	if err := json.Unmarshal(raw["__cmwc_t"], &typ); err != nil || typ != CollectionType {
		return fmt.Errorf("reading evidence: expected a collection of type %q, found %q", CollectionType, typ)
	}
	delete(raw, "__cmwc_t")
	e := &Evidence{items: map[string]Item{}}
	for label, r := range raw {
		if err := e.parseItem(label, r, limit); err != nil {
			return fmt.Errorf("reading %.40q: %w", label, err)
		}
	}
	if _, ok := raw[quote]; !ok {
		return errors.New("reading evidence: no quote in it")
	}
	return errors.New("reading evidence: not in the canonical form (labels ascending, each once, no white space, unpadded base64url)")
}

func (e *Evidence) parseItem(label string, r json.RawMessage, limit int) error {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.label == label })
	if i < 0 {
		return errors.New("not an item of this collection")
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(r, &parts); err != nil || len(parts) != 3 {
		return errors.New("expected [media type, base64url, indicator]")
	}
	var media, value string
	if json.Unmarshal(parts[0], &media) != nil || json.Unmarshal(parts[1], &value) != nil {
		return errors.New("expected [media type, base64url, indicator]")
	}
	return e.add(kinds[i], media, []byte(value), limit)
}

// add decodes one item.
func (e *Evidence) add(k kind, media string, value []byte, limit int) error {
	if k.label == IMALog {
		k.max = limit
	}
	if base64.RawURLEncoding.DecodedLen(len(value)) > k.max {
		return fmt.Errorf("more than %d bytes", k.max)
	}
	content, err := base64.RawURLEncoding.Strict().AppendDecode(nil, value)
	if err != nil || len(content) == 0 || bytes.ContainsAny(value, "\r\n") {
		return errors.New("not base64url, or empty")
	}
	if k.label == quote {
		if media != k.media {
			return fmt.Errorf("expected media type %s, found %.80q", k.media, media)
		}
		e.Quote, err = parseQuote(content)
		return err
	}
	it, err := k.item(media, content)
	if err != nil {
		return err
	}
	e.Set(k.label, it)
	return nil
}

// item splits off the one parameter an item may have.
func (k kind) item(media string, content []byte) (Item, error) {
	base, param, has := strings.Cut(media, ";")
	if base != k.media {
		return Item{}, fmt.Errorf("expected media type %s, found %.80q", k.media, media)
	}
	if !has {
		return Item{Content: content}, nil
	}
	if off, ok := strings.CutPrefix(param, "offset="); ok && k.label == IMALog {
		n, err := strconv.ParseUint(off, 10, 40)
		if err != nil || n == 0 || off != strconv.FormatUint(n, 10) {
			return Item{}, fmt.Errorf("bad offset %.20q", off)
		}
		return Item{Content: content, Offset: n}, nil
	}
	if param == "digest=sha-256" && k.label == UEFILog {
		if len(content) != sha256.Size {
			return Item{}, fmt.Errorf("expected a digest of 32 bytes, found %d", len(content))
		}
		return Item{Digest: content}, nil
	}
	return Item{}, fmt.Errorf("parameter %.40q is not allowed here", param)
}

// MarshalJSON writes the collection itself, so that a bundle carries evidence
// as it was sent.
func (e *Evidence) MarshalJSON() ([]byte, error) { return e.Marshal() }

// UnmarshalJSON is [Parse] for what a bundle holds: lists are in full there, and
// can be longer than what one request may bring.
func (e *Evidence) UnmarshalJSON(b []byte) error {
	p, err := parse(b, MaxHeld)
	if err != nil {
		return err
	}
	*e = *p
	return nil
}
