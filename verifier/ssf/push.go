package ssf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	turn    = 30 * time.Second // for which a verifier pushes, unless it says so again
	look    = 5 * time.Second  // between looks whether it is our turn
	ahead   = 4096             // entries without a notice after which the place in the log is stored
	mediaJW = "application/secevent+jwt"
)

var errNotOurs = errors.New("another verifier pushes")

// push delivers what is due to one receiver, in order, again and again until it is
// taken.
func (t *Transmitter) push(ctx context.Context, s *Stream) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 500*time.Millisecond, time.Minute
	from := uint64(0) // entries below were looked through
	for ctx.Err() == nil {
		grown := t.cfg.Service.Log().Changed()
		next, sent, err := t.deliver(ctx, s, from)
		wait := look
		switch {
		case errors.Is(err, errNotOurs):
		case err != nil && ctx.Err() == nil:
			wait = retry.NextBackOff()
			t.cfg.Slog.WarnContext(ctx, "pushing notices", "stream", s.ID, "error", err, "retry_in", wait.Round(time.Millisecond))
			grown = nil // what is new changes nothing for a receiver that is away
		case sent > 0:
			retry.Reset()
			from = next
			continue
		default:
			from = next
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-grown:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// deliver pushes one piece of what is due. next is up to where the log was looked
// through.
func (t *Transmitter) deliver(ctx context.Context, s *Stream, from uint64) (next uint64, sent int, err error) {
	st, err := t.cfg.Service.Stream(ctx, s.ID)
	if err != nil {
		return from, 0, err
	}
	if st.Owner != t.cfg.Service.Name() && st.Owner != "" && t.cfg.Now().Unix() < st.Until {
		return from, 0, errNotOurs
	}
	stored := st.Next
	st.Next = max(st.Next, from)
	sets, next, err := t.due(ctx, s, st)
	if err != nil {
		return from, 0, err
	}
	if len(sets) == 0 && next-stored < ahead {
		return next, 0, nil
	}
	if err := t.claim(ctx, s); err != nil { // also renews it: no second one pushes meanwhile
		return from, 0, err
	}
	verified := uint64(0)
	for _, d := range sets {
		if err := t.send(ctx, s, &d.notice); err != nil {
			return from, 0, err
		}
		if d.notice.Type == token.Verification {
			verified = st.Asked
		}
	}
	_, err = t.cfg.Service.MoveStream(ctx, s.ID, func(now *verifier.StreamState) bool {
		now.Next, now.Verified = max(now.Next, next), max(now.Verified, verified)
		now.Owner, now.Until = t.cfg.Service.Name(), t.cfg.Now().Add(turn).Unix()
		return true
	})
	return next, len(sets), err
}

// claim makes this verifier the one that pushes.
func (t *Transmitter) claim(ctx context.Context, s *Stream) error {
	ours := false
	_, err := t.cfg.Service.MoveStream(ctx, s.ID, func(st *verifier.StreamState) bool {
		name, now := t.cfg.Service.Name(), t.cfg.Now()
		ours = st.Owner == name || st.Owner == "" || now.Unix() >= st.Until
		if ours {
			st.Owner, st.Until = name, now.Add(turn).Unix()
		}
		return ours
	})
	if err == nil && !ours {
		err = errNotOurs
	}
	return err
}

// send delivers one notice (RFC 8935 section 2). What the receiver says it can never
// take counts as delivered.
func (t *Transmitter) send(ctx context.Context, s *Stream, n *token.Notice) error {
	set, err := t.cfg.Service.Notice(*n)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Push, strings.NewReader(set))
	if err != nil {
		return fmt.Errorf("pushing: %w", err)
	}
	req.Header.Set("Content-Type", mediaJW)
	req.Header.Set("Accept", "application/json")
	if s.Header != "" {
		req.Header.Set("Authorization", s.Header)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return fmt.Errorf("pushing: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("pushing: reading the answer: %w", err)
	}
	if resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusOK {
		return nil
	}
	var e struct {
		Code        string `json:"err"`
		Description string `json:"description"`
	}
	err = fmt.Errorf("pushing: the receiver answered %s", resp.Status)
	if resp.StatusCode != http.StatusBadRequest || json.Unmarshal(body, &e) != nil {
		return err
	}
	switch e.Code {
	case "invalid_request", "invalid_issuer", "invalid_audience", "invalid_key": // section 2.4; it may be set right there
		t.cfg.Slog.ErrorContext(ctx, "a receiver refused a notice; it goes on with the next", "stream", s.ID, "jti", n.ID, "error", e.Code, "description", e.Description)
		return nil
	}
	return fmt.Errorf("%w: %s: %.200s", err, e.Code, e.Description)
}

// Receiver is an HTTP client for pushes: bounded, and following no redirect.
func Receiver(transport *http.Transport) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
