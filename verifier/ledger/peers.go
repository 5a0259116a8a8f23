package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// VerifierKeys returns every key whose checkpoints are this log's: its own
// first, then those of its peers.
func (l *Log) VerifierKeys() []string { return append([]string(nil), l.vkeys...) }

// RetiredKeys returns the keys that count for history alone.
func (l *Log) RetiredKeys() []string { return slices.Clone(l.retired) }

// HeadSignedBy reports whether the log's head is signed by the key with this id:
// see [KeyID]. It is false for a key that the log does not know.
func (l *Log) HeadSignedBy(id string) bool {
	note := l.current().note
	return slices.ContainsFunc(l.signers().all(), func(vkey string) bool {
		found, err := KeyID(l.origin, vkey)
		if err == nil && found == id {
			_, err = OpenCheckpoint(note, vkey)
			return err == nil
		}
		return false
	})
}

// KeyID returns the hexadecimal SHA-256 of the public key in vkey, which must be
// a key of the log origin.
func KeyID(origin, vkey string) (string, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return "", fmt.Errorf("reading log key %.100q: %w", vkey, err)
	}
	if v.Name() != origin {
		return "", fmt.Errorf("log key %.100q is of %s, expected %s", vkey, v.Name(), origin)
	}
	_, text, _ := strings.Cut(strings.TrimPrefix(vkey, origin+"+"), "+") // after the id; base64 has + too
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != 1+ed25519.PublicKeySize {
		return "", fmt.Errorf("log key %.100q is not an Ed25519 key", vkey)
	}
	sum := sha256.Sum256(b[1:])
	return hex.EncodeToString(sum[:]), nil
}

// SeedGuard makes the guard file of a verifier that joins a log others have
// signed: from its first start it accepts no store that does not extend
// checkpoint.
func SeedGuard(path string, checkpoint []byte, vkeys ...string) error {
	c, err := OpenCheckpoint(checkpoint, vkeys...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	e := newEdge()
	e.size = c.Size
	g, err := createGuard(filepath.Clean(path), &head{edge: e, root: c.Root, note: checkpoint})
	if err != nil {
		return err
	}
	return g.close()
}
