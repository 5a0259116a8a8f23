package ledger

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a SHA-256 node of the tree: RFC 6962, section 2.1. Its String is the
// standard base64 that checkpoints and proofs carry.
type Hash = tlog.Hash

// Checkpoint is the head of a log at one size: c2sp.org/tlog-checkpoint. It is
// worth no more than the signature it came with, see [OpenCheckpoint].
type Checkpoint struct {
	Origin string // names the log; also the name of its keys
	Size   uint64 // number of entries
	Root   Hash   // of the empty tree: SHA-256("")
}

// maxSize bounds tree sizes so that stored hash indexes, about twice as many,
// still fit an int64.
const maxSize = 1 << 61

// Marshal returns the text that is signed.
func (c Checkpoint) Marshal() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// ParseCheckpoint is the inverse of [Checkpoint.Marshal]. Extension lines,
// which the format allows and discourages, are refused: no log of ours writes
// them, and nobody audits them.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	lines := bytes.SplitN(text, []byte("\n"), 5)
	if len(lines) != 4 || len(lines[3]) != 0 {
		return Checkpoint{}, errors.New("checkpoint is not the three lines origin, size, root")
	}
	size, err := parseNumber(string(lines[1]))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("parsing checkpoint size: %w", err)
	}
	root, err := parseHash(string(lines[2]))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("parsing checkpoint root: %w", err)
	}
	if len(lines[0]) == 0 {
		return Checkpoint{}, errors.New("checkpoint has an empty origin")
	}
	if size == 0 && root != emptyRoot() {
		return Checkpoint{}, errors.New("checkpoint of size 0 has another root than SHA-256 of nothing")
	}
	return Checkpoint{Origin: string(lines[0]), Size: size, Root: root}, nil
}

// OpenCheckpoint verifies the signed note msg and returns the checkpoint in it.
// vkeys are the keys of the one log that is trusted, in note format (see
// [VerifierKey]); at least one of them must have signed, under a key name equal
// to the origin. Signatures by unknown keys (witnesses) are ignored, a wrong
// signature by a known one is an error: c2sp.org/signed-note. Without vkeys
// nothing verifies.
func OpenCheckpoint(msg []byte, vkeys ...string) (Checkpoint, error) {
	known := make([]note.Verifier, len(vkeys))
	for i, k := range vkeys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return Checkpoint{}, fmt.Errorf("reading log key %q: %w", k, err)
		}
		known[i] = v
	}
	n, err := note.Open(msg, note.VerifierList(known...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("opening checkpoint: %w", err)
	}
	c, err := ParseCheckpoint([]byte(n.Text))
	if err != nil {
		return Checkpoint{}, err
	}
	for _, s := range n.Sigs {
		if s.Name == c.Origin {
			return c, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("checkpoint of %q is signed by a key of %q", c.Origin, n.Sigs[0].Name)
}

// VerifierKey returns the text form of a log's public key, as relying parties
// pin it: "<origin>+<key id>+<base64>", c2sp.org/signed-note.
func VerifierKey(origin string, key ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(origin, key)
}

// signer is a note.Signer on an Ed25519 key held as such; note.NewSigner would
// want it as text.
type signer struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

func newSigner(origin string, key ed25519.PrivateKey) (signer, string, error) {
	if len(key) != ed25519.PrivateKeySize {
		return signer{}, "", fmt.Errorf("log key has %d bytes, expected an Ed25519 private key of %d", len(key), ed25519.PrivateKeySize)
	}
	vkey, err := VerifierKey(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return signer{}, "", fmt.Errorf("naming the log key after origin %q: %w", origin, err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return signer{}, "", fmt.Errorf("naming the log key after origin %q: %w", origin, err)
	}
	return signer{v, key}, vkey, nil
}

func signCheckpoint(c Checkpoint, s note.Signer) ([]byte, error) {
	msg, err := note.Sign(&note.Note{Text: string(c.Marshal())}, s)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint of size %d: %w", c.Size, err)
	}
	return msg, nil
}

// emptyRoot is the root of a tree without leaves: RFC 6962, section 2.1.
func emptyRoot() Hash {
	h, err := tlog.TreeHash(0, nil)
	if err != nil {
		panic("ledger: empty tree has no hash: " + err.Error())
	}
	return h
}

// parseNumber reads a decimal without sign or leading zeros.
func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s || n > maxSize {
		return 0, fmt.Errorf("%.30q is not a plain decimal number up to %d", s, uint64(maxSize))
	}
	return n, nil
}

// parseHash reads one base64 hash and refuses second encodings of it (Go's
// decoder skips carriage returns and ignores trailing bits).
func parseHash(s string) (Hash, error) {
	h, err := tlog.ParseHash(s)
	if err != nil || h.String() != s {
		return Hash{}, fmt.Errorf("%.60q is not the base64 of 32 bytes", s)
	}
	return h, nil
}
