// Package api serves a verifier over HTTP: TLS for nodes, operators and relying
// parties, and a loopback listener for whoever runs it.
//
// Every path is a line of one table (routes.go) that says who may call it; what
// has no line, or whose line has no class, is refused. A credential that is
// presented and fails is never treated as absent, and one of the wrong kind
// never as another. Answers that are no are RFC 9457 problems made by one
// function (problem.go), which sends nothing of our internals.
//
// Strangers may send what they like: evidence that is not authentic costs its
// sender's address its place in the queue, never a node's (queue.go).
package api

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/writ-attestation/writ/internal/replay"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/console"
	"github.com/writ-attestation/writ/verifier/fleet"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ssf"
)

// Limits that hold for every connection.
const (
	headerTime  = 10 * time.Second
	requestTime = 60 * time.Second // to send a request whole
	idleTime    = 2 * time.Minute
	maxHeaders  = 48 << 10 // bytes: a token and a proof
)

// Config is everything a Server needs.
type Config struct {
	Service *verifier.Service
	Keys    *keys.Keys
	Name    string // of this verifier within the domain, for its certificate
	// Hosts are the names and addresses under which the verifier is reached, for
	// its certificate. A proof of possession counts only if made for one of them;
	// requests for any other are refused. A port other than the listener's own is
	// given as host:port.
	Hosts         []string
	Streams       []ssf.Stream // of events to parties outside of the domain
	PublicEntries bool         // anybody may read the log's entries
	Pages         []string     // of [console.Names], the pages that are open
	// Demo plays what the page demo asks for: GET /demo/state (events),
	// /demo/domain and /demo/entries/ID, POST /demo/acts/ACT. nil: there is no
	// such thing, and no such path. For `writ dev`, on loopback alone.
	Demo http.Handler
	// PublicEvidence lets anybody see on open pages what evidence says: findings, and
	// what was measured at a node's boot. Operators who sign in see it in any case.
	PublicEvidence bool
	Version        string
	Revision       string
	Log            *slog.Logger
	Now            func() time.Time // nil: time.Now
}

// Server is a verifier on the network. Serve and ServeAdmin may be called once
// each.
type Server struct {
	cfg     Config
	svc     *verifier.Service
	hosts   map[string]bool
	tls     *tls.Config
	public  *http.Server
	admin   *http.Server
	queue   *queue
	bodies  bodies
	proofs  replay.Memory
	metrics *metrics
	ready   probe
	figures figures
	runs    *runs // nil while the page /lineage is closed
	far     abroad
	openapi []byte
	pages   *console.Pages

	sessions *sessions
	fleet    *fleet.Fleet // nil: the console is closed
	ssf      *ssf.Transmitter
	boots    *lane
	watchers watchers
	starting sync.Mutex     // of running, until stopping is closed
	running  sync.WaitGroup // what reads for the pages

	stopping chan struct{} // closed when Shutdown begins
	stop     sync.Once
}

// New makes a server. Nothing listens before Serve.
func New(cfg Config) (*Server, error) {
	if cfg.Service == nil || cfg.Keys == nil || cfg.Log == nil {
		return nil, errors.New("starting the API: a service, keys and a logger are needed")
	}
	if len(cfg.Hosts) == 0 {
		return nil, errors.New("starting the API: no name or address is given under which the verifier is reached")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, svc: cfg.Service, hosts: map[string]bool{}, queue: newQueue(), stopping: make(chan struct{})}
	var names []string
	for _, h := range cfg.Hosts {
		s.hosts[strings.ToLower(h)] = true
		if host, _, err := net.SplitHostPort(h); err == nil {
			h = host
		}
		names = append(names, h)
	}
	var err error
	if s.tls, err = cfg.Keys.ServerTLS(cfg.Name, names, cfg.Now); err != nil {
		return nil, fmt.Errorf("starting the API: %w", err)
	}
	// One request at a time on a connection, so that a connection is what limits
	// count; and so no multiplexing whose cost falls on us.
	s.tls.NextProtos = []string{"http/1.1"}
	if s.pages, err = console.New(cfg.Pages); err != nil {
		return nil, fmt.Errorf("starting the API: %w", err)
	}
	s.sessions, s.boots = newSessions(cfg.Now), newLane(bootsAtOnce, bootsAtOnce*8)
	if slices.Contains(cfg.Pages, "console") {
		s.fleet = fleet.New(fleet.Config{Service: cfg.Service, Slog: cfg.Log, Now: cfg.Now})
	}
	if s.pages.Open("lineage") {
		s.runs = newRuns()
	}
	s.ssf = ssf.New(ssf.Config{Service: cfg.Service, Streams: cfg.Streams, Slog: cfg.Log, Now: cfg.Now})
	s.metrics = newMetrics(s)
	if s.openapi, err = openAPI(cfg.Version, append(s.publicRoutes(), s.adminRoutes()...)); err != nil {
		return nil, fmt.Errorf("starting the API: %w", err)
	}
	s.public = s.server(s.watch(s.router(s.publicRoutes())))
	s.admin = s.server(s.watch(s.router(s.adminRoutes())))
	return s, nil
}

