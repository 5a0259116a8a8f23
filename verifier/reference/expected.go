package reference

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/writ-attestation/writ/tpm/ima"
)

// expected is an allowed file, hashed once as every machine of the set measures it.
type expected struct {
	digest        [sha256.Size]byte
	plain, signed ima.Hashes
}

// expect prepares the files that are allowed whatever the time, and denied or
// called vulnerable nowhere.
func (s *Set) expect() {
	s.expected = make(map[string][]expected, len(s.files))
	for path, f := range s.files {
		for _, d := range f.Allow {
			sum, ok := strings.CutPrefix(d, "sha256:")
			if j, _ := s.at(f, []byte(d), 0); !ok || j != Allowed {
				continue
			}
			x := expected{digest: digestOf(sum)}
			x.plain = ima.HashesOf(ima.PlainTemplate, path, x.digest)
			x.signed = ima.HashesOf(ima.SignedTemplate, path, x.digest)
			s.expected[path] = append(s.expected[path], x)
		}
	}
}

// digestOf reads a digest that was checked.
func digestOf(sum string) (d [sha256.Size]byte) {
	_, _ = hex.Decode(d[:], []byte(sum))
	return d
}

// Expected returns the hashes of a file, measured by SHA-256, that the set or one
// of its lists allows whatever the time; nil for any other, allowed or not. The
// arguments are those of [ima.HashesOf].
func (s *Signed) Expected(template, path string, digest []byte) *ima.Hashes {
	files := s.expected[path]
	for i := range files {
		switch x := &files[i]; {
		case string(x.digest[:]) != string(digest):
		case template == ima.SignedTemplate:
			return &x.signed
		default:
			return &x.plain
		}
	}
	if template != ima.PlainTemplate || len(s.Set.lists) > 0 || s.files[path] != nil {
		return nil // lists are hashed for one template; and the set has more to say
	}
	for _, l := range s.lists {
		if h := l.expected(path, digest); h != nil {
			return h
		}
	}
	return nil
}

// expected is the same for a list.
func (l *List) expected(path string, digest []byte) *ima.Hashes {
	var sum [2 * sha256.Size]byte
	if i := l.find(path, hex.AppendEncode(sum[:0], digest)); i >= 0 {
		return &l.hashes[i]
	}
	return nil
}

// hash does it for a line of the list.
func hash(line []byte) ima.Hashes {
	sum, path, _ := strings.Cut(string(line), "  ")
	if len(sum) != 2*sha256.Size {
		return ima.Hashes{} // never looked up
	}
	return ima.HashesOf(ima.PlainTemplate, path, digestOf(sum))
}
