package verifier

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// Occurrence is an entry of the log that changed whether tokens count, or a node is
// legitimate: whichever verifier wrote it, as all of them read it.
type Occurrence struct {
	Index   uint64
	At      int64  // Unix seconds
	Kind    string // of the entry
	Node    string // "" for the whole domain
	Subject string // as tokens name the node, or spiffe://<domain>
	Seq     uint64 // tokens of the node up to this one are over
	Epoch   uint64 // of the domain from now on, if it is about the domain
	Cause   string
	Reason  string
	By      string // in the words of CAEP: admin, user, policy or system

	deadline int64 // of a grant
}

// occurrences are the kinds of entries that are one.
var occurrences = []string{bundle.Revoked, bundle.Decided, bundle.Lapsed, bundle.Issued, bundle.Frozen, bundle.KeyWithdrawn}

// Occurrences reads the log from an index on, a piece at a time, and returns where to
// go on: the log's size when it has been read.
func (s *Service) Occurrences(ctx context.Context, from uint64) (out []Occurrence, next uint64, err error) {
	found, next, err := s.log.Find(ctx, from, occurrences...)
	if err != nil {
		return nil, from, err
	}
	for _, f := range found {
		o, ok, err := s.occurrence(ctx, f)
		if err != nil {
			return nil, from, fmt.Errorf("reading entry %d: %w", f.Index, err)
		}
		if ok {
			out = append(out, o)
		}
	}
	return out, next, nil
}

// occurrence reads an entry; ok is false for one about a node that is not known by
// its pseudonym.
func (s *Service) occurrence(ctx context.Context, f ledger.Found) (o Occurrence, ok bool, err error) {
	o = Occurrence{Index: f.Index, At: f.Leaf.At, Kind: f.Leaf.Kind, Subject: "spiffe://" + s.cfg.Domain, By: "admin"}
	commitment := ""
	switch f.Leaf.Kind {
	case bundle.Frozen:
		g, err := dataOf[bundle.Governance](f.Leaf)
		if err != nil {
			return o, false, err
		}
		o.Epoch, o.Cause, commitment = g.Epoch, "frozen", g.Reason
	case bundle.KeyWithdrawn:
		w, err := dataOf[rotation.Withdrawal](f.Leaf)
		if err != nil {
			return o, false, err
		}
		o.Epoch, o.Cause, commitment = w.Epoch, "key-withdrawn", w.Reason
	default:
		if o.Node, ok, err = s.named(ctx, f.Leaf.Subject); err != nil || !ok {
			return o, false, err
		}
		o.Subject = s.NodeSubject(o.Node)
		if commitment, err = s.ofNode(&o, f.Leaf); err != nil {
			return o, false, err
		}
	}
	if o.Reason, err = s.opened(ctx, commitment); err != nil {
		return o, false, err
	}
	if o.Reason == "" {
		o.Reason = o.Cause
	}
	return o, true, nil
}

// named is NodeBySubject, also for nodes enrolled before their pseudonyms were kept.
func (s *Service) named(ctx context.Context, subject string) (string, bool, error) {
	id, ok, err := s.NodeBySubject(ctx, subject)
	if err != nil || ok {
		return id, ok, err
	}
	s.acts.old.Lock()
	defer s.acts.old.Unlock()
	if s.acts.names == nil {
		names := map[string]string{}
		for after := ""; ; {
			page, err := s.log.List(ctx, kindNode, after, 1000)
			if err != nil {
				return "", false, err
			}
			for _, r := range page {
				after = r.Key.ID
				names[s.Subject(after)] = after
			}
			if len(page) < 1000 {
				break
			}
		}
		s.acts.names = names
	}
	id, ok = s.acts.names[subject]
	return id, ok, nil
}

// ofNode completes an occurrence about a node.
func (s *Service) ofNode(o *Occurrence, leaf ledger.Leaf) (commitment string, err error) {
	switch leaf.Kind {
	case bundle.Revoked:
		st, err := dataOf[bundle.Status](leaf)
		if o.Seq, o.Cause = st.Seq, st.To; st.To == Active {
			o.Cause = "ended"
		}
		if leaf.Actor == bundle.Subject(s.cfg.Domain, "node/"+o.Node) {
			o.By = "user"
		}
		return st.Reason, err
	case bundle.Lapsed:
		l, err := dataOf[bundle.Lapse](leaf)
		o.Seq, o.Cause, o.Reason, o.By = l.Seq, "lapsed", "no token followed the one that expired", "system"
		return "", err
	}
	d, err := dataOf[bundle.Decision](leaf)
	o.By = "policy"
	if o.Cause, o.Reason, o.Seq = "denied", "the node's evidence was denied", d.Seq; d.Token != nil {
		o.Cause, o.Reason, o.Seq, o.deadline = "granted", "", 0, d.Token.Expires
	}
	return "", err
}

