package ssf

import (
	"context"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/protocol"
)

const (
	defaultEvents = 32
	patience      = 10 * time.Second // of a receiver that waits
)

// Poll takes what a receiver says that it has, and gives what is due (RFC 8936). It
// waits for something unless it is told to return at once.
func (t *Transmitter) Poll(ctx context.Context, s *Stream, req protocol.PollRequest) (*protocol.Polled, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := t.cfg.Service.Stream(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	for id, e := range req.Errors { // it will not take them another time either
		t.cfg.Slog.WarnContext(ctx, "a receiver refused a notice", "stream", s.ID, "jti", id, "error", e.Code, "description", e.Description)
		req.Ack = append(req.Ack, id)
	}
	if len(req.Ack) > 0 {
		if st, err = t.acknowledge(ctx, s, st, req.Ack); err != nil {
			return nil, err
		}
	}
	want := defaultEvents
	if req.Most != nil {
		want = min(*req.Most, most)
	}
	for stored := st.Next; ; {
		grown := t.cfg.Service.Log().Changed()
		sets, next, err := t.due(ctx, s, st)
		if err != nil {
			return nil, err
		}
		if len(sets) > 0 || want <= 0 || req.Immediately {
			if len(sets) == 0 && next-stored >= ahead {
				_, err = t.cfg.Service.MoveStream(ctx, s.ID, func(now *verifier.StreamState) bool {
					now.Next = max(now.Next, next)
					return true
				})
			}
			if err != nil {
				return nil, err
			}
			return t.polled(sets, max(want, 0))
		}
		st.Next = next
		select {
		case <-grown:
		case <-ctx.Done():
			return t.polled(nil, 0)
		}
	}
}

func (t *Transmitter) polled(sets []due, want int) (*protocol.Polled, error) {
	out := &protocol.Polled{Sets: map[string]string{}, More: len(sets) > want}
	for _, d := range sets[:min(want, len(sets))] {
		set, err := t.cfg.Service.Notice(d.notice)
		if err != nil {
			return nil, err
		}
		out.Sets[d.notice.ID] = set
	}
	return out, nil
}

// acknowledge moves a stream past what its receiver has. Ids of notices that are not
// due are forgotten.
func (t *Transmitter) acknowledge(ctx context.Context, s *Stream, st verifier.StreamState, ids []string) (verifier.StreamState, error) {
	bare := st
	bare.Acked = nil
	all, next, err := t.due(ctx, s, bare)
	if err != nil {
		return st, err
	}
	return t.cfg.Service.MoveStream(ctx, s.ID, func(now *verifier.StreamState) bool {
		if now.Next != st.Next { // another poll of the same receiver was faster
			return false
		}
		has := append(slices.Clone(now.Acked), ids...)
		now.Acked = nil
		open := next // the first entry of which something is due yet
		for _, d := range all {
			have := slices.Contains(has, d.notice.ID)
			switch verification := d.notice.ID == s.id(now.Asked, d.notice.Type) && d.notice.Subject == s.ID; {
			case verification && have:
				now.Verified = now.Asked
			case verification:
			case have:
				now.Acked = append(now.Acked, d.notice.ID)
			default:
				open = min(open, d.index)
			}
		}
		now.Next = open
		now.Acked = slices.DeleteFunc(now.Acked, func(id string) bool {
			return slices.ContainsFunc(all, func(d due) bool { return d.notice.ID == id && d.index < open })
		})
		return true
	})
}
