package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// maxWitnessProof is the most hashes a submission has: c2sp.org/tlog-witness.
const maxWitnessProof = 63

// Submission is what a log asks a witness to cosign: the body of add-checkpoint
// in c2sp.org/tlog-witness.
type Submission struct {
	Old   uint64 // size that the witness is thought to have cosigned last
	Proof []Hash // that Note's tree extends it
	Note  []byte // the signed checkpoint
}

// Marshal returns the request body.
func (s Submission) Marshal() []byte {
	b := fmt.Appendf(nil, "old %d\n", s.Old)
	for _, h := range s.Proof {
		b = append(append(b, h.String()...), '\n')
	}
	return append(append(b, '\n'), s.Note...)
}

// ParseSubmission is the inverse of [Submission.Marshal].
func ParseSubmission(b []byte) (Submission, error) {
	if len(b) > maxProof {
		return Submission{}, fmt.Errorf("submission has %d bytes, at most %d are read", len(b), maxProof)
	}
	head, rest, ok := strings.Cut(string(b), "\n\n")
	if !ok || rest == "" {
		return Submission{}, errors.New("submission has no empty line with a checkpoint after it")
	}
	lines := strings.Split(head, "\n")
	size, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return Submission{}, fmt.Errorf("first line of the submission is %.40q, expected old and a size", lines[0])
	}
	old, err := parseNumber(size)
	if err != nil {
		return Submission{}, fmt.Errorf("parsing the old size: %w", err)
	}
	if len(lines)-1 > maxWitnessProof {
		return Submission{}, fmt.Errorf("submission has %d hashes, at most %d are allowed", len(lines)-1, maxWitnessProof)
	}
	s := Submission{Old: old, Note: []byte(rest)}
	for i, l := range lines[1:] {
		h, err := parseHash(l)
		if err != nil {
			return Submission{}, fmt.Errorf("parsing proof hash %d: %w", i, err)
		}
		s.Proof = append(s.Proof, h)
	}
	return s, nil
}

// Origin returns the log that a submission says it is of; nothing is checked.
func (s Submission) Origin() string {
	line, _, _ := strings.Cut(string(s.Note), "\n")
	return line
}

// Why a witness does not cosign: c2sp.org/tlog-witness has a status for each.
var (
	ErrOldSize   = errors.New("old size is greater than the checkpoint's") // 400
	ErrStale     = errors.New("another size was cosigned last")            // 409; answer with that size
	ErrUnproven  = errors.New("consistency proof does not hold")           // 422
	errEmptyName = errors.New("witness needs a name without spaces or +")
)

// Admit decides whether a witness that cosigned last may cosign s next; the zero
// Checkpoint stands for none yet. vkeys are the log's keys; [ErrKey] when none
// of them has signed. Whoever admits must store the result before cosigning it,
// and let nobody admit in between.
func (s Submission) Admit(last Checkpoint, vkeys ...string) (Checkpoint, error) {
	next, err := OpenCheckpoint(s.Note, vkeys...)
	switch {
	case err != nil:
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrKey, err)
	case s.Old > next.Size:
		return Checkpoint{}, ErrOldSize
	case s.Old != last.Size:
		return Checkpoint{}, fmt.Errorf("%w: %d", ErrStale, last.Size)
	}
	if last.Origin == "" {
		last = Checkpoint{Origin: next.Origin, Root: emptyRoot()}
	}
	if last.Size == next.Size && last.Root != next.Root {
		return Checkpoint{}, fmt.Errorf("%w: size %d was cosigned with root %s, now it has root %s", ErrStale, last.Size, last.Root, next.Root)
	}
	if err := CheckConsistency(s.Proof, last, next); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrUnproven, err)
	}
	return next, nil
}

// algCosignature is the key type of c2sp.org/tlog-cosignature, Ed25519.
const algCosignature = 4