// opened is the text of a commitment, "" when there is none or it was given up.
func (s *Service) opened(ctx context.Context, commitment string) (string, error) {
	if commitment == "" {
		return "", nil
	}
	o, _, err := row[struct {
		Text string `json:"text"`
	}](ctx, s, ledger.Key{Kind: kindOpening, ID: commitment})
	return o.Text, err
}

// follower reads what every verifier of the domain writes.
type follower struct {
	mu    sync.Mutex
	next  uint64 // entries below were read
	old   sync.Mutex
	names map[string]string // pseudonym -> id, of nodes that have no row for it; nil: not read yet

	live atomic.Int64 // when the store last answered, in Unix seconds; 0: nobody follows
}

const (
	// recall is how many entries are read back at the start for what may still matter.
	recall = 20_000
	// gather is how long to wait for more before reading again.
	gather = 5 * time.Millisecond
	// deaf is how long the store may be silent before nobody is told that all is well.
	deaf = 10 * time.Second
)

// Follow tells whoever listens of acts that other verifiers of the domain did, within
// milliseconds of their commit, until ctx is done. It begins with what was done
// before and may still matter.
func (s *Service) Follow(ctx context.Context) {
	began := false
	for {
		grown := s.log.Changed()
		err := error(nil)
		if !began {
			if err = s.recallActs(ctx); err == nil {
				began = true
			}
		}
		if err == nil {
			err = s.readActs(ctx)
		}
		if err == nil {
			_, err = s.domainState(ctx) // that the store still answers, though nothing grows
		}
		if err == nil {
			s.acts.live.Store(s.cfg.Now().Unix())
		} else if ctx.Err() == nil {
			s.cfg.Slog.WarnContext(ctx, "following the log", "error", err)
		}
		pause := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
			continue
		case <-grown:
			pause.Reset(gather)
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// Deaf reports that acts of other verifiers may be going unheard here.
func (s *Service) Deaf() bool {
	live := s.acts.live.Load()
	return live != 0 && s.cfg.Now().Sub(time.Unix(live, 0)) > deaf
}

// recallActs publishes what was said before this process began.
func (s *Service) recallActs(ctx context.Context) error {
	s.acts.mu.Lock()
	defer s.acts.mu.Unlock()
	cut := s.cfg.Now().Add(-token.MaxLife).Unix()
	from, err := s.log.FirstAt(ctx, cut)
	if err != nil {
		return err
	}
	since := max(cut, 1)
	if size := s.log.Size(); size > recall && from < size-recall {
		from = size - recall
		found, err := s.log.Entry(ctx, from)
		if err != nil {
			return err
		}
		leaf, err := ledger.ParseLeaf(found)
		if err != nil {
			return err
		}
		since = leaf.At + 1 // what was before may have ended tokens of that second
	}
	s.acts.next = from
	if err := s.read(ctx); err != nil {
		return err
	}
	if since < s.since.Load() {
		s.since.Store(since)
	}
	return nil
}

func (s *Service) readActs(ctx context.Context) error {
	s.acts.mu.Lock()
	defer s.acts.mu.Unlock()
	return s.read(ctx)
}

// read publishes the entries up to the head. The lock must be held.
func (s *Service) read(ctx context.Context) error {
	for s.acts.next < s.log.Size() {
		out, next, err := s.Occurrences(ctx, s.acts.next)
		if err != nil {
			return err
		}
		for _, o := range out {
			if err := s.tell(ctx, o); err != nil {
				return err
			}
		}
		s.acts.next = next
	}
	return nil
}

// tell publishes an occurrence, unless this process did the act and has.
func (s *Service) tell(ctx context.Context, o Occurrence) error {
	switch o.Kind {
	case bundle.Issued:
		s.deadlines.note(o.Node, o.deadline)
	case bundle.Frozen:
		return s.tellFrozen(ctx, o.Index, o.Reason)
	case bundle.Revoked, bundle.Decided:
		if o.Cause == "granted" || s.hub.knows(o.Index) {
			return nil
		}
		event, err := s.signed(ctx, token.Event{Subject: o.Subject, Seq: o.Seq, Cause: o.Cause, Reason: o.Reason})
		if err != nil {
			return err
		}
		s.hub.publish(o.Index, o.Node, event, time.Unix(o.At, 0))
	}
	return nil // a lapse tells nobody anything new, and of keys refreshKeys does
}
