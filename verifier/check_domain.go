package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// domainCheck is the state of the domain as its entries say it is.
type domainCheck struct {
	epoch, generation, since claimed[uint64]
	frozen                   claimed[bool]
	signer                   claimed[string]
}

// joinCheck is a join token as its entries say it is.
type joinCheck struct {
	bundle.JoinToken
	subject string
	entry   uint64
	revoked bool
	usedBy  string // pseudonym
}

// peerCheck is another domain as the entries say it is.
type peerCheck struct {
	digest   string
	entry    uint64
	diverged uint64
}

// comparePeers: a divergence taken back by hand would open what it closed.
func (c *stateCheck) comparePeers(ctx context.Context) error {
	seen := map[string]bool{}
	if err := c.each(ctx, kindPeer, func(domain string, value []byte) error {
		var row peer
		if err := decode(value, &row); err != nil {
			return err
		}
		seen[domain] = true
		where, was := "peer "+domain, c.peers[domain]
		approved := peer{Domain: row.Domain, URL: row.URL, CA: row.CA, MaxAge: row.MaxAge, Trust: row.Trust}
		switch {
		case was.digest == "" && c.bare > 0:
		case was.digest == "":
			c.problem(where, "no entry recognises it")
		case row.Domain != domain || row.Digest != was.digest || hexSum(encode(approved)) != was.digest:
			c.problem(where, "its row is not what was approved: entry %d recognises %s", was.entry, was.digest)
		case row.Diverged != was.diverged:
			c.problem(where, "its row says that it diverged at entry %d (0: not); by the entries it was %d", row.Diverged, was.diverged)
		}
		return nil
	}); err != nil {
		return err
	}
	for domain, was := range c.peers {
		if !seen[domain] {
			c.problem("peer "+domain, "entry %d recognises it, and it has no row that can be read", was.entry)
		}
	}
	return nil
}

// takeDomain is take for the entries about the domain.
func (c *stateCheck) takeDomain(index uint64, leaf ledger.Leaf) error {
	switch leaf.Kind {
	case bundle.VerifierStarted:
		return c.takeStarted(index, leaf)
	case bundle.VerifierJoined:
		rec, err := dataOf[bundle.Joined](leaf)
		delete(c.pending, admissionKey(rec.LogKey).ID)
		return err
	case bundle.VerifierRetired:
		rec, err := dataOf[bundle.Joined](leaf)
		c.ended[rec.LogKey] = index
		return err
	case bundle.Frozen, bundle.Unfrozen:
		rec, err := dataOf[bundle.Governance](leaf)
		if err != nil {
			return err
		}
		c.openings[rec.Reason] = index
		c.state.frozen, c.state.epoch, c.state.since = say(leaf.Kind == bundle.Frozen, index), say(rec.Epoch, index), say(index, index)
		if leaf.Kind == bundle.Unfrozen {
			delete(c.pending, "unfreeze")
		}
	case bundle.OperatorRevoked:
		return c.takeOperator(index, leaf)
	case bundle.Approved:
		rec, err := dataOf[bundle.Approval](leaf)
		c.approve(rec.Act, leaf.Actor)
		return err
	case bundle.ReferenceAdded, bundle.ReferenceActive:
		rec, err := dataOf[bundle.Reference](leaf)
		if err != nil {
			return err
		}
		act := "reference/" + rec.Digest
		if leaf.Kind == bundle.ReferenceAdded {
			c.approve(act, leaf.Actor)
			return nil
		}
		delete(c.pending, act)
		c.references[leaf.Subject] = say(rec, index)
		c.state.generation.value++
	case bundle.JoinTokenMade, bundle.JoinTokenRevoked:
		return c.takeJoinToken(index, leaf)
	case bundle.KeyIntroduced, bundle.KeyRotated, bundle.KeyWithdrawn:
		return c.takeTokenKey(index, leaf)
	case bundle.PeerAdded, bundle.PeerRemoved:
		rec, err := dataOf[bundle.Peer](leaf)
		if err != nil {
			return err
		}
		delete(c.pending, "peer/"+rec.Digest)
		if c.peers[rec.Domain] = (peerCheck{digest: rec.Digest, entry: index}); leaf.Kind == bundle.PeerRemoved {
			delete(c.peers, rec.Domain)
		}
	case bundle.PeerDiverged:
		rec, err := dataOf[bundle.Divergence](leaf)
		p := c.peers[rec.Domain]
		p.diverged = index
		c.peers[rec.Domain] = p
		return err
	case bundle.RetentionPruned:
		rec, err := dataOf[ledger.Pruned](leaf)
		c.pruned = say(rec, index)
		return err
	}
	return nil
}