// Witness cosigns checkpoints: c2sp.org/tlog-cosignature. It remembers nothing;
// see [Submission.Admit].
type Witness struct {
	cosignature
	private ed25519.PrivateKey
}

// NewWitness names a witness and its key.
func NewWitness(name string, key ed25519.PrivateKey) (*Witness, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("witness key has %d bytes, expected an Ed25519 private key of %d", len(key), ed25519.PrivateKeySize)
	}
	if name == "" || strings.ContainsAny(name, "+ \t\n") {
		return nil, errEmptyName
	}
	return &Witness{newCosignature(name, key.Public().(ed25519.PublicKey)), key}, nil
}

// VerifierKey returns the text form of the witness's public key.
func (w *Witness) VerifierKey() string {
	key := append([]byte{algCosignature}, w.public...)
	return fmt.Sprintf("%s+%08x+%s", w.name, w.hash, base64.StdEncoding.EncodeToString(key))
}

// Cosign returns the witness's signature line for a signed checkpoint: it saw no
// other history of that log up to at.
func (w *Witness) Cosign(msg []byte, at time.Time) ([]byte, error) {
	text, _, ok := bytes.Cut(msg, []byte("\n\n"))
	if !ok {
		return nil, errors.New("cosigning: not a signed note")
	}
	stamp := uint64(at.Unix())
	blob := binary.BigEndian.AppendUint32(nil, w.hash)
	blob = binary.BigEndian.AppendUint64(blob, stamp)
	blob = append(blob, ed25519.Sign(w.private, cosigned(append(text, '\n'), stamp))...)
	return fmt.Appendf(nil, "— %s %s\n", w.name, base64.StdEncoding.EncodeToString(blob)), nil
}

// cosigned is what a cosignature signs.
func cosigned(text []byte, stamp uint64) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", stamp), text...)
}

// OpenCosigned is [OpenCheckpoint] for a checkpoint that the witness with key
// witness has cosigned too; it returns when.
func OpenCosigned(msg []byte, witness string, vkeys ...string) (Checkpoint, time.Time, error) {
	c, err := OpenCheckpoint(msg, vkeys...)
	if err != nil {
		return Checkpoint{}, time.Time{}, err
	}
	v, err := parseWitnessKey(witness)
	if err != nil {
		return Checkpoint{}, time.Time{}, err
	}
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, time.Time{}, fmt.Errorf("opening cosignature: %w", err)
	}
	blob, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(blob) < 12 {
		return Checkpoint{}, time.Time{}, errors.New("opening cosignature: it has no time")
	}
	return c, time.Unix(int64(binary.BigEndian.Uint64(blob[4:])), 0).UTC(), nil
}

// cosignature is a note.Verifier of cosignatures.
type cosignature struct {
	name   string
	hash   uint32
	public ed25519.PublicKey
}

func newCosignature(name string, key ed25519.PublicKey) cosignature {
	sum := sha256.Sum256(append([]byte(name+"\n"), append([]byte{algCosignature}, key...)...))
	return cosignature{name, binary.BigEndian.Uint32(sum[:]), key}
}

// CheckWitnessKey reports what is wrong with the text form of a witness's key.
func CheckWitnessKey(text string) error {
	_, err := parseWitnessKey(text)
	return err
}

func parseWitnessKey(text string) (cosignature, error) {
	bad := fmt.Errorf("%.100q is not the key of a witness: expected name+id+key of type 4", text)
	name, rest, _ := strings.Cut(text, "+")
	id, b64, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != algCosignature || name == "" {
		return cosignature{}, bad
	}
	c := newCosignature(name, key[1:])
	if fmt.Sprintf("%08x", c.hash) != id {
		return cosignature{}, bad
	}
	return c, nil
}

func (c cosignature) Name() string    { return c.name }
func (c cosignature) KeyHash() uint32 { return c.hash }

func (c cosignature) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	return ed25519.Verify(c.public, cosigned(msg, binary.BigEndian.Uint64(sig)), sig[8:])
}
