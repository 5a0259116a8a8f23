package verifier

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// domainState is what holds for all nodes.
type domainState struct {
	Epoch      uint64 `json:"epoch"`      // +1 on domain-wide acts only
	Generation uint64 `json:"generation"` // +1 when any reference set is activated
	Frozen     bool   `json:"frozen"`
	Since      uint64 `json:"since,omitempty"` // index of the last act that ended every token
	Signer     string `json:"signer"`          // id of the token key that signs
}

// end ends every token of the domain.
func (d *domainState) end(slot ledger.Slot) {
	d.Epoch++
	d.Since = slot.Index
}

var stateKey = ledger.Key{Kind: kindDomain, ID: "state"}

func (s *Service) domainState(ctx context.Context) (domainState, error) {
	d, _, err := row[domainState](ctx, s, stateKey)
	return d, err
}

// approvals are the operators who agreed to an act so far.
type approvals struct {
	By []string `json:"by"`
}

// approve adds an operator to an act; done says whether enough have agreed.
// The acts that could open what is closed take several (security rule 4).
func (s *Service) approve(slot ledger.Slot, key ledger.Key, actor string) (p ledger.Put, count int, done bool, err error) {
	a, _, err := slotRow[approvals](slot, key)
	if err != nil {
		return p, 0, false, err
	}
	if !slices.Contains(a.By, actor) {
		a.By = append(a.By, actor)
	}
	if len(a.By) >= s.cfg.Approvals {
		return ledger.Put{Key: key}, len(a.By), true, nil
	}
	return put(key.Kind, key.ID, a), len(a.By), false, nil
}

// approved is the entry of an approval that is not the last.
func (s *Service) approved(actor, act string, count int) ledger.Entry {
	return s.entry(bundle.Approved, "domain", actor, bundle.Approval{Act: act, Approvals: count})
}

// Publish takes a signed reference set, alone or with the allow lists it names. It
// comes into force when as many
// distinct operators have published the same bytes as the domain demands.
func (s *Service) Publish(ctx context.Context, actor string, publication []byte) (*protocol.Published, error) {
	set, blobs, err := s.readPublication(ctx, publication)
	if err != nil {
		return nil, err
	}
	sum := set.Own()
	digest := hex.EncodeToString(sum[:])
	key := referenceKey(set.Name)
	act := ledger.Key{Kind: kindPending, ID: "reference/" + digest}
	out := &protocol.Published{Name: set.Name, Generation: set.Generation, Digest: digest, Needed: s.cfg.Approvals}
	_, err = s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key, act, stateKey}, Blobs: blobs, Build: func(slot ledger.Slot) (ledger.Change, error) {
		now, _, err := slotRow[activeReference](slot, key)
		if err != nil {
			return ledger.Change{}, err
		}
		if set.Generation <= now.Generation {
			return ledger.Change{}, protocol.Refuse(protocol.ReferenceRefused, "generation %d of %s is in force; publish a greater one than that, not %d", now.Generation, set.Name, set.Generation)
		}
		approval, count, done, err := s.approve(slot, act, actor)
		if err != nil {
			return ledger.Change{}, err
		}
		out.Active, out.Approvals = done, count
		kind, change := bundle.ReferenceAdded, ledger.Change{Puts: []ledger.Put{approval}}
		if done {
			d, _, err := slotRow[domainState](slot, stateKey)
			if err != nil {
				return ledger.Change{}, err
			}
			d.Generation++
			kind = bundle.ReferenceActive
			change.Puts = append(change.Puts, put(kindDomain, "state", d),
				put(kindReference, set.Name, activeReference{Generation: set.Generation, Digest: digest, Envelope: hexSum(set.Envelope), Entry: slot.Index}))
		}
		change.Entries = []ledger.Entry{s.entry(kind, "reference/"+set.Name, actor, bundle.Reference{Name: set.Name, Generation: set.Generation, Digest: digest, Approvals: count})}
		return change, nil
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// References lists the sets in force by class.
func (s *Service) References(ctx context.Context) ([]protocol.Published, error) {
	rows, err := s.log.List(ctx, kindReference, "", 1000)
	if err != nil {
		return nil, err
	}
	var out []protocol.Published
	for _, r := range rows {
		var a activeReference
		if err := decode(r.Value, &a); err != nil {
			return nil, err
		}
		out = append(out, protocol.Published{Name: r.Key.ID, Generation: a.Generation, Digest: a.Digest, Active: true, Approvals: s.cfg.Approvals, Needed: s.cfg.Approvals})
	}
	return out, nil
}

// legalStatus lists the administrative acts; revoked and retired are final.
var legalStatus = map[string][]string{
	Pending:   {Active, Revoked, Retired},
	Active:    {Suspended, Revoked, Retired},
	Suspended: {Active, Revoked, Retired},
}

// remedy is what can be done about a node that is not active.
func remedy(n *Node) string {
	switch n.Status {
	case Pending:
		return "an operator must make it active: writ node approve " + n.ID
	case Suspended:
		return "an operator must make it active again: writ node approve " + n.ID
	case Active:
		return "writ node suspend, revoke and retire end that"
	}
	return "that is final: its TPM takes part in this domain no more"
}

// SetStatus is an operator's act on a node. Anything but active ends every
// token the node has, at once where its agent listens.
func (s *Service) SetStatus(ctx context.Context, actor, id, status, reason string) (*Node, error) {
	ctx = context.WithoutCancel(ctx) // an operator who hangs up has still revoked, and nodes are told
	commitment, opening, err := s.salted(reason)
	if err != nil {
		return nil, err
	}
	var n Node
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{nodeKey(id)}, Urgent: status != Active, Build: func(slot ledger.Slot) (ledger.Change, error) {
		var ok bool
		var err error
		if n, ok, err = slotRow[Node](slot, nodeKey(id)); err != nil {
			return ledger.Change{}, err
		}
		if !ok {
			return ledger.Change{}, protocol.Refuse(protocol.NotFound, "no node %.64q is enrolled; `writ node list` shows them", id)
		}
		if n.Status == status {
			return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "node %s is %s already: nothing is to be done", id, n.Status)
		}
		if !slices.Contains(legalStatus[n.Status], status) {
			return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "node %s is %s and cannot become %s; %s", id, n.Status, status, remedy(&n))
		}
		data := bundle.Status{From: n.Status, Reason: commitment}
		n.Status = status
		if status == Active && n.Doubt { // the operator's decision: begin anew
			n.Doubt, n.Boot, n.IMAChunks = false, nil, nil
		}
		change := ledger.Change{}
		if status == Active {
			n.Counter++ // challenges handed out before the act are void
			data.To, data.State, data.Seq = n.Status, n.State, n.Ended
			change.Entries = []ledger.Entry{s.entry(bundle.NodeStatus, id, actor, data)}
			change.Puts = []ledger.Put{put(kindNode, id, n)}
		} else if change, err = s.end(&n, actor, data); err != nil {
			return ledger.Change{}, err
		}
		change.Puts = append(change.Puts, ledger.Put{Key: ledger.Key{Kind: kindOpening, ID: commitment}, Value: opening})
		return change, nil
	}})
	if err != nil {
		return nil, err
	}
	if status != Active {
		event, err := s.signEvent(ctx, &n, status, reason)
		if err != nil {
			return nil, err
		}
		s.hub.publish(receipts[0].Index, id, event, s.cfg.Now())
	}
	return &n, nil
}

