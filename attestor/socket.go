package attestor

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// SocketPath is where the agent listens and its clients look: /run/writ for
// root, the user's runtime directory otherwise.
func SocketPath() string {
	if os.Getuid() != 0 {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			return filepath.Join(dir, "writ", "agent.sock")
		}
	}
	return "/run/writ/agent.sock"
}

// Socket says who may talk to the agent: root, the agent's own user, and these.
type Socket struct {
	Path string
	UIDs []uint32
}

// Listen opens the socket. A socket left behind by an agent that is gone is
// replaced; one that answers is not.
func (s Socket) Listen() (net.Listener, error) {
	if dir := filepath.Dir(s.Path); dir == filepath.Dir(SocketPath()) { // ours to make; others are for whoever names them
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("opening the agent socket: %w", err)
		}
	}
	if i, err := os.Lstat(s.Path); err == nil && i.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("opening the agent socket: %s is not a socket; name another path with --socket", s.Path)
	}
	if c, err := net.Dial("unix", s.Path); err == nil {
		c.Close()
		return nil, fmt.Errorf("opening the agent socket: another agent answers at %s", s.Path)
	}
	if err := os.Remove(s.Path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("opening the agent socket: %w", err)
	}
	l, err := net.Listen("unix", s.Path)
	if err != nil {
		return nil, fmt.Errorf("opening the agent socket: %w", err)
	}
	// Who may connect is decided by peer credentials, not by the file's mode.
	if err := os.Chmod(s.Path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the agent socket: %w", err), l.Close())
	}
	return l, nil
}

type peerKey struct{}

// handler answers the clients that s lets in. Watches end with ctx.
func (a *Agent) handler(ctx context.Context, s Socket) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", a.serveStatus)
	mux.HandleFunc("GET /v1/token", a.serveToken)
	mux.HandleFunc("GET /v1/bearer", a.serveBearer)
	mux.HandleFunc("GET /v1/bound", a.serveBound)
	mux.HandleFunc("POST /v1/svid", a.serveSVID)
	mux.HandleFunc("GET /v1/spiffe-bundle", a.serveBundle)
	mux.HandleFunc("POST /v1/lease", a.serveLease)
	mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) { a.serveWatch(ctx, w, r) })
	mux.HandleFunc("POST /v1/stops", a.serveStop)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peerKey{}).(uint32); !ok || !s.allowed(uid) {
			answer(w, http.StatusForbidden, problem{Type: "about:blank", Title: "peer-not-allowed", Status: 403, Detail: "this user may not talk to the agent; start it with --allow-uid"})
			return
		}
		if len(r.Header.Values("Authorization"))+len(r.Header.Values("DPoP")) > 0 {
			w.Header().Set("WWW-Authenticate", `DPoP error="invalid_token", algs="ES256"`)
			answer(w, http.StatusUnauthorized, problem{Type: "about:blank", Title: "no-credential", Status: 401, Detail: "the agent knows its clients by their user: a token is no credential here, show none"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Serve answers local clients on l until ctx is done.
func (a *Agent) Serve(ctx context.Context, l net.Listener, s Socket) error {
	srv := &http.Server{
		Handler:           a.handler(ctx, s),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if uid, err := peerUID(c); err == nil {
				return context.WithValue(ctx, peerKey{}, uid)
			}
			return ctx
		},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the agent socket: %w", err)
	}
	return nil
}

func (s Socket) allowed(uid uint32) bool {
	return uid == 0 || uid == uint32(os.Getuid()) || slices.Contains(s.UIDs, uid)
}

// peerUID asks the kernel who is at the other end.
func peerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return cred.Uid, nil
}

// problem is RFC 9457 problem details.
type problem struct {
	Type   string   `json:"type"`
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Detail string   `json:"detail"`
	Events []string `json:"events,omitempty"` // signed: what a keeper may act on
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	if _, ok := v.(problem); ok {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
}

// fail maps an error to an answer: a refusal is the verifier's no (403), all
// else means that no answer was had (503).
func fail(w http.ResponseWriter, err error) {
	p := problem{Type: "about:blank", Title: "verifier-unreachable", Status: http.StatusServiceUnavailable, Detail: err.Error()}
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
		p.Title, p.Status, p.Detail = r.Code, http.StatusForbidden, r.Detail
		if r.Denied != nil {
			p.Events = r.Denied.Events
		}
	}
	answer(w, p.Status, p)
}

func (a *Agent) serveStatus(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, a.Status())
}

