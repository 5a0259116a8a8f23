package verifier

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// Status lists. Tokens of a node that rest on one another end together, so they
// share a status: that of the node's run of legitimacy, from the grant that began it
// to the lapse, denial or act that ended it. A run is known by the index of the
// entry that began it, which is its place in the lists; nothing is allocated. That a
// run is over is a row of the transaction that ended it, so every verifier on the
// database says the same. The acts that end every run of the domain are one number.
const (
	listSize = 1 << 20 // statuses in a list: 256 KiB, most of them zero

	listTTL   = 10 * time.Second
	listLife  = 60 * time.Second
	listFresh = time.Second // how long a list is handed out again as it is
)

// lists are the lists that were signed lately.
type lists struct {
	mu     sync.Mutex
	signed map[uint64]signedList
}

type signedList struct {
	at  time.Time
	jwt string
}

// maxLists bounds the cache.
const maxLists = 256

func (l *lists) get(n uint64, now time.Time) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.signed[n]
	if age := now.Sub(s.at); !ok || age < 0 || age >= listFresh {
		return "", false
	}
	return s.jwt, true
}

func (l *lists) put(n uint64, s signedList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signed == nil || len(l.signed) >= maxLists {
		l.signed = map[uint64]signedList{}
	}
	l.signed[n] = s
}

func overKey(run uint64) ledger.Key { return ledger.Key{Kind: kindOver, ID: fmt.Sprintf("%020d", run)} }

// puts writes the node, and that the run it was in is over if it has left it.
func (n *Node) puts(run uint64) []ledger.Put {
	out := []ledger.Put{put(kindNode, n.ID, n)}
	if run != 0 && run != n.Run {
		out = append(out, ledger.Put{Key: overKey(run), Value: encode(n.ID)})
	}
	return out
}

// listed is where the status of a run's tokens is told.
func (s *Service) listed(run uint64) token.Listed {
	return token.Listed{List: token.Place{Index: run % listSize, URI: s.StatusListURI(run / listSize)}}
}

// StatusListURI is where the n-th status list is.
func (s *Service) StatusListURI(n uint64) string {
	return s.cfg.Issuer + "/v1/status-lists/" + strconv.FormatUint(n, 10)
}

// StatusLists is how many lists there are.
func (s *Service) StatusLists() uint64 { return s.log.Size()/listSize + 1 }

// StatusList returns the n-th list, signed, as of a moment ago (statuslist+jwt).
func (s *Service) StatusList(ctx context.Context, n uint64) (string, error) {
	if err := s.sound(); err != nil {
		return "", err
	}
	if n > s.StatusLists() { // another verifier may be ahead by one
		return "", protocol.Refuse(protocol.NotFound, "there is no status list %d", n)
	}
	now := s.cfg.Now() // before reading: what is newer is missing at most
	if jwt, ok := s.lists.get(n, now); ok {
		return jwt, nil
	}
	l := token.NewStatusList(listSize)
	l.URI, l.IssuedAt, l.Expires, l.TTL = s.StatusListURI(n), now.Unix(), now.Add(listLife).Unix(), int64(listTTL.Seconds())
	if err := s.fill(ctx, l, n*listSize); err != nil {
		return "", fmt.Errorf("reading the statuses of list %d: %w", n, err)
	}
	key, err := s.signer(s.published.Load().signer)
	if err != nil {
		return "", err
	}
	jwt, err := token.IssueStatusList(l, key, s.cfg.Rand)
	if err != nil {
		return "", err
	}
	s.lists.put(n, signedList{now, jwt})
	return jwt, nil
}

// fill marks the runs from first on that are over.
func (s *Service) fill(ctx context.Context, l *token.StatusList, first uint64) error {
	after := ""
	if first > 0 {
		after = overKey(first - 1).ID
	}
	for last := overKey(first + listSize - 1).ID; ; {
		rows, err := s.log.List(ctx, kindOver, after, 1000)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Key.ID > last {
				break
			}
			run, err := strconv.ParseUint(r.Key.ID, 10, 64)
			if err != nil {
				return fmt.Errorf("reading the end of run %s: %w", r.Key.ID, err)
			}
			l.Set(run-first, token.Invalid)
		}
		if len(rows) < 1000 || rows[len(rows)-1].Key.ID > last {
			break
		}
		after = rows[len(rows)-1].Key.ID
	}
	d, err := s.domainState(ctx)
	if err != nil {
		return err
	}
	for run := first; run < first+listSize && (d.Frozen || run < d.Since); run++ {
		l.Set(run-first, token.Invalid)
	}
	return nil
}
