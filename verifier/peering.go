package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/rotation"
)

// FollowPeers looks at the checkpoints of all recognised domains again and again until
// ctx is done. Each verifier of the domain does; what one has seen counts for all.
func (s *Service) FollowPeers(ctx context.Context, every time.Duration) {
	for {
		if err := s.FollowOnce(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Slog.WarnContext(ctx, "following other domains", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// FollowOnce looks at each recognised domain once. Errors are those of single ones;
// of them nothing was seen, and in time nothing of them counts.
func (s *Service) FollowOnce(ctx context.Context) error {
	rows, err := s.peerRows(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range rows {
		if p.Diverged != 0 {
			continue
		}
		if err := s.follow(ctx, &p); err != nil {
			errs = append(errs, fmt.Errorf("following %s: %w", p.Domain, err))
		}
	}
	return errors.Join(errs...)
}

// shown is what a peer shows at one look.
type shown struct {
	note string
	at   ledger.Checkpoint
	keys []rotation.Entry // all that is known of its token keys
}

// follow looks at a peer and records what it has shown.
func (s *Service) follow(ctx context.Context, p *peer) error {
	link, err := s.dial(p)
	if err != nil {
		return err
	}
	defer link.Close()
	ctx, cancel := context.WithTimeout(ctx, peerCallLimit)
	defer cancel()
	trust, err := bundle.ParseTrust(p.Trust)
	if err != nil {
		return err
	}
	note, err := link.Log(ctx, "checkpoint")
	if err != nil {
		return fmt.Errorf("reading its checkpoint: %w", err)
	}
	now := shown{note: string(note)}
	if now.at, err = trust.OpenCheckpoint(note); err != nil {
		return err // anybody can write those: nothing was seen
	}
	switch err := consistent(ctx, link, trust, p, &now); {
	case errors.Is(err, ledger.ErrDiverged):
		return errors.Join(err, s.diverged(ctx, p, now.note, err))
	case err != nil:
		return err
	}
	if now.keys, err = learn(ctx, link, trust, p); err != nil {
		s.cfg.Slog.WarnContext(ctx, "a peer's token keys are not known anew", "peer", p.Domain, "error", err)
	}
	return s.saw(ctx, p, &now)
}

// consistent holds what a peer shows against what it showed before. Where several
// verifiers sign its log, one may be behind: then nothing was seen, and that it is of
// the same history is checked as far as it can be.
func consistent(ctx context.Context, link *PeerLink, trust *bundle.Trust, p *peer, now *shown) error {
	if p.Note == "" {
		return nil
	}
	last, err := trust.OpenCheckpoint([]byte(p.Note))
	if err != nil {
		return fmt.Errorf("opening its last checkpoint: %w", err)
	}
	newer, older := []byte(now.note), last
	behind := now.at.Size < last.Size && len(trust.Log) > 1
	if behind {
		newer, older = []byte(p.Note), now.at
	}
	remote, err := ledger.RemoteAt(link.Log, newer, trust.LogKeys(newer)...)
	if err != nil {
		return err
	}
	if err := remote.Extends(ctx, older); err != nil {
		return err
	}
	if behind {
		return fmt.Errorf("it shows size %d, and showed size %d before: one of its verifiers is behind", now.at.Size, last.Size)
	}
	return nil
}

// learn reads what the peer's log proves of its token keys. What was known stays.
func learn(ctx context.Context, link *PeerLink, trust *bundle.Trust, p *peer) ([]rotation.Entry, error) {
	book, err := rotation.New(p.Domain, trust.Pins())
	if err == nil {
		_, err = book.Learn(p.Keys)
	}
	if err != nil {
		return p.Keys, err
	}
	entries, err := link.Keys(ctx)
	if err == nil {
		_, err = book.Learn(entries)
	}
	if err != nil {
		return p.Keys, err
	}
	return book.Proven(), nil
}

// saw stores what a peer has shown, unless the row has moved on meanwhile.
func (s *Service) saw(ctx context.Context, p *peer, now *shown) error {
	key := peerKey(p.Domain)
	_, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		row, ok, err := slotRow[peer](slot, key)
		if err != nil || !ok || row.Digest != p.Digest || row.Note != p.Note || row.Diverged != 0 {
			return ledger.Change{}, err // another verifier of this domain, or an operator, was first
		}
		at := slot.At.Unix()
		var entries []ledger.Entry
		if row.Note != now.note && (row.Recorded == 0 || at-row.Recorded >= int64(recordPeers.Seconds())) {
			row.Recorded = at
			entries = append(entries, s.entry(bundle.PeerSeen, "peer/"+p.Domain, "verifier/"+s.cfg.Name, bundle.PeerCheckpoint{Domain: p.Domain, Checkpoint: now.note}))
		}
		row.Note, row.Seen, row.Keys = now.note, at, now.keys
		return ledger.Change{Puts: []ledger.Put{put(kindPeer, p.Domain, row)}, Entries: entries}, nil
	}})
	return err
}

// diverged records that a peer's log contradicts itself, with the two checkpoints
// that prove it: nothing of the peer counts from then on.
func (s *Service) diverged(ctx context.Context, p *peer, note string, why error) error {
	key := peerKey(p.Domain)
	_, err := s.log.Append(context.WithoutCancel(ctx), ledger.Draft{Keys: []ledger.Key{key}, Urgent: true, Build: func(slot ledger.Slot) (ledger.Change, error) {
		row, ok, err := slotRow[peer](slot, key)
		if err != nil || !ok || row.Diverged != 0 {
			return ledger.Change{}, err
		}
		row.Diverged = slot.Index
		return ledger.Change{Puts: []ledger.Put{put(kindPeer, p.Domain, row)},
			Entries: []ledger.Entry{s.entry(bundle.PeerDiverged, "peer/"+p.Domain, "verifier/"+s.cfg.Name, bundle.Divergence{Domain: p.Domain, Before: p.Note, Shown: note, Reason: why.Error()})}}, nil
	}})
	return err
}
