package verifier

import (
	"bytes"
	"context"
	"fmt"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// PeerLog is the log of a recognised domain under the last checkpoint that this domain
// has seen of it, which extends all those before. That an entry stands there is proven;
// what it says is that domain's word. Close it.
type PeerLog struct {
	Domain string
	Size   uint64 // entries under the checkpoint
	Trust  []byte // the trust file that operators have approved

	remote *ledger.Remote
	close  func()
}

// PeerLog opens a recognised domain's log. It is refused while nothing of that domain
// counts.
func (s *Service) PeerLog(ctx context.Context, domain string) (*PeerLog, error) {
	rows, err := s.peerRows(ctx)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if p := &rows[i]; p.Domain == domain {
			if why := p.closed(s.cfg.Now()); why != nil {
				return nil, protocol.Refuse(protocol.NotFound, "nothing of %s counts now: %v", domain, why)
			}
			return s.openPeer(p)
		}
	}
	return nil, protocol.Refuse(protocol.NotFound, "no domain %.100q is recognised", domain)
}

func (s *Service) openPeer(p *peer) (*PeerLog, error) {
	trust, err := bundle.ParseTrust(p.Trust)
	if err != nil {
		return nil, err
	}
	link, err := s.dial(p)
	if err != nil {
		return nil, err
	}
	remote, err := ledger.RemoteAt(link.Log, []byte(p.Note), trust.LogKeys([]byte(p.Note))...)
	if err != nil {
		link.Close()
		return nil, fmt.Errorf("opening the log of %s: %w", p.Domain, err)
	}
	return &PeerLog{Domain: p.Domain, Size: remote.Size, Trust: bytes.Clone(p.Trust), remote: remote, close: link.Close}, nil
}

// Close lets go of the connection.
func (l *PeerLog) Close() { l.close() }

// Entries returns the leaves from an index up to the end of their bundle (256), or of
// the log, proven to stand there. [ledger.ErrPruned], or a refusal of that domain's.
func (l *PeerLog) Entries(ctx context.Context, from uint64) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, peerCallLimit)
	defer cancel()
	return l.remote.Entries(ctx, from)
}

// Prove returns the proof that an entry stands in the log (c2sp.org/tlog-proof).
func (l *PeerLog) Prove(ctx context.Context, index uint64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, peerCallLimit)
	defer cancel()
	return l.remote.Prove(ctx, index)
}
