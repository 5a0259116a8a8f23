package rotation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of what is read before anything is proven.
const (
	maxLeaf  = 65535
	maxProof = 64 << 10
	maxPath  = 63

	ed25519Note = 1 // type of a key in note format (c2sp.org/signed-note)
	header      = "c2sp.org/tlog-proof@v1\n"
)

type hash = [sha256.Size]byte

// parseLogKey reads name+hash+base64(type, key) (c2sp.org/signed-note).
func parseLogKey(text string) (k logKey, err error) {
	name, rest, _ := strings.Cut(text, "+")
	id, encoded, _ := strings.Cut(rest, "+")
	sum, errID := hex.DecodeString(id)
	key, errKey := base64.StdEncoding.DecodeString(encoded)
	if errID != nil || errKey != nil || name == "" || len(sum) != 4 || len(key) != 1+ed25519.PublicKeySize || key[0] != ed25519Note {
		return k, fmt.Errorf("%.100q is no Ed25519 key in note format", text)
	}
	want := sha256.Sum256(append([]byte(name+"\n"), key...))
	if !bytes.Equal(want[:4], sum) {
		return k, fmt.Errorf("%.100q is not copied whole", text)
	}
	return logKey{name: name, id: [4]byte(sum), key: key[1:]}, nil
}

// proves checks that an entry's leaf stands in the pinned log (RFC 6962 section
// 2.1.1, c2sp.org/tlog-proof).
func (b *Book) proves(e Entry) error {
	if len(e.Leaf) > maxLeaf || len(e.Proof) > maxProof {
		return errors.New("it is longer than an entry with its proof can be")
	}
	text, note, ok := strings.Cut(strings.TrimPrefix(e.Proof, header), "\n\n")
	if !ok || !strings.HasPrefix(e.Proof, header) {
		return errors.New("it has no " + strings.TrimSpace(header))
	}
	lines := strings.Split(text, "\n")
	number, ok := strings.CutPrefix(lines[0], "index ")
	index, err := strconv.ParseUint(number, 10, 63)
	if !ok || err != nil || len(lines)-1 > maxPath {
		return errors.New("its proof has no index, or too long a path")
	}
	var path []hash
	for _, line := range lines[1:] {
		h, err := parseHash(line)
		if err != nil {
			return err
		}
		path = append(path, h)
	}
	size, root, err := b.checkpoint(note)
	if err != nil {
		return err
	}
	if index >= size {
		return fmt.Errorf("its index %d is beyond the checkpoint's size %d", index, size)
	}
	if got, ok := climb(sha256.Sum256(append([]byte{0}, e.Leaf...)), index, size, path); !ok || got != root {
		return fmt.Errorf("it is not entry %d of the log", index)
	}
	return nil
}

// climb is the root that a path gives to a leaf.
func climb(h hash, index, size uint64, path []hash) (hash, bool) {
	last := size - 1
	for _, p := range path {
		if last == 0 {
			return h, false // a path longer than the tree is high
		}
		if index&1 == 1 || index == last {
			h = node(p, h)
			for index&1 == 0 && index != 0 {
				index, last = index>>1, last>>1
			}
		} else {
			h = node(h, p)
		}
		index, last = index>>1, last>>1
	}
	return h, last == 0
}

func node(left, right hash) hash {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// checkpoint opens a signed checkpoint (c2sp.org/tlog-checkpoint) of the pinned log.
func (b *Book) checkpoint(note string) (size uint64, root hash, err error) {
	end := strings.LastIndex(note, "\n\n")
	if end < 0 || !strings.HasSuffix(note, "\n") {
		return 0, root, errors.New("its checkpoint is not signed")
	}
	text, signatures := note[:end+1], note[end+2:]
	if !b.signed(text, signatures) {
		return 0, root, fmt.Errorf("its checkpoint is not signed by a pinned key of %s", b.origin)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] != b.origin {
		return 0, root, fmt.Errorf("its checkpoint is of %.100q, expected %s", lines[0], b.origin)
	}
	if size, err = strconv.ParseUint(lines[1], 10, 63); err != nil {
		return 0, root, errors.New("its checkpoint has no size")
	}
	root, err = parseHash(lines[2])
	return size, root, err
}

func (b *Book) signed(text, signatures string) bool {
	for line := range strings.Lines(signatures) {
		rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— ")
		name, encoded, _ := strings.Cut(rest, " ")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(raw) != 4+ed25519.SignatureSize {
			continue // a witness's, or nobody's
		}
		for _, k := range b.log {
			if name == k.name && [4]byte(raw) == k.id && ed25519.Verify(k.key, []byte(text), raw[4:]) {
				return true
			}
		}
	}
	return false
}

func parseHash(line string) (h hash, err error) {
	raw, err := base64.StdEncoding.DecodeString(line)
	if err != nil || len(raw) != len(h) {
		return h, fmt.Errorf("%.60q is no hash", line)
	}
	return hash(raw), nil
}
