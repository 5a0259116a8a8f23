package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

// Purposes of recorded keys. All but the log key are the same on every verifier
// of a domain; the log keys of those that joined are recorded by their own id.
const (
	logPurpose  = "log" // of the verifier that began the domain
	peerPurpose = "log/"

	tokenPurpose = "token" // the one that signs
	rootPurpose  = "root"  // certifies those, if there is one

	retiredPurpose = "retired-log/" // they never count again
)

// start writes the entry that this verifier has started, and one for each peer
// that its configuration names for the first time. A verifier whose log key no
// other one has recorded changes nothing and is refused.
func (s *Service) start(ctx context.Context) error {
	key := ledger.Key{Kind: kindDomain, ID: "keys"}
	blobs := slices.Concat(s.roots, s.cfg.IAKRoots) // bundles name them by digest
	rows := []ledger.Key{key, tokenKeysKey, stateKey, retiredLogsKey}
	for _, id := range s.cfg.PeerLogKeys {
		rows = append(rows, admissionKey(id))
	}
	_, err := s.log.Append(ctx, ledger.Draft{Keys: rows, Blobs: blobs, Build: func(slot ledger.Slot) (ledger.Change, error) {
		have := map[string]string{}
		if row, ok := slot.Row(key); ok {
			if err := json.Unmarshal(row, &have); err != nil {
				return ledger.Change{}, fmt.Errorf("reading the recorded keys: %w", err)
			}
			if err := s.recorded(have); err != nil {
				return ledger.Change{}, err
			}
		}
		if s.cfg.ReplaceRoot {
			delete(have, rootPurpose)
		}
		signer, puts, err := s.firstKey(slot, have[tokenPurpose])
		if err != nil {
			return ledger.Change{}, err
		}
		for purpose, id := range s.cfg.KeyIDs {
			if purpose != logPurpose || have[logPurpose] == "" {
				have[purpose] = id
			}
		}
		have[tokenPurpose] = signer
		entries, spent, err := s.joined(slot, have)
		if err != nil {
			return ledger.Change{}, err
		}
		puts = append(puts, spent...)
		if s.ends, _, err = slotRow[retiredLogs](slot, retiredLogsKey); err != nil {
			return ledger.Change{}, err
		}
		retired, ids, err := s.retired(have)
		if err != nil {
			return ledger.Change{}, err
		}
		for i, id := range ids {
			s.ends = s.ends.with(id, slot.Index+uint64(len(entries)+i))
		}
		if len(ids) > 0 {
			puts = append(puts, put(retiredLogsKey.Kind, retiredLogsKey.ID, s.ends))
		}
		entries = append(entries, retired...)
		entries = append(entries, s.entry(bundle.VerifierStarted, "verifier/"+s.cfg.Name, "verifier", bundle.Started{Verifier: s.cfg.Name, Build: s.cfg.Build, Keys: have}))
		return ledger.Change{Puts: append(puts, ledger.Put{Key: key, Value: encode(have)}), Entries: entries}, nil
	}})
	if err != nil {
		return fmt.Errorf("starting the verifier: %w", err)
	}
	s.log.Retire(s.ends)
	return nil
}

// firstKey returns the token key that signs, which must be here. In a store that
// knows of none it is the one recorded, or the first of a new domain.
func (s *Service) firstKey(slot ledger.Slot, recorded string) (kid string, puts []ledger.Put, err error) {
	d, _, err := slotRow[domainState](slot, stateKey)
	if err != nil {
		return "", nil, err
	}
	if d.Signer != "" {
		_, err := s.signer(d.Signer)
		return d.Signer, nil, err
	}
	kid, key := s.cfg.TokenKeys.First()
	if recorded != "" {
		if key, err = s.signer(recorded); err != nil {
			return "", nil, err
		}
		kid = recorded
	}
	jwk, err := token.MarshalJWK(key.Public())
	if err != nil {
		return "", nil, err
	}
	d.Signer = kid
	return kid, []ledger.Put{put(kindDomain, "token-keys", tokenKeys{Keys: []tokenKey{{ID: kid, JWK: jwk, From: slot.At.Unix()}}}), put(kindDomain, "state", d)}, nil
}

// recorded holds this verifier's keys against those of the domain.
func (s *Service) recorded(have map[string]string) error {
	for purpose, id := range have {
		if purpose == logPurpose || purpose == tokenPurpose || strings.HasPrefix(purpose, peerPurpose) || strings.HasPrefix(purpose, retiredPurpose) || s.cfg.KeyIDs[purpose] == id {
			continue
		}
		if purpose == rootPurpose {
			if s.cfg.ReplaceRoot {
				continue
			}
			return fmt.Errorf("%w: token keys of this domain are certified by the root key %.16s, found %.16q; give root_tpm the TPM that has it, or, if that is lost, start once with --replace-root and hand out the trust file anew", keys.ErrMissing, id, s.cfg.KeyIDs[purpose])
		}
		return fmt.Errorf("%w: the %s key is %.16s, but this store was made with %.16s; restore the key file, or begin a new domain", keys.ErrMissing, purpose, s.cfg.KeyIDs[purpose], id)
	}
	if own := s.cfg.KeyIDs[logPurpose]; have[retiredPurpose+own] != "" {
		return fmt.Errorf("%w: the verifier with the log key %.16s was retired; join again with an empty data directory", keys.ErrMissing, own)
	} else if own != have[logPurpose] && have[peerPurpose+own] == "" {
		return fmt.Errorf("%w: no verifier of the domain has recorded the log key %.16s; list it under peers of one that runs and restart that, or restore the key file", keys.ErrMissing, own)
	}
	return nil
}