// Serve answers nodes, operators and relying parties over TLS on l until
// Shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.background()
	return serve(s.public, tls.NewListener(l, s.tls))
}

// background starts what reads for the pages and streams, unless Shutdown was called.
func (s *Server) background() {
	s.starting.Lock()
	defer s.starting.Unlock()
	select {
	case <-s.stopping:
		return
	default:
	}
	ctx, stop := context.WithCancel(context.Background())
	s.running.Go(func() {
		<-s.stopping
		stop()
	})
	s.running.Go(func() { s.svc.Follow(ctx) })
	s.running.Go(func() { s.ssf.Run(ctx) })
	if s.fleet != nil {
		s.running.Go(func() { s.fleet.Run(ctx) })
	}
	if s.runs != nil {
		s.running.Go(func() { s.followRuns(ctx) })
		s.running.Go(func() { s.followAbroad(ctx) })
	}
}

// ServeAdmin answers whoever runs the verifier on l, which must be on loopback:
// there is no authentication.
func (s *Server) ServeAdmin(l net.Listener) error {
	if a, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("serving the admin API on %s: expected a loopback address, since there is no authentication", l.Addr())
	}
	return serve(s.admin, l)
}

func serve(srv *http.Server, l net.Listener) error {
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown ends event streams, lets other requests finish until ctx is done, and
// then cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop.Do(func() {
		s.starting.Lock() // nothing starts once it is waited for
		defer s.starting.Unlock()
		close(s.stopping)
	})
	err := errors.Join(s.public.Shutdown(ctx), s.admin.Shutdown(ctx))
	s.running.Wait()
	if err != nil {
		err = errors.Join(fmt.Errorf("ending the API: %w", err), s.public.Close(), s.admin.Close())
	}
	return err
}

func (s *Server) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug), // handshakes of strangers
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, &peer{remote: remoteOf(c.RemoteAddr())})
		},
	}
}

// peerKey is where a request's context holds the *peer it came from.
type peerKey struct{}

// router registers routes. Whatever is not among them is refused.
func (s *Server) router(routes []route) *echo.Echo {
	e := echo.New()
	e.HTTPErrorHandler = s.fail
	for _, r := range routes {
		e.Add(r.method, r.path, s.guard(r))
	}
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if c.Request().Method == http.MethodOptions { // echo would answer it for every path it knows
				return echo.ErrMethodNotAllowed
			}
			return next(c)
		}
	})
	return e
}

// requestKey is where a request's context holds its id.
type requestKey struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// watch gives each request an id and a deadline, catches panics, and writes one
// line about it.
func (s *Server) watch(next *echo.Echo) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.cfg.Now()
		var raw [8]byte
		_, _ = rand.Read(raw[:]) // never fails since Go 1.24
		id := hex.EncodeToString(raw[:])
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		w.Header().Set("X-Request-Id", id)
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTime)) // only a deadline less
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.metrics.panics.Inc()
				s.cfg.Log.ErrorContext(r.Context(), "panic in a handler", "request", id, "panic", p, "stack", string(debug.Stack()))
				if rec.status != 0 { // half an answer: cut it off, so that it does not pass for a whole one
					panic(http.ErrAbortHandler)
				}
				s.fail(errPanic, next.NewContext(r, rec))
			}
			s.cfg.Log.DebugContext(r.Context(), "request", "request", id, "method", r.Method, "path", r.URL.Path, "status", rec.status, "bytes", rec.bytes,
				"remote", r.RemoteAddr, "took", s.cfg.Now().Sub(start))
		}()
		next.ServeHTTP(rec, r)
	})
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