// MintJoinToken makes a join token, good once, for at most a day. ca is the
// SHA-256 of the TLS CA the node is to trust.
func (s *Service) MintJoinToken(ctx context.Context, actor string, ca keys.Pin, req protocol.NewJoinToken) (*protocol.JoinToken, error) {
	if !reference.ValidName(req.Class) {
		return nil, protocol.Refuse(protocol.IllegalAct, "class %.64q: the name of a reference set is needed, of [a-z0-9._-]", req.Class)
	}
	if b, err := hex.DecodeString(req.EK); err != nil || (len(b) != 0 && len(b) != 32) {
		return nil, protocol.Refuse(protocol.IllegalAct, "ek %.80q: the SHA-256 of the TPM's EK public area is needed, 64 hexadecimal digits", req.EK)
	}
	life := time.Duration(req.Life) * time.Second
	if life == 0 {
		life = joinTokenLife
	}
	if life < 0 || life > joinTokenLife {
		return nil, protocol.Refuse(protocol.IllegalAct, "a join token lives at most %s, not %s", joinTokenLife, life)
	}
	t, err := keys.NewJoinToken(s.cfg.Rand, ca)
	if err != nil {
		return nil, err
	}
	sum := t.Hash()
	j := joinToken{ID: t.ID, Hash: hex.EncodeToString(sum[:]), Class: req.Class, EK: req.EK, Expires: s.cfg.Now().Add(life).Unix()}
	if err := s.putJoin(ctx, actor, bundle.JoinTokenMade, j.ID, func(*joinToken) (*joinToken, error) { return &j, nil }); err != nil {
		return nil, err
	}
	out := j.shown()
	out.Token = t.String()
	return &out, nil
}

// RevokeJoinToken ends a join token that was not used.
func (s *Service) RevokeJoinToken(ctx context.Context, actor, id string) error {
	return s.putJoin(ctx, actor, bundle.JoinTokenRevoked, id, func(j *joinToken) (*joinToken, error) {
		if j == nil {
			return nil, protocol.Refuse(protocol.NotFound, "no join token %.64q", id)
		}
		j.Revoked = true
		return j, nil
	})
}

func (s *Service) putJoin(ctx context.Context, actor, kind, id string, change func(*joinToken) (*joinToken, error)) error {
	key := ledger.Key{Kind: kindJoin, ID: id}
	_, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		var now *joinToken
		if j, ok, err := slotRow[joinToken](slot, key); err != nil {
			return ledger.Change{}, err
		} else if ok {
			now = &j
		}
		next, err := change(now)
		if err != nil {
			return ledger.Change{}, err
		}
		return ledger.Change{Puts: []ledger.Put{put(kindJoin, id, next)},
			Entries: []ledger.Entry{s.entry(kind, "join-token/"+id, actor, bundle.JoinToken{ID: id, Class: next.Class, Expires: next.Expires})}}, nil
	}})
	return err
}