func (c *stateCheck) takeStarted(index uint64, leaf ledger.Leaf) error {
	rec, err := dataOf[bundle.Started](leaf)
	if err != nil {
		return err
	}
	c.verifiers[leaf.Subject] = true
	if c.keys = rec.Keys; len(c.tokens.Keys) == 0 && rec.Keys[tokenPurpose] != "" {
		c.tokens.Keys = append(c.tokens.Keys, tokenKey{ID: rec.Keys[tokenPurpose], From: leaf.At})
	}
	c.state.signer = say(rec.Keys[tokenPurpose], index)
	if !c.state.frozen.known {
		c.state.frozen, c.state.epoch, c.state.since, c.state.generation = say(false, index), say(uint64(0), index), say(uint64(0), index), say(uint64(0), index)
	}
	return nil
}

func (c *stateCheck) takeJoinToken(index uint64, leaf ledger.Leaf) error {
	rec, err := dataOf[bundle.JoinToken](leaf)
	if err != nil {
		return err
	}
	if leaf.Kind == bundle.JoinTokenRevoked {
		if j := c.joins[rec.ID]; j != nil {
			j.revoked = true
		}
		return nil
	}
	c.joins[rec.ID] = &joinCheck{JoinToken: rec, subject: leaf.Subject, entry: index}
	return nil
}

func (c *stateCheck) approve(act, actor string) {
	if !slices.Contains(c.pending[act], actor) {
		c.pending[act] = append(c.pending[act], actor)
	}
}

func (c *stateCheck) takeTokenKey(index uint64, leaf ledger.Leaf) error {
	switch leaf.Kind {
	case bundle.KeyIntroduced:
		rec, err := dataOf[rotation.Introduction](leaf)
		if err != nil {
			return err
		}
		if k := c.tokens.find(rec.KID); k != nil { // with another certificate
			k.Introduced = index
			return nil
		}
		c.tokens.Keys = append(c.tokens.Keys, tokenKey{ID: rec.KID, JWK: rec.JWK, From: rec.From, Introduced: index})
		if rec.From > leaf.At && !c.verifiers[leaf.Actor] { // not in place of one withdrawn, not by schedule
			delete(c.pending, "rotate-key")
		}
	case bundle.KeyRotated:
		rec, err := dataOf[rotation.Rotation](leaf)
		if err != nil {
			return err
		}
		if old := c.tokens.find(rec.Old); old != nil && rec.Until != 0 {
			old.Until, old.Retired = rec.Until, index
		}
		if k := c.tokens.find(rec.KID); k != nil {
			k.From = leaf.At
		}
		c.state.signer = say(rec.KID, index)
	case bundle.KeyWithdrawn:
		rec, err := dataOf[rotation.Withdrawal](leaf)
		if err != nil {
			return err
		}
		c.openings[rec.Reason] = index
		if k := c.tokens.find(rec.KID); k != nil {
			k.Withdrawn = index
		}
		c.state.epoch, c.state.since = say(rec.Epoch, index), say(index, index)
	}
	return nil
}

