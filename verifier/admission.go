package verifier

import (
	"context"
	"slices"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// admissionKey is the row of who agreed to a further verifier of the domain, by the id
// of its log key. It is spent when a verifier that runs records it.
func admissionKey(id string) ledger.Key {
	return ledger.Key{Kind: kindPending, ID: "verifier/" + id}
}

// Admit is one operator's agreement to a further verifier: where acts take several
// operators, one that is listed under peers is recorded only when as many have agreed.
func (s *Service) Admit(ctx context.Context, actor, vkey string) (*protocol.Admission, error) {
	id, err := ledger.KeyID(s.cfg.Domain+"/log", vkey)
	if err != nil {
		return nil, protocol.Refuse(protocol.IllegalAct, "%v", err)
	}
	key, act := ledger.Key{Kind: kindDomain, ID: "keys"}, admissionKey(id)
	out := &protocol.Admission{LogKey: id, Needed: s.cfg.Approvals}
	_, err = s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key, act}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		have, _, err := slotRow[map[string]string](slot, key)
		if err != nil {
			return ledger.Change{}, err
		}
		if id == have[logPurpose] || have[peerPurpose+id] != "" || have[retiredPurpose+id] != "" {
			return ledger.Change{}, protocol.Refuse(protocol.IllegalAct, "the log key %.16s is recorded already, or was retired", id)
		}
		a, _, err := slotRow[approvals](slot, act)
		if err != nil {
			return ledger.Change{}, err
		}
		if !slices.Contains(a.By, actor) {
			a.By = append(slices.Clone(a.By), actor)
		}
		out.Approvals = len(a.By)
		return ledger.Change{Puts: []ledger.Put{put(act.Kind, act.ID, a)}, Entries: []ledger.Entry{s.approved(actor, act.ID, out.Approvals)}}, nil
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}
