// Package rotation is how those who have pinned a domain's token keys come to know
// others: from the domain's log alone, entry by entry, each with its proof.
//
// What is believed is the pinned log key, not who brought the entries: an agent
// carries them to a keeper, a verifier to an agent. Where a root key is pinned too, a
// key also needs its certificate: whoever has the log key alone makes none. Hazard: nobody can prove that
// nothing was left out. Whoever only hears what a hostile carrier chooses goes on
// believing a key that was withdrawn; such a carrier can bring no key of its own.
//
// The checks of notes and proofs are those of package ledger, which keepers must not
// link; a test holds the two against each other.
package rotation

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Kinds of log entries about token keys.
const (
	Introduced = "key.introduced" // Introduction: published from here on
	Rotated    = "key.rotated"    // Rotation: another key signs now
	Withdrawn  = "key.withdrawn"  // Withdrawal: nothing it signed counts any more
)

// Introduction makes a token key known before it signs anything.
type Introduction struct {
	KID  string          `json:"kid"`  // RFC 7638 thumbprint
	JWK  json.RawMessage `json:"jwk"`  // as token.MarshalJWK writes it
	From int64           `json:"from"` // Unix second from which it may sign

	Certificate string `json:"certificate,omitempty"` // by the domain's root key, if it has one: see Certify
}

// Rotation says which key signs from here on. Until is when the last token of the
// one before has expired; 0 where that one is withdrawn.
type Rotation struct {
	KID   string `json:"kid"`
	Old   string `json:"old"`
	Until int64  `json:"until,omitempty"`
}

// Withdrawal ends a key and everything it signed.
type Withdrawal struct {
	KID    string `json:"kid"`
	Epoch  uint64 `json:"epoch"`            // of the domain from here on
	Reason string `json:"reason,omitempty"` // salted commitment
}

// Entry is a log entry about a token key, and its proof.
type Entry struct {
	Leaf  []byte `json:"entry"`
	Proof string `json:"proof"` // c2sp.org/tlog-proof@v1
}

// maxEntries bounds what a Book holds; each is a rotation or a withdrawal.
const maxEntries = 1024

// Book is what one observer knows of a domain's token keys: those pinned and what
// the log proved of them since. What was withdrawn never comes back. It is not safe
// for concurrent use.
type Book struct {
	origin string
	log    []logKey

	root string // thumbprint of the root key; empty: none certifies

	order  []string // kids, as they came
	public map[string]crypto.PublicKey
	until  map[string]int64
	ends   map[string]int64 // of the last certificate
	gone   map[string]bool
	proven []Entry
	known  map[string]bool // leaves
}

// Pins are what an observer of a domain believes to begin with.
type Pins struct {
	Log  []string   // keys of its log in note format; without one nothing more can be learned
	Root string     // thumbprint of the key that certifies token keys; empty: none does
	Keys token.Keys // its token keys
}

// New begins with what was pinned.
func New(domain string, pins Pins) (*Book, error) {
	b := &Book{origin: domain + "/log", root: pins.Root, public: map[string]crypto.PublicKey{}, until: map[string]int64{}, ends: map[string]int64{}, gone: map[string]bool{}, known: map[string]bool{}}
	for _, text := range pins.Log {
		k, err := parseLogKey(text)
		if err == nil && k.name != b.origin {
			err = fmt.Errorf("it is of the log %.100q, expected %s", k.name, b.origin)
		}
		if err != nil {
			return nil, fmt.Errorf("reading a pinned log key: %w", err)
		}
		b.log = append(b.log, k)
	}
	for _, kid := range pins.Keys.IDs() {
		b.add(kid, pins.Keys.Key(kid))
	}
	return b, nil
}

func (b *Book) add(kid string, public crypto.PublicKey) {
	if b.public[kid] == nil {
		b.order, b.public[kid] = append(b.order, kid), public
	}
}

// Learn takes entries in any order, those it knows among them, and reports whether
// any was new. One that does not prove itself refuses them all.
func (b *Book) Learn(entries []Entry) (news bool, err error) {
	var apply []func()
	for i, e := range entries {
		if b.known[string(e.Leaf)] {
			continue
		}
		if len(b.proven)+len(apply) >= maxEntries {
			return false, fmt.Errorf("learning token keys: more than %d entries", maxEntries)
		}
		if err := b.proves(e); err != nil {
			return false, fmt.Errorf("learning token keys: entry %d of %d: %w", i+1, len(entries), err)
		}
		change, err := b.read(e.Leaf)
		if err != nil {
			return false, fmt.Errorf("learning token keys: entry %d of %d: %w", i+1, len(entries), err)
		}
		apply = append(apply, func() {
			change()
			b.proven, b.known[string(e.Leaf)] = append(b.proven, e), true
		})
	}
	for _, f := range apply {
		f()
	}
	return len(apply) > 0, nil
}

// leaf is a log entry as package ledger writes it.
type leaf struct {
	V       int             `json:"v"`
	Kind    string          `json:"kind"`
	At      int64           `json:"at"`
	Subject string          `json:"subject"`
	Actor   string          `json:"actor"`
	Data    json.RawMessage `json:"data"`
}

// read returns what a proven leaf changes.
func (b *Book) read(raw []byte) (func(), error) {
	var l leaf
	if err := strict(raw, &l); err != nil {
		return nil, err
	}
	switch l.Kind {
	case Introduced:
		var in Introduction
		if err := strict(l.Data, &in); err != nil {
			return nil, err
		}
		key, err := token.ParseJWK(in.JWK)
		if err != nil {
			return nil, err
		}
		if kid, err := token.Thumbprint(key); err != nil || kid != in.KID {
			return nil, fmt.Errorf("its kid %.60q is not the thumbprint %s of its key", in.KID, kid)
		}
		end, err := b.certified(in)
		if err != nil {
			return nil, err
		}
		return func() {
			b.add(in.KID, key)
			b.ends[in.KID] = max(b.ends[in.KID], end)
		}, nil
	case Rotated:
		var r Rotation
		if err := strict(l.Data, &r); err != nil {
			return nil, err
		}
		return func() {
			if r.Until > 0 {
				b.until[r.Old] = r.Until
			}
		}, nil
	case Withdrawn:
		var w Withdrawal
		if err := strict(l.Data, &w); err != nil {
			return nil, err
		}
		return func() { b.gone[w.KID] = true }, nil
	}
	return nil, fmt.Errorf("it is a %.60q, expected one about a token key", l.Kind)
}

// Keys are the keys that tokens are checked with at a time.
func (b *Book) Keys(at time.Time) token.Keys {
	var out []crypto.PublicKey
	for _, kid := range b.order {
		over := func(end int64) bool { return end != 0 && at.Unix() >= end }
		if !b.gone[kid] && !over(b.until[kid]) && !over(b.ends[kid]) {
			out = append(out, b.public[kid])
		}
	}
	keys, err := token.NewKeys(out...)
	if err != nil {
		panic("rotation: keys that were read once make no set: " + err.Error())
	}
	return keys
}

// Gone reports whether a key was withdrawn.
func (b *Book) Gone(kid string) bool { return b.gone[kid] }

// Proven is what was learned, for others to learn.
func (b *Book) Proven() []Entry { return slices.Clone(b.proven) }

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	if d.InputOffset() != int64(len(b)) {
		return errors.New("reading it: there is more after the value")
	}
	return nil
}

// logKey is a key whose checkpoints are a log's.
type logKey struct {
	name string
	id   [4]byte
	key  ed25519.PublicKey
}