// JoinTokens lists join tokens, never their secrets.
func (s *Service) JoinTokens(ctx context.Context) ([]protocol.JoinToken, error) {
	rows, err := s.log.List(ctx, kindJoin, "", 10000)
	if err != nil {
		return nil, err
	}
	var out []protocol.JoinToken
	for _, r := range rows {
		var j joinToken
		if err := decode(r.Value, &j); err != nil {
			return nil, err
		}
		out = append(out, j.shown())
	}
	return out, nil
}

func (j *joinToken) shown() protocol.JoinToken {
	return protocol.JoinToken{ID: j.ID, Class: j.Class, EK: j.EK, Expires: j.Expires, UsedBy: j.UsedBy, Revoked: j.Revoked}
}

// Freeze stops issuing in the whole domain and ends every token, by one
// operator's word.
func (s *Service) Freeze(ctx context.Context, actor, reason string) (*protocol.Governance, error) {
	return s.govern(ctx, actor, reason, true)
}

// Unfreeze lifts a freeze once enough distinct operators agree.
func (s *Service) Unfreeze(ctx context.Context, actor, reason string) (*protocol.Governance, error) {
	return s.govern(ctx, actor, reason, false)
}

func (s *Service) govern(ctx context.Context, actor, reason string, freeze bool) (*protocol.Governance, error) {
	ctx = context.WithoutCancel(ctx)
	commitment, opening, err := s.salted(reason)
	if err != nil {
		return nil, err
	}
	out := &protocol.Governance{Needed: s.cfg.Approvals}
	act := ledger.Key{Kind: kindPending, ID: "unfreeze"}
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{stateKey, act}, Urgent: freeze, Build: func(slot ledger.Slot) (ledger.Change, error) {
		d, _, err := slotRow[domainState](slot, stateKey)
		if err != nil {
			return ledger.Change{}, err
		}
		if d.Frozen == freeze {
			if freeze {
				return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "the domain is frozen already, epoch %d: nothing is to be done", d.Epoch)
			}
			return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "the domain is not frozen: nothing is to be done")
		}
		change := ledger.Change{Puts: []ledger.Put{{Key: ledger.Key{Kind: kindOpening, ID: commitment}, Value: opening}}}
		kind := bundle.Frozen
		if !freeze {
			kind = bundle.Unfrozen
			approval, count, done, err := s.approve(slot, act, actor)
			if err != nil {
				return ledger.Change{}, err
			}
			out.Approvals = count
			change.Puts = append(change.Puts, approval)
			if !done {
				out.Frozen, out.Epoch = true, d.Epoch
				change.Entries = []ledger.Entry{s.approved(actor, act.ID, count)}
				return change, nil
			}
		}
		d.Frozen = freeze
		d.end(slot)
		out.Frozen, out.Epoch = d.Frozen, d.Epoch
		change.Puts = append(change.Puts, put(kindDomain, "state", d))
		change.Entries = []ledger.Entry{s.entry(kind, "domain", actor, bundle.Governance{Epoch: d.Epoch, Reason: commitment, Approvals: out.Approvals})}
		return change, nil
	}})
	if err != nil {
		return nil, err
	}
	if freeze {
		return out, s.tellFrozen(ctx, receipts[0].Index, reason)
	}
	return out, nil
}

// tellFrozen tells whoever listens that every token has ended.
func (s *Service) tellFrozen(ctx context.Context, index uint64, reason string) error {
	if s.hub.knows(index) {
		return nil
	}
	event, err := s.domainEvent(ctx, "frozen", reason)
	if err != nil {
		return err
	}
	s.hub.publish(index, "", event, s.cfg.Now())
	return s.hub.everyone(s.cfg.Now(), func(node string) (string, error) {
		n, err := s.Node(ctx, node)
		if err != nil {
			return "", err
		}
		n.Ended = n.Seq
		return s.signEvent(ctx, n, "frozen", reason)
	})
}

// Governance reports whether the domain is frozen.
func (s *Service) Governance(ctx context.Context) (*protocol.Governance, error) {
	d, err := s.domainState(ctx)
	return &protocol.Governance{Frozen: d.Frozen, Epoch: d.Epoch, Needed: s.cfg.Approvals}, err
}

// pin holds the checkpoint a node kept against this log. Only our own
// signature over a history we do not have stops the log, which signs nothing
// more from then on; an unsigned claim never does (security rules 23, 25).
func (s *Service) pin(ctx context.Context, known string) error {
	err := s.log.Confront(ctx, []byte(known))
	switch {
	case err == nil || errors.Is(err, ledger.ErrKey):
		return nil
	case errors.Is(err, ledger.ErrRolledBack):
		s.cfg.Slog.ErrorContext(ctx, "a node holds a checkpoint of ours that this log contradicts", "error", err)
		return protocol.Refuse(protocol.DomainFrozen, "this log contradicts a checkpoint it signed; nothing is issued until operators decide")
	}
	return err
}
