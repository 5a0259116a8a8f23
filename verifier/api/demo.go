package api

import (
	"context"
	"net/http"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// demoRoutes are what the page demo asks for, where somebody plays it: in `writ dev`
// and nowhere else.
func (s *Server) demoRoutes() []route {
	if s.cfg.Demo == nil {
		return nil
	}
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{method: get, path: "/demo/state", auth: public, stream: true, out: mediaEvents, name: "demoState", about: "Follow the demonstration.", handle: s.demoState},
		{method: get, path: "/demo/domain", auth: public, out: mediaJSON, name: "demoDomain", about: "The trust file of the demonstration's own domain.", handle: s.demo},
		{method: get, path: "/demo/entries/:id", auth: public, out: mediaJSON, name: "demoEntry", about: "An entry of the demonstration's log, with its receipt.", handle: s.demo},
		{method: post, path: "/demo/acts/:id", auth: public, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "demoAct", about: "Act in the demonstration; from its own page only.", handle: s.demoAct},
	}
}

// demo hands a request on, without what it carried: no credential counts there. What
// another site made a reader's browser send is refused, were it only to look.
func (s *Server) demo(q *call) error {
	if !ownPage(q.Request()) {
		return foreign
	}
	r := q.Request().Clone(q.Request().Context())
	r.Header, r.Body, r.ContentLength = http.Header{}, http.NoBody, 0
	s.cfg.Demo.ServeHTTP(q.Response(), r)
	return nil
}

// demoState streams until the reader goes or this server stops.
func (s *Server) demoState(q *call) error {
	ctx, cancel := context.WithCancel(q.Request().Context())
	defer cancel()
	go func() {
		select {
		case <-ctx.Done():
		case <-s.stopping:
			cancel()
		}
	}()
	if err := http.NewResponseController(q.Response()).SetReadDeadline(time.Time{}); err != nil { // of the request, which is whole
		return err
	}
	q.SetRequest(q.Request().WithContext(ctx))
	return s.demo(q)
}

// demoAct refuses besides what lacks the header that no form can set and no site may
// without being asked first.
func (s *Server) demoAct(q *call) error {
	if token := q.Request().Header.Values("Writ-Demo"); len(token) != 1 || token[0] != "1" {
		return foreign
	}
	return s.demo(q)
}

var foreign = &httpError{status: http.StatusForbidden, code: protocol.RequestRefused, detail: "only the page demo of this server acts here: send its header Writ-Demo: 1, from its own origin"}
