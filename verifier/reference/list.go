package reference

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/tpm/ima"
)

// Limits of an allow list.
const (
	MaxList  = 64 << 20 // bytes
	maxFiles = 1_000_000
	maxPath  = 4096
	maxLists = 64
)

// ListRef names an allow list by its content, which is so under the signature
// of the set.
type ListRef struct {
	Digest string `json:"digest"` // hexadecimal SHA-256 of the list's bytes
	Name   string `json:"name"`   // shown to people
}

// List is an allow list of files, kept apart from the sets that name it: the
// files of a distribution are stored and parsed once, whatever the number of
// sets and nodes. It never changes, so everybody can share it.
//
// Its form is that of sha256sum, sorted bytewise (LC_ALL=C sort -u): digest in
// hexadecimal, two spaces, path, line feed. The digest's length says which of
// SHA-256, SHA-384 and SHA-512 it is. No name is escaped, so a path with a line
// feed cannot be listed.
type List struct {
	text   []byte
	digest [32]byte
	lines  []uint32     // where each begins
	hashes []ima.Hashes // of each
	first  []uint32     // the first line of each bucket: those whose digests begin alike; and their end
	shift  int          // of the digest's first 16 bits, to the bucket; so a bucket has about one line
}

// sums are the hash algorithms of a list, by the length of their digest in
// hexadecimal.
var sums = map[int]string{64: "sha256", 96: "sha384", 128: "sha512"}

// ParseList reads a list. It keeps b.
func ParseList(b []byte) (*List, error) {
	if len(b) > MaxList {
		return nil, fmt.Errorf("reading allow list: %d bytes, at most %d are allowed", len(b), MaxList)
	}
	lines := min(bytes.Count(b, []byte("\n")), maxFiles) // what is no list costs no memory
	l := &List{text: b, digest: sha256.Sum256(b), lines: make([]uint32, 0, lines), hashes: make([]ima.Hashes, 0, lines)}
	l.shift = 16 - min(bits.Len(uint(lines)), 16)
	l.first = make([]uint32, 1<<(16-l.shift)+1)
	var last []byte
	bucket := 0
	for at := 0; at < len(b); {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 || len(l.lines) >= maxFiles {
			return nil, fmt.Errorf("reading allow list: more than %d files, or the last line does not end", maxFiles)
		}
		line := b[at : at+n]
		if err := checkLine(line); err != nil {
			return nil, fmt.Errorf("reading allow list: line %d: %w", len(l.lines)+1, err)
		}
		if bytes.Compare(last, line) >= 0 {
			return nil, fmt.Errorf("reading allow list: line %d is out of order; use LC_ALL=C sort -u", len(l.lines)+1)
		}
		for key := l.bucketOf(line); bucket <= key; bucket++ {
			l.first[bucket] = uint32(len(l.lines))
		}
		l.lines, l.hashes = append(l.lines, uint32(at)), append(l.hashes, hash(line))
		last, at = line, at+n+1
	}
	for ; bucket < len(l.first); bucket++ {
		l.first[bucket] = uint32(len(l.lines))
	}
	return l, nil
}

func checkLine(line []byte) error {
	n := bytes.IndexByte(line, ' ')
	path, ok := bytes.CutPrefix(line[max(n, 0):], []byte("  "))
	if n < 0 || !ok || sums[n] == "" {
		return errors.New("expected a SHA-256, SHA-384 or SHA-512 digest, two spaces and a path")
	}
	for _, c := range line[:n] {
		if hexValue(c) < 0 {
			return errors.New("the digest is not lower-case hexadecimal")
		}
	}
	if len(path) == 0 || len(path) > maxPath || bytes.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("expected a path of 1 to %d bytes", maxPath)
	}
	return nil
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

func (l *List) bucketOf(digest []byte) int {
	return (hexValue(digest[0])<<12 | hexValue(digest[1])<<8 | hexValue(digest[2])<<4 | hexValue(digest[3])) >> l.shift
}

// NewList makes a list of lines in any order ("digest  path", without line
// feeds), each kept once.
func NewList(lines []string) (*List, error) {
	sorted := slices.Compact(slices.Sorted(slices.Values(lines)))
	if len(sorted) == 0 {
		return ParseList(nil)
	}
	return ParseList([]byte(strings.Join(sorted, "\n") + "\n"))
}

// Marshal returns the list's bytes, which must not be changed.
func (l *List) Marshal() []byte { return l.text }

// Digest identifies the list.
func (l *List) Digest() [32]byte { return l.digest }

// Len is the number of files.
func (l *List) Len() int { return len(l.lines) }

// Has reports whether the list allows a digest (as in [File.Allow]) at a path.
func (l *List) Has(path string, digest []byte) bool {
	alg, sum, _ := bytes.Cut(digest, []byte(":"))
	return string(alg) == sums[len(sum)] && len(sum) > 0 && l.find(path, sum) >= 0
}

// find returns the line of a digest in hexadecimal and a path, -1 for none.
func (l *List) find(path string, sum []byte) int {
	if len(l.lines) == 0 {
		return -1
	}
	bucket := l.bucketOf(sum)
	lo, hi := int(l.first[bucket]), int(l.first[bucket+1])
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := compareLine(l.line(mid), sum, path); {
		case c == 0:
			return mid
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return -1
}

// At returns the smallest digest (as in [File.Allow]) that the list has for a path,
// "" for none. It reads the whole list.
func (l *List) At(path string) string {
	suffix := []byte("  " + path + "\n")
	for from := 0; ; {
		i := bytes.Index(l.text[from:], suffix)
		if i < 0 {
			return ""
		}
		line := l.text[bytes.LastIndexByte(l.text[:from+i], '\n')+1 : from+i]
		if alg := sums[len(line)]; alg != "" && bytes.IndexByte(line, ' ') < 0 { // else the path ends like it
			return alg + ":" + string(line)
		}
		from += i + len(suffix)
	}
}

func (l *List) line(i int) []byte {
	end := len(l.text)
	if i+1 < len(l.lines) {
		end = int(l.lines[i+1])
	}
	return l.text[l.lines[i] : end-1]
}

// compareLine orders a line against "sum  path".
func compareLine(line, sum []byte, path string) int {
	n := min(len(line), len(sum))
	if c := bytes.Compare(line[:n], sum); c != 0 {
		return c
	}
	rest := line[n:]
	if c := bytes.Compare(rest[:min(len(rest), 2)], []byte("  ")); c != 0 {
		return c
	}
	switch rest = rest[2:]; {
	case string(rest) == path:
		return 0
	case string(rest) < path:
		return -1
	}
	return 1
}

func (m *IMA) checkLists() error {
	if len(m.Lists) > maxLists {
		return fmt.Errorf("%d allow lists, at most %d are allowed", len(m.Lists), maxLists)
	}
	for i, r := range m.Lists {
		if !isHex(r.Digest, sha256.Size) || slices.ContainsFunc(m.Lists[:i], func(o ListRef) bool { return o.Digest == r.Digest }) {
			return fmt.Errorf("allow list %.80q: a SHA-256 digest in lower-case hexadecimal, each once, is needed", r.Digest)
		}
	}
	return nil
}

// hexDigest is how a set names a list.
func (l *List) hexDigest() string { return hex.EncodeToString(l.digest[:]) }
