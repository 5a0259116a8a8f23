package verifier_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// quorum is a domain whose log two of three witnesses must cosign.
type quorum struct {
	*domain
	node      *node
	witnesses []*ledger.Witness
}

const witnessMaxAge = 10 * time.Minute

func newQuorum(t *testing.T) *quorum {
	t.Helper()
	q := new(quorum)
	policy := ""
	for i := range 3 {
		w, err := ledger.NewWitness(fmt.Sprintf("w%d.example", i), ed25519.NewKeyFromSeed(bytes32(byte(50+i))))
		if err != nil {
			t.Fatal(err)
		}
		q.witnesses = append(q.witnesses, w)
		policy += fmt.Sprintf("witness w%d %s https://w%d.example\n", i, w.VerifierKey(), i)
	}
	policy += "group g 2 w0 w1 w2\nquorum g\n"
	q.domain = newDomain(t, func(c *verifier.Config) { c.Witnesses, c.WitnessMaxAge = policy, witnessMaxAge })
	q.node = q.member("c-grub-sb")
	return q
}

// cosign has the log's latest checkpoint cosigned by some witnesses, each as late as
// its clock is ahead.
func (q *quorum) cosign(ahead map[int]time.Duration) {
	q.t.Helper()
	note := bytes.Clone(q.log.Checkpoint())
	cosigned := bytes.Clone(note)
	for i, by := range ahead {
		line, err := q.witnesses[i].Cosign(note, q.now().Add(by))
		if err != nil {
			q.t.Fatal(err)
		}
		cosigned = append(cosigned, line...)
	}
	if err := q.Witnessed(ctx, cosigned); err != nil {
		q.t.Fatal(err)
	}
}

// issues requires that tokens are issued, or that they are not for want of witnesses.
func (q *quorum) issues(when string, want bool) {
	q.t.Helper()
	_, err := q.attest(q.node)
	if !want {
		refused(q.t, err, protocol.Unwitnessed)
	} else if err != nil {
		q.t.Errorf("%s: %v", when, err)
	}
	if sound := q.WitnessSound() == nil; sound != want {
		q.t.Errorf("%s: ready %v, expected %v", when, sound, want)
	}
}

// TestWitnessesWithholdTheirWord: witnesses that find another history refuse, and need
// not show why. Where the policy's quorum does so nothing is issued; where one witness
// does, or is away, all goes on. A denial is recorded all the same, and the quorum's
// next word opens what its silence closed.
func TestWitnessesWithholdTheirWord(t *testing.T) {
	t.Parallel()
	q := newQuorum(t)
	q.issues("never cosigned", false)
	q.cosign(map[int]time.Duration{0: 0})
	q.issues("cosigned by one of two", false)
	q.cosign(map[int]time.Duration{0: 0, 2: 0})
	q.issues("cosigned by two", true)
	if err := q.restart(); err != nil {
		t.Fatal(err)
	}
	q.issues("after a restart", true)

	q.pass(witnessMaxAge - 10*time.Second)
	q.issues("nearly too old", true)
	q.pass(20 * time.Second)
	q.issues("too old", false)
	if err := q.restart(); err != nil {
		t.Fatal(err)
	}
	q.issues("too old, and restarted", false)
	q.cosign(map[int]time.Duration{1: 0})
	q.issues("one goes on, one refuses, one is away", false)
	q.cosign(map[int]time.Duration{1: 0, 2: 24 * time.Hour})
	q.issues("one cosigns in the future", false)
	before := q.count(bundle.Decided)
	q.node.log[len(q.node.log)-1] ^= 1
	if _, err := q.attest(q.node); err == nil || q.count(bundle.Decided) != before+1 {
		t.Errorf("a denial without witnesses: %v, %d entries", err, q.count(bundle.Decided))
	}
	q.node.log[len(q.node.log)-1] ^= 1
	q.cosign(map[int]time.Duration{1: 0, 2: 0})
	q.issues("two again", true)
}

// count is how many entries of a kind the log has.
func (d *domain) count(kind string) (n int) {
	for _, leaf := range d.entries(0) {
		if leaf.Kind == kind {
			n++
		}
	}
	return n
}

// TestFurtherTokensWithoutWitnesses: nothing that rests on an earlier grant is given
// either.
func TestFurtherTokensWithoutWitnesses(t *testing.T) {
	t.Parallel()
	q := newQuorum(t)
	q.cosign(map[int]time.Duration{0: 0, 1: 0})
	q.pass(witnessMaxAge - 20*time.Second)
	claims := q.claims(q.mustGrant(q.node).Token)
	req := q.shot(q.node).req
	if _, err := q.Token(ctx, claims, req); err != nil {
		t.Fatal(err)
	}
	q.pass(30 * time.Second)
	req.ID += "2"
	_, err := q.Token(ctx, claims, req)
	refused(t, err, protocol.Unwitnessed)
	_, _, err = q.Exchange(ctx, claims, "https://cloud.example", "")
	refused(t, err, protocol.Unwitnessed)
	_, err = q.SVID(ctx, claims, protocol.SVIDRequest{})
	refused(t, err, protocol.Unwitnessed)
}