func (c *stateCheck) compareDomain(ctx context.Context) error {
	if c.size == 0 {
		return nil
	}
	var d domainState
	if err := c.one(ctx, stateKey, &d); err != nil {
		return err
	}
	differs(c, "domain state", "epoch", c.state.epoch, d.Epoch)
	if c.bare == 0 {
		differs(c, "domain state", "generation of reference sets", c.state.generation, d.Generation)
	}
	differs(c, "domain state", "freeze", c.state.frozen, d.Frozen)
	differs(c, "domain state", "last act that ended every token", c.state.since, d.Since)
	differs(c, "domain state", "signing key", c.state.signer, d.Signer)

	have := map[string]string{}
	if err := c.one(ctx, ledger.Key{Kind: kindDomain, ID: "keys"}, &have); err != nil {
		return err
	}
	if c.keys != nil {
		want := maps.Clone(c.keys)
		want[tokenPurpose], have[tokenPurpose] = "", "" // the one of the last start; the state has the one of now
		for _, purpose := range slices.Sorted(maps.Keys(merged(want, have))) {
			if have[purpose] != want[purpose] {
				c.problem("keys of the domain", "the %s key is %q; the last start of a verifier recorded %q", purpose, have[purpose], want[purpose])
			}
		}
	}
	if err := c.compareTokenKeys(ctx); err != nil {
		return err
	}
	var ends retiredLogs
	if err := c.one(ctx, retiredLogsKey, &ends); err != nil {
		return err
	}
	for id, index := range ends {
		if was, ok := c.ended[id]; index >= c.bare && (!ok || was != index) {
			c.problem("retired log key "+id, "its row says that entry %d retired it; by the entries it was entry %d", index, was)
		}
	}
	if r := c.given; c.pruned.known && c.pruned.entry >= c.bare {
		if r.Pruned != c.pruned.value || r.Entry != c.pruned.entry || r.Bare > r.Entries {
			c.problem("retention", "its row is %+v; entry %d says %+v", r, c.pruned.entry, c.pruned.value)
		}
	} else if r != (retained{}) && c.bare == 0 {
		c.problem("retention", "its row says that entries and evidence were given up, which no entry says")
	}
	return nil
}