// joined records peers that are new, and returns an entry for each, and the approvals
// that are spent by it: where acts take several operators, so does this.
func (s *Service) joined(slot ledger.Slot, have map[string]string) (out []ledger.Entry, spent []ledger.Put, err error) {
	for _, id := range slices.Compact(slices.Sorted(slices.Values(s.cfg.PeerLogKeys))) {
		if id == have[logPurpose] || have[peerPurpose+id] != "" {
			continue
		}
		if have[retiredPurpose+id] != "" {
			return nil, nil, fmt.Errorf("%w: the verifier with the log key %.16s was retired; it joins again with another key", keys.ErrMissing, id)
		}
		agreed, _, err := slotRow[approvals](slot, admissionKey(id))
		if err != nil {
			return nil, nil, err
		}
		if n := len(agreed.By); s.cfg.Approvals > 1 && n < s.cfg.Approvals {
			return nil, nil, fmt.Errorf("%w: %d of %d operators have agreed to a verifier with the log key %.16s; run `writ verifier admit KEY` as each of them while peers does not list it, then start again", keys.ErrMissing, n, s.cfg.Approvals, id)
		}
		spent = append(spent, ledger.Put{Key: admissionKey(id)})
		have[peerPurpose+id] = id
		out = append(out, s.entry(bundle.VerifierJoined, "log-key/"+id, "verifier/"+s.cfg.Name, bundle.Joined{LogKey: id}))
	}
	return out, spent, nil
}

// retired records peers that are none any more, and returns an entry for each. One
// that was recorded before and has signed the head all the same went on after its
// end: then this is no history to go on from.
func (s *Service) retired(have map[string]string) (out []ledger.Entry, ids []string, err error) {
	for _, id := range slices.Compact(slices.Sorted(slices.Values(s.cfg.RetiredLogKeys))) {
		switch {
		case have[retiredPurpose+id] != "" && s.log.HeadSignedBy(id):
			return nil, nil, fmt.Errorf("%w: the retired verifier with the log key %.16s has appended after its end; operators must look at what it wrote", ledger.ErrKey, id)
		case have[retiredPurpose+id] != "":
			continue
		case have[peerPurpose+id] == "" && have[logPurpose] != id:
			return nil, nil, fmt.Errorf("%w: no verifier with the log key %.16s was ever recorded; only those can be retired", keys.ErrMissing, id)
		}
		delete(have, peerPurpose+id)
		have[retiredPurpose+id] = id
		ids = append(ids, id)
		out = append(out, s.entry(bundle.VerifierRetired, "log-key/"+id, "verifier/"+s.cfg.Name, bundle.Joined{LogKey: id}))
	}
	return out, ids, nil
}

// retiredLogs are the indexes of the entries that retired log keys, by their ids.
type retiredLogs map[string]uint64

var retiredLogsKey = ledger.Key{Kind: kindDomain, ID: "retired-logs"}

// Signers are the keys of the log in r: those of now, and those of retired verifiers
// with their ends, which have none yet if no verifier has started without them.
func Signers(ctx context.Context, r ledger.Reader, domain string, keys, retired []string) (ledger.Signers, error) {
	out := ledger.Signers{Keys: keys}
	var ends retiredLogs
	rows, err := r.Rows(ctx, []ledger.Key{retiredLogsKey})
	if errors.Is(err, ledger.ErrCorrupt) {
		return out, nil // which the store's own check names
	}
	if err == nil && len(rows) > 0 {
		err = unmarshalRow(rows[0].Value, retiredLogsKey, &ends)
	}
	if err != nil {
		return out, fmt.Errorf("reading which keys were retired: %w", err)
	}
	for _, vkey := range retired {
		id, err := ledger.KeyID(domain+"/log", vkey)
		if err != nil {
			return out, err
		}
		size, ok := ends[id]
		if !ok {
			size = math.MaxUint64
		}
		out.Retired = append(out.Retired, ledger.Retired{Key: vkey, Size: size})
	}
	return out, nil
}

// with is r and one more; drafts are built again, so r stays as it is.
func (r retiredLogs) with(id string, index uint64) retiredLogs {
	out := retiredLogs{id: index}
	maps.Copy(out, r)
	return out
}

// retiredKeys are the keys that a trust file names for what they have signed; nil if
// there are none.
func (s *Service) retiredKeys() *bundle.Retired {
	r := new(bundle.Retired)
	for _, vkey := range s.log.RetiredKeys() {
		id, err := ledger.KeyID(s.cfg.Domain+"/log", vkey)
		if size, ok := s.ends[id]; err == nil && ok {
			r.Log = append(r.Log, bundle.RetiredLogKey{Key: vkey, Size: size})
		}
	}
	p, now := s.published.Load(), s.cfg.Now()
	for _, k := range p.rows.Keys {
		if k.state(p.signer, now) == "retired" {
			r.TokenKeys = append(r.TokenKeys, bundle.RetiredTokenKey{JWK: k.JWK, From: k.From, Until: k.Until})
		}
	}
	if len(r.Log)+len(r.TokenKeys) == 0 {
		return nil
	}
	return r
}
