package verifier

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
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
	return s.log.Witnessed(ctx, note)
}

// recallWitnessed takes up what was stored before a restart. It is worth what
// its signatures are; one that no longer fits is only left out.
func (s *Service) recallWitnessed(ctx context.Context) {
	note, ok, err := row[string](ctx, s, witnessedKey)
	if err == nil && ok {
		err = s.log.Witnessed(ctx, []byte(note))
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
func (s *Service) Cosignatures() ([]Cosignature, error) {
	policy, err := bundle.ParsePolicy(s.cfg.Witnesses)
	if err != nil {
		return nil, fmt.Errorf("reading the witnesses: %w", err)
	}
	note, vkeys := s.log.Cosigned(), s.log.VerifierKeys()
	out := make([]Cosignature, len(policy.Witnesses))
	for i, w := range policy.Witnesses {
		out[i].Witness = w.Name
		if c, at, err := ledger.OpenCosigned(note, w.Key, vkeys...); err == nil {
			out[i].Size, out[i].At = c.Size, at
		}
	}
	return out, nil
}