func merged(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func (c *stateCheck) compareTokenKeys(ctx context.Context) error {
	var row tokenKeys
	if err := c.one(ctx, tokenKeysKey, &row); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, k := range row.Keys {
		where := "token key " + k.ID
		seen[k.ID] = true
		if id, err := token.ThumbprintJWK(k.JWK); err != nil || id != k.ID {
			c.problem(where, "its row has another key, %s (%v)", id, err)
			continue
		}
		want := c.tokens.find(k.ID)
		if want == nil {
			if k.Introduced >= c.bare {
				c.problem(where, "no entry introduces it")
			}
			continue
		}
		if is, was := stateOf(k), stateOf(*want); is != was && c.bare <= max(want.Introduced, 1) {
			c.problem(where, "its row says %s; the entries say %s", is, was)
		}
	}
	for _, k := range c.tokens.Keys {
		if !seen[k.ID] {
			c.problem("token key "+k.ID, "entry %d introduces it, and its row is missing", k.Introduced)
		}
	}
	return nil
}

func stateOf(k tokenKey) string {
	return fmt.Sprintf("from %d until %d, introduced %d, retired %d, withdrawn %d", k.From, k.Until, k.Introduced, k.Retired, k.Withdrawn)
}

func (c *stateCheck) compareReferences(ctx context.Context) error {
	seen := map[string]bool{}
	if err := c.each(ctx, kindReference, func(name string, value []byte) error {
		var row activeReference
		if err := decode(value, &row); err != nil {
			return err
		}
		where, subject := "reference set "+name, c.subject("reference/"+name)
		seen[subject] = true
		was, ok := c.references[subject]
		switch {
		case !ok && row.Entry < c.bare:
		case !ok:
			c.problem(where, "no entry puts it in force")
		case was.value.Name != name || row.Generation != was.value.Generation || row.Digest != was.value.Digest || row.Entry != was.entry:
			c.problem(where, "generation %d, %s, by entry %d is in force; entry %d put generation %d, %s in force", row.Generation, row.Digest, row.Entry, was.entry, was.value.Generation, was.value.Digest)
		}
		c.needs(ctx, where, "it", row.Envelope)
		raw, wrong := c.blob(ctx, row.Envelope)
		if wrong != "" {
			return nil
		}
		set, err := reference.Read(raw)
		if err != nil {
			return err
		}
		if sum := set.Own(); hex.EncodeToString(sum[:]) != row.Digest {
			c.problem(where, "its envelope holds another set, %x", sum)
		}
		for _, l := range listsOf(set) {
			c.needs(ctx, where, "it", l)
		}
		return nil
	}); err != nil {
		return err
	}
	for subject, was := range c.references {
		if !seen[subject] {
			c.problem("reference set "+was.value.Name, "entry %d put generation %d in force, and it has no row that can be read", was.entry, was.value.Generation)
		}
	}
	return nil
}

// listsOf are the digests of the allow lists that a set names.
func listsOf(set *reference.Signed) (out []string) {
	if set.IMA != nil {
		for _, l := range set.IMA.Lists {
			out = append(out, l.Digest)
		}
	}
	return out
}

func (c *stateCheck) compareJoins(ctx context.Context) error {
	seen := map[string]bool{}
	if err := c.each(ctx, kindJoin, func(id string, value []byte) error {
		var row joinToken
		if err := decode(value, &row); err != nil {
			return err
		}
		seen[id] = true
		where, j := "join token "+id, c.joins[id]
		if j == nil {
			if c.bare == 0 {
				c.problem(where, "no entry makes it")
			}
			return nil
		}
		usedBy := ""
		if row.UsedBy != "" {
			usedBy = c.subject(row.UsedBy)
		}
		is := fmt.Sprintf("class %s, expires %d, revoked %v, used by %q", row.Class, row.Expires, row.Revoked, usedBy)
		if was := fmt.Sprintf("class %s, expires %d, revoked %v, used by %q", j.Class, j.Expires, j.revoked, j.usedBy); (is != was || row.ID != id) && j.entry >= c.bare {
			c.problem(where, "its row says %s; the entries say %s", is, was)
		}
		return nil
	}); err != nil {
		return err
	}
	for id, j := range c.joins {
		if !seen[id] {
			c.problem("join token "+id, "entry %d makes it, and it has no row that can be read", j.entry)
		}
	}
	return nil
}

// comparePending: an approval nobody gave would let fewer operators act.
func (c *stateCheck) comparePending(ctx context.Context) error {
	rows := map[string][]string{}
	if err := c.each(ctx, kindPending, func(act string, value []byte) error {
		var row approvals
		if err := decode(value, &row); err != nil {
			return err
		}
		for _, by := range row.By {
			rows[act] = append(rows[act], c.subject(by))
			if !slices.Contains(c.pending[act], c.subject(by)) && c.bare == 0 {
				c.problem("approvals of "+act, "its row says that %.80q approved, which no entry says", by)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for act, by := range c.pending {
		for _, subject := range by {
			if !slices.Contains(rows[act], subject) && c.bare == 0 {
				c.problem("approvals of "+act, "operator with pseudonym %s approved by the entries, and the row does not say so", subject)
			}
		}
	}
	return nil
}

// compareOpenings: an opening is what was committed to, or the reason of an act is
// lost.
func (c *stateCheck) compareOpenings(ctx context.Context) error {
	seen := map[string]bool{}
	if err := c.each(ctx, kindOpening, func(id string, value []byte) error {
		seen[id] = true
		if hexSum(value) != id {
			c.problem("opening "+id, "it is not what was committed to")
		}
		return nil
	}); err != nil {
		return err
	}
	for commitment, entry := range c.openings {
		if commitment != "" && !seen[commitment] {
			c.problem("opening "+commitment, "the reason given at entry %d has no row that can be read", entry)
		}
	}
	return nil
}
