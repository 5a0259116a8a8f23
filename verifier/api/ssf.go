package api

import (
	"errors"
	"net/http"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/ssf"
)

// ssfRoutes are those of the transmitter of shared signals, where the domain has
// streams. Operators make streams in the configuration; a receiver reads its own.
func (s *Server) ssfRoutes() []route {
	if !s.ssf.Any() {
		return nil
	}
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{method: get, path: "/.well-known/ssf-configuration", auth: public, out: mediaJSON, name: "ssfConfiguration", about: "Transmitter configuration metadata (SSF 1.0).", handle: s.ssfMetadata},
		{method: get, path: "/ssf/streams", auth: operator, roles: parties, query: "stream_id", out: mediaJSON, name: "ssfStream", about: "The caller's stream (SSF 1.0).", handle: s.ssfStream},
		{method: get, path: "/ssf/status", auth: operator, roles: parties, query: "stream_id", out: mediaJSON, name: "ssfStatus", about: "The status of the caller's stream (SSF 1.0).", handle: s.ssfStatus},
		{method: post, path: "/ssf/verify", auth: operator, roles: parties, in: mediaJSON, max: maxMessage, name: "ssfVerify", about: "Ask for a verification event (SSF 1.0).", takes: protocol.VerifyStream{}, handle: s.ssfVerify},
		{method: post, path: "/ssf/poll/:id", auth: operator, roles: parties, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "ssfPoll", about: "Get signed security events, and say which have arrived (RFC 8936).", takes: protocol.PollRequest{}, gives: protocol.Polled{}, handle: s.ssfPoll},
	}
}

func (s *Server) ssfMetadata(q *call) error {
	q.cache("public, max-age=300")
	return q.answer(ssf.Metadata(s.svc.Issuer()))
}

// own is the caller's stream; id "" is any of them.
func (s *Server) own(q *call, id string) (*ssf.Stream, error) {
	st, err := s.ssf.Stream(id, q.may.Name)
	if errors.Is(err, ssf.ErrNoStream) {
		return nil, protocol.Refuse(protocol.NotFound, "operator %s has no such stream; the domain's operators list streams in the configuration", q.may.Name)
	}
	return st, err
}

func (s *Server) ssfStream(q *call) error {
	id := q.QueryParam("stream_id")
	st, err := s.own(q, id)
	if err != nil {
		return err
	}
	if id == "" { // SSF 1.0 section 8.1.1.2: then all of them
		return q.answer([]any{st.Describe(s.svc.Issuer())})
	}
	return q.answer(st.Describe(s.svc.Issuer()))
}

func (s *Server) ssfStatus(q *call) error {
	st, err := s.own(q, q.QueryParam("stream_id"))
	if err != nil {
		return err
	}
	return q.answer(map[string]string{"stream_id": st.ID, "status": "enabled"})
}

func (s *Server) ssfVerify(q *call) error {
	var req protocol.VerifyStream
	if err := q.decode(&req); err != nil {
		return err
	}
	if req.ID == "" || len(req.State) > 256 {
		return malformed("stream_id is needed, and a state of at most 256 bytes")
	}
	st, err := s.own(q, req.ID)
	if err == nil {
		err = s.ssf.Verify(q.Request().Context(), st, req.State)
	}
	if err != nil {
		return err
	}
	return q.NoContent(http.StatusNoContent)
}

func (s *Server) ssfPoll(q *call) error {
	var req protocol.PollRequest
	if err := q.decode(&req); err != nil {
		return err
	}
	st, err := s.own(q, q.Param("id"))
	if err != nil {
		return err
	}
	if st.Push != "" {
		return protocol.Refuse(protocol.NotFound, "the stream is pushed, not polled")
	}
	out, err := s.ssf.Poll(q.Request().Context(), st, req)
	if err != nil {
		return err
	}
	return q.answer(out)
}
