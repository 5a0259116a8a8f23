package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Proof says that an entry stands in a log: c2sp.org/tlog-proof@v1.
type Proof struct {
	Extra []byte // opaque and unauthenticated; nil: none. Ours never has any
	Index uint64 // of the entry, from 0
	Path  []Hash // from the leaf's sibling up to the root's child: RFC 6962, section 2.1.1
	Note  []byte // the signed checkpoint, verbatim
}

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	maxPath     = 63      // hashes in a proof
	maxProof    = 1 << 20 // bytes of a proof, witnesses' signatures included
)

// Marshal returns the proof's text, "\n" after each line.
func (p Proof) Marshal() string {
	enc := base64.StdEncoding
	size := len(proofHeader) + len("\nextra \nindex \n\n") + enc.EncodedLen(len(p.Extra)) + 20 + // the index has at most 20 digits
		len(p.Path)*(enc.EncodedLen(tlog.HashSize)+1) + len(p.Note)
	b := append(make([]byte, 0, size), proofHeader...)
	if p.Extra != nil {
		b = enc.AppendEncode(append(b, "\nextra "...), p.Extra)
	}
	b = strconv.AppendUint(append(b, "\nindex "...), p.Index, 10)
	for i := range p.Path {
		b = enc.AppendEncode(append(b, '\n'), p.Path[i][:])
	}
	b = append(append(b, "\n\n"...), p.Note...)
	return string(b)
}

// ParseProof is the inverse of [Proof.Marshal]. It checks the form alone; the
// note stays unopened.
func ParseProof(text string) (Proof, error) {
	var p Proof
	if len(text) > maxProof {
		return p, fmt.Errorf("proof has %d bytes, at most %d are read", len(text), maxProof)
	}
	head, rest, ok := strings.Cut(text, "\n\n")
	if !ok || rest == "" {
		return p, errors.New("proof has no empty line with a checkpoint after it")
	}
	lines := strings.Split(head, "\n")
	if lines[0] != proofHeader {
		return p, fmt.Errorf("first line of the proof is %.40q, expected %q", lines[0], proofHeader)
	}
	lines = lines[1:]
	var err error
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if p.Extra, err = parseExtra(lines[0][len("extra "):]); err != nil {
			return Proof{}, err
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return Proof{}, errors.New("proof has no index line")
	}
	if p.Index, err = parseNumber(lines[0][len("index "):]); err != nil {
		return Proof{}, fmt.Errorf("parsing proof index: %w", err)
	}
	lines = lines[1:]
	if len(lines) > maxPath {
		return Proof{}, fmt.Errorf("proof has %d hashes, at most %d are possible", len(lines), maxPath)
	}
	for i, l := range lines {
		h, err := parseHash(l)
		if err != nil {
			return Proof{}, fmt.Errorf("parsing proof hash %d: %w", i, err)
		}
		p.Path = append(p.Path, h)
	}
	p.Note = []byte(rest)
	return p, nil
}

func parseExtra(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) == 0 || base64.StdEncoding.EncodeToString(b) != s {
		return nil, errors.New("extra line of the proof is not the base64 of some bytes")
	}
	return b, nil
}

// CheckProof checks that entry (the leaf's bytes) stands in the log whose keys
// are vkeys, as proof says, and returns where and under which checkpoint. It
// needs nothing but its arguments. It does not look into the entry: see
// [ParseLeaf]. A log that was later rewritten is not seen here: see
// [CheckConsistency].
func CheckProof(proof string, entry []byte, vkeys ...string) (index uint64, cp Checkpoint, err error) {
	p, err := ParseProof(proof)
	if err != nil {
		return 0, Checkpoint{}, err
	}
	cp, err = OpenCheckpoint(p.Note, vkeys...)
	if err != nil {
		return 0, Checkpoint{}, err
	}
	if p.Index >= cp.Size {
		return 0, Checkpoint{}, fmt.Errorf("proof is for index %d of a log of size %d", p.Index, cp.Size)
	}
	err = tlog.CheckRecord(p.Path, int64(cp.Size), cp.Root, int64(p.Index), tlog.RecordHash(entry))
	if err != nil {
		return 0, Checkpoint{}, fmt.Errorf("proving that the entry has index %d of size %d: %w", p.Index, cp.Size, err)
	}
	return p.Index, cp, nil
}

// CheckConsistency checks that newer extends older: the first older.Size
// entries are the same. proof is what [Log.Consistency] answers for the two
// sizes (RFC 6962, section 2.1.2). Two signed checkpoints that fail with a proof
// by the log itself, or that have one size and two roots, show a forked log.
func CheckConsistency(proof []Hash, older, newer Checkpoint) error {
	switch {
	case older.Origin != newer.Origin:
		return fmt.Errorf("checkpoints of two logs, %q and %q, have nothing to be consistent in", older.Origin, newer.Origin)
	case older.Size > newer.Size:
		return fmt.Errorf("newer checkpoint has size %d, smaller than the older's %d", newer.Size, older.Size)
	case older.Size == 0 || older.Size == newer.Size:
		if len(proof) != 0 {
			return fmt.Errorf("consistency proof from size %d to %d has %d hashes, expected none", older.Size, newer.Size, len(proof))
		}
		if older.Size == newer.Size && older.Root != newer.Root {
			return fmt.Errorf("two checkpoints of size %d have the roots %s and %s: the log is forked", older.Size, older.Root, newer.Root)
		}
		return nil
	case newer.Size > maxSize:
		return fmt.Errorf("size %d is out of range", newer.Size)
	}
	err := tlog.CheckTree(proof, int64(newer.Size), newer.Root, int64(older.Size), older.Root)
	if err != nil {
		return fmt.Errorf("proving that size %d extends size %d: %w", newer.Size, older.Size, err)
	}
	return nil
}
