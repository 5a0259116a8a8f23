package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

func (s *Server) enroll(q *call) error {
	var req protocol.EnrollRequest
	if err := q.decode(&req); err != nil {
		return err
	}
	out, err := s.svc.Enroll(q.Request().Context(), req)
	if err != nil {
		return err
	}
	return q.answer(out)
}

func (s *Server) activate(q *call) error {
	var a protocol.Activation
	if err := q.decode(&a); err != nil {
		return err
	}
	out, err := s.svc.Activate(q.Request().Context(), q.Param("id"), a.Secrets)
	if err != nil {
		return err
	}
	return q.answer(out)
}

func (s *Server) challenge(q *call) error {
	var req protocol.ChallengeRequest
	if err := q.decode(&req); err != nil {
		return err
	}
	out, err := s.svc.Challenge(q.Request().Context(), req.Node, req.Checkpoint)
	if err != nil {
		return err
	}
	return q.answer(out)
}

func (s *Server) attest(q *call) error {
	start := time.Now()
	out, err := s.svc.Attest(q.Request().Context(), q.body)
	s.metrics.attested(q.body, out, err, time.Since(start), s.cfg.Now())
	if err != nil {
		return err
	}
	return q.answer(out)
}

func (s *Server) token(q *call) error {
	req, err := evidence.ParseRequest(q.body)
	if err != nil {
		return malformed("%v", err)
	}
	out, err := s.svc.Bound(q.Request().Context(), q.claims, req, q.x5t)
	if err != nil {
		return err
	}
	s.metrics.issued.WithLabelValues("legitimacy").Inc()
	return q.answer(out)
}

func (s *Server) stopped(q *call) error {
	var stop bundle.Stop
	if err := q.decode(&stop); err != nil {
		return err
	}
	receipt, err := s.svc.Stopped(q.Request().Context(), q.claims, stop)
	if err != nil {
		return err
	}
	s.metrics.stopped(stop)
	return q.answer(protocol.Stopped{Receipt: receipt})
}

// Event streams.
const (
	heartbeat = 5 * time.Second
	writeTime = 10 * time.Second // for one event or heartbeat

	standingCalm = 500 * time.Millisecond
)

// events streams a node's signed events until its token has expired or was
// ended: then the one that says so is the last.
func (s *Server) events(q *call) error {
	id := q.Param("id")
	if q.claims.Subject != s.svc.NodeSubject(id) {
		return &httpError{status: http.StatusForbidden, code: codeRole, detail: "a node follows its own events only"}
	}
	ctx := q.Request().Context()
	events, cancel := s.svc.Events(id)
	defer cancel()
	// Once more, now that nothing can be missed any more.
	event, ended, err := s.svc.Ended(ctx, q.claims)
	if err != nil {
		return err
	}
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	st := stream{w: q.Response(), control: http.NewResponseController(q.Response())}
	if err := st.begin(); err != nil {
		return err
	}
	if ended {
		return st.event(event)
	}
	ctx, expire := context.WithTimeout(ctx, time.Unix(q.claims.Expires, 0).Sub(s.cfg.Now()))
	defer expire()
	s.follow(ctx, st, events, func(m verifier.Message) bool { return s.ends(m, q.claims, q.kid) })
	return nil
}

// feed streams the events about all nodes. It begins with those said before that
// may still matter, and with the time since when there are no others.
func (s *Server) feed(q *call) error {
	ctx := q.Request().Context()
	past, since, events, cancel, err := s.svc.Feed(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	st := stream{w: q.Response(), control: http.NewResponseController(q.Response())}
	if err := st.begin(); err != nil {
		return err
	}
	if proven := s.svc.PublicKeys().Proven; len(proven) > 0 {
		encoded, err := json.Marshal(proven)
		if err != nil {
			return err
		}
		if err := st.message(verifier.Message{Kind: "keys", Data: string(encoded)}); err != nil {
			return nil
		}
	}
	for _, event := range past {
		if err := st.event(event); err != nil {
			return nil // the other end has gone
		}
	}
	if err := st.write(fmt.Sprintf("event: since\ndata: %d\n\n", since.Unix())); err != nil {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go s.whileStanding(ctx, q, stop)
	s.follow(ctx, st, events, func(verifier.Message) bool { return false })
	return nil
}

// whileStanding calls stop when the operator of a stream is revoked: a stream was asked
// for once, and may last for days.
func (s *Server) whileStanding(ctx context.Context, q *call, stop func()) {
	for {
		grown := s.svc.Log().Changed()
		if err := s.standing(q, q.may); err != nil {
			stop()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-grown:
		}
		select { // a busy log is not looked at for each entry
		case <-ctx.Done():
			return
		case <-time.After(standingCalm):
		}
	}
}

// follow hands on events until one is the last, the reader does not keep up, or
// either end goes.
func (s *Server) follow(ctx context.Context, st stream, events <-chan verifier.Message, last func(verifier.Message) bool) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-s.stopping:
			return
		case <-beat.C:
			if s.svc.Deaf() { // silence would pass for good news
				return
			}
			err = st.write(": alive\n\n")
		case event, ok := <-events:
			if !ok {
				return
			}
			if err = st.message(event); err == nil && last(event) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// ends reports whether what was said ends a token: an event of ours, or that the key
// that signed it counts no more.
func (s *Server) ends(m verifier.Message, c *token.Claims, kid string) bool {
	if m.Kind == "keys" {
		return s.svc.TokenKeys().Key(kid) == nil
	}
	e, err := token.VerifyEvent(m.Data, s.svc.TokenKeys(), token.Expect{Issuer: s.svc.Issuer(), Domain: s.svc.Domain(), Audience: s.svc.EnclaveAudience()}, s.cfg.Now())
	return err == nil && e.Ends(c)
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (st stream) begin() error {
	st.w.Header().Set("Content-Type", mediaEvents)
	if err := errors.Join(st.control.SetReadDeadline(time.Time{}), st.control.SetWriteDeadline(time.Now().Add(writeTime))); err != nil {
		return fmt.Errorf("opening an event stream: %w", err)
	}
	st.w.WriteHeader(http.StatusOK)
	return st.write(": alive\n\n")
}

func (st stream) event(event string) error {
	return st.message(verifier.Message{Kind: "revocation", Data: event})
}

func (st stream) message(m verifier.Message) error {
	if strings.ContainsAny(m.Data, "\r\n") {
		panic("api: an event is not one line")
	}
	return st.write("event: " + m.Kind + "\ndata: " + m.Data + "\n\n")
}

func (st stream) write(text string) error {
	if err := st.control.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	if _, err := st.w.Write([]byte(text)); err != nil {
		return err
	}
	return st.control.Flush()
}