// serveToken gives a token for an audience, without an execution, and with a
// proof of possession for one request if htm and htu say which. There is none for
// the enclave's audience: such a proof could speak to the verifier as the agent.
func (a *Agent) serveToken(w http.ResponseWriter, r *http.Request) {
	audience := r.URL.Query().Get("audience")
	if audience == "" {
		audience = "spiffe://" + a.cfg.Enrolment.Domain + "/enclave"
	}
	method, target := r.URL.Query().Get("htm"), r.URL.Query().Get("htu")
	if (method != "" || target != "") && audience == "spiffe://"+a.cfg.Enrolment.Domain+"/enclave" {
		answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: "a proof is made only for an audience that is not the domain's enclave"})
		return
	}
	g, err := a.Lease(r.Context(), evidence.Request{Audience: audience, Level: a.cfg.Level, R: random(32), ID: random(16)})
	if err != nil {
		fail(w, err)
		return
	}
	var out struct {
		*protocol.Grant
		Proof string `json:"proof,omitempty"`
	}
	out.Grant = g
	if method != "" || target != "" {
		key, _ := a.holder()
		if out.Proof, err = token.NewProof(token.Call{Method: method, URL: target, Token: g.Token}, key, time.Now(), rand.Reader); err != nil {
			answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: err.Error()})
			return
		}
	}
	answer(w, http.StatusOK, out)
}

// serveBearer exchanges the node's token for one that needs no proof. Only root and the
// agent's own user get it: others are let in to run work, not to be the node.
func (a *Agent) serveBearer(w http.ResponseWriter, r *http.Request) {
	if uid, ok := r.Context().Value(peerKey{}).(uint32); !ok || !(Socket{}).allowed(uid) {
		answer(w, http.StatusForbidden, problem{Type: "about:blank", Title: "peer-not-allowed", Status: 403, Detail: "only root and the agent's own user get bearer tokens"})
		return
	}
	out, err := a.Bearer(r.Context(), r.URL.Query().Get("audience"), r.URL.Query().Get("workload"))
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}

// serveSVID gets an X509-SVID, for those alone who get bearer tokens.
func (a *Agent) serveSVID(w http.ResponseWriter, r *http.Request) {
	if uid, ok := r.Context().Value(peerKey{}).(uint32); !ok || !(Socket{}).allowed(uid) {
		answer(w, http.StatusForbidden, problem{Type: "about:blank", Title: "peer-not-allowed", Status: 403, Detail: "only root and the agent's own user get X509-SVIDs"})
		return
	}
	body, ok := read(w, r)
	if !ok {
		return
	}
	var req protocol.SVIDRequest
	if err := json.Unmarshal(body, &req); err != nil {
		answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: err.Error()})
		return
	}
	out, err := a.SVID(r.Context(), req)
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}

// serveBundle hands on the SPIFFE bundle of the domain.
func (a *Agent) serveBundle(w http.ResponseWriter, r *http.Request) {
	b, err := a.SPIFFEBundle(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, json.RawMessage(b))
}

// serveLease gives a keeper the token it asks for. The keeper checks it; the
// agent only carries it.
func (a *Agent) serveLease(w http.ResponseWriter, r *http.Request) {
	body, ok := read(w, r)
	if !ok {
		return
	}
	var req evidence.Request
	if err := json.Unmarshal(body, &req); err != nil {
		answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: err.Error()})
		return
	}
	req.Keeper = r.Header.Get("Writ-Keeper")
	if req.Audience == "" {
		req.Audience = "spiffe://" + a.cfg.Enrolment.Domain + "/enclave"
	}
	if _, err := evidence.ParseRequest(req.Marshal()); err != nil {
		answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: err.Error()})
		return
	}
	g, err := a.Lease(r.Context(), req)
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, struct {
		*protocol.Grant
		Keys []rotation.Entry `json:"keys,omitempty"` // by which a keeper comes to know the token's key
	}{g, a.keys.proven()})
}

func (a *Agent) serveStop(w http.ResponseWriter, r *http.Request) {
	body, ok := read(w, r)
	if !ok {
		return
	}
	var told struct {
		Statement string `json:"statement"`
	}
	err := json.Unmarshal(body, &told)
	var stop bundle.Stop
	if err == nil {
		stop, _, err = bundle.OpenStop(told.Statement)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: err.Error()})
		return
	}
	if err := a.Stopped(stop); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		answer(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "request-malformed", Status: 400, Detail: err.Error()})
		return nil, false
	}
	return raw, true
}

// heartbeat tells watchers that the stream lives.
const heartbeat = 5 * time.Second

// serveWatch streams pushes as server-sent events. A keeper says which execution
// it watches for; when it vanishes, the agent speaks for it.
func (a *Agent) serveWatch(serving context.Context, w http.ResponseWriter, r *http.Request) {
	if end := (bundle.Stop{Exec: r.URL.Query().Get("exec"), Level: r.URL.Query().Get("level"), Cause: causeKilled}); end.Check() == nil {
		a.keepers.came(end.Exec)
		defer func() {
			a.keepers.left(end.Exec)
			go a.await(serving, end) // not if it is we who leave: the keeper turns to our successor
		}()
	}
	pushes, cancel := a.Watch()
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		var err error
		if err = flush.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			_, err = fmt.Fprint(w, ": alive\n\n")
		case p := <-pushes:
			switch {
			case p.Renewed:
				_, err = fmt.Fprint(w, "event: renewed\ndata: {}\n\n")
			case p.Keys != nil:
				_, err = fmt.Fprintf(w, "event: keys\ndata: %s\n\n", encodeKeys(p.Keys))
			default:
				_, err = fmt.Fprintf(w, "event: revocation\ndata: %s\n\n", p.Event)
			}
		}
		if err != nil {
			return
		}
	}
}
