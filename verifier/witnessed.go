package verifier

import (
	"context"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

var witnessedKey = ledger.Key{Kind: kindDomain, ID: "witnessed"}

// Witnessed stores a checkpoint that witnesses have cosigned, and proves entries
// under it from then on.
func (s *Service) Witnessed(ctx context.Context, note []byte) error {
	_, err := s.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Puts: []ledger.Put{{Key: witnessedKey, Value: encode(string(note))}}}, nil
	}})
	if err != nil {
		return err
	}
	return s.takeWitnessed(ctx, note)
}

// takeWitnessed proves entries under a cosigned checkpoint, and notes how long the
// quorum's word is good for.
func (s *Service) takeWitnessed(ctx context.Context, note []byte) error {
	if err := s.log.Witnessed(ctx, note); err != nil {
		return err
	}
	if at, ok := s.witnesses.Since(note, s.cfg.Now().Add(maxWitnessAhead), s.log.VerifierKeys()...); ok {
		s.cosigned.Store(max(s.cosigned.Load(), at.Unix()))
	}
	return nil
}

// maxWitnessAhead is how far the clock of a witness may be ahead: one that cosigned
// in the future would be believed for as long.
const maxWitnessAhead = 2 * time.Second

// WitnessSound refuses while the quorum that the policy of witnesses demands has not
// cosigned this log lately. Witnesses that find another history than this one refuse,
// and need not show why: no single one of them can stop the domain, and those that
// operators rely on can. Nothing is frozen: their next word opens it.
func (s *Service) WitnessSound() error {
	if !s.witnesses.Demands() {
		return nil
	}
	at := s.cosigned.Load()
	if age := s.cfg.Now().Sub(time.Unix(at, 0)); at == 0 || age > s.cfg.WitnessMaxAge {
		return protocol.Refuse(protocol.Unwitnessed, "the quorum of witnesses has not cosigned this log for %s; nothing is issued until it does: see what they answer in the verifier's log", s.cfg.WitnessMaxAge)
	}
	return nil
}

// recallWitnessed takes up what was stored before a restart. It is worth what
// its signatures are; one that no longer fits is only left out.
func (s *Service) recallWitnessed(ctx context.Context) {
	note, ok, err := row[string](ctx, s, witnessedKey)
	if err == nil && ok {
		err = s.takeWitnessed(ctx, []byte(note))
	}
	if err != nil {
		s.cfg.Slog.ErrorContext(ctx, "the stored cosigned checkpoint is not taken up", "error", err)
	}
}

// Cosignature says how far one of the configured witnesses has cosigned the log, by
// the latest checkpoint that was kept. The zero Size and At: it has not.
type Cosignature struct {
	Witness string
	Size    uint64
	At      time.Time
}

// Cosignatures lists every configured witness.
func (s *Service) Cosignatures() []Cosignature {
	note, vkeys := s.log.Cosigned(), s.log.VerifierKeys()
	out := make([]Cosignature, len(s.witnesses.Witnesses))
	for i, w := range s.witnesses.Witnesses {
		out[i].Witness = w.Name
		if c, at, err := ledger.OpenCosigned(note, w.Key, vkeys...); err == nil {
			out[i].Size, out[i].At = c.Size, at
		}
	}
	return out
}
