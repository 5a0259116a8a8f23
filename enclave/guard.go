package enclave

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Do runs f only while the lease is valid, and gives its result only if the
// lease still was when f returned: what came too late is discarded, the error is
// then ErrLapsed. f is not interrupted; give it a Context for that.
func (l *Lease) Do(f func() error) error {
	if !l.Valid() {
		return ErrLapsed
	}
	err := f()
	if !l.Valid() {
		return ErrLapsed
	}
	return err
}

// Writer returns a writer to w that refuses with ErrLapsed once the lease has
// ended. What w has buffered by then is w's.
func (l *Lease) Writer(w io.Writer) io.Writer { return guardedWriter{l, w} }

type guardedWriter struct {
	lease *Lease
	w     io.Writer
}

func (g guardedWriter) Write(p []byte) (int, error) {
	if !g.lease.Valid() {
		return 0, ErrLapsed
	}
	return g.w.Write(p)
}

// Conn returns c guarded by the lease: reads and writes fail with ErrLapsed once
// it has ended, one that waits is woken, and the connection is cut at the lapse.
// TCP is cut by a reset, which also drops what the kernel had not sent yet; a
// plain close would go on sending it. If the lease is not valid, c is cut at once.
func (l *Lease) Conn(c net.Conn) net.Conn {
	g := &guardedConn{Conn: c, lease: l}
	g.forget = l.atEnd(g.cut)
	return g
}

type guardedConn struct {
	net.Conn
	lease  *Lease
	closed atomic.Bool
	forget func()
}

func (g *guardedConn) Read(p []byte) (int, error)  { return g.guard(g.Conn.Read, p) }
func (g *guardedConn) Write(p []byte) (int, error) { return g.guard(g.Conn.Write, p) }

func (g *guardedConn) guard(f func([]byte) (int, error), p []byte) (int, error) {
	if !g.lease.Valid() {
		return 0, ErrLapsed
	}
	n, err := f(p)
	if err != nil && !g.lease.Valid() {
		err = ErrLapsed // not "use of closed network connection"
	}
	return n, err
}

func (g *guardedConn) Close() error {
	if g.closed.Swap(true) {
		return net.ErrClosed
	}
	g.forget()
	return g.Conn.Close()
}

// cut drops the connection with what it still had to send.
func (g *guardedConn) cut() {
	if g.closed.Swap(true) {
		return
	}
	abort(g.Conn)
}

// abort closes a connection without sending what is queued in the kernel, where
// the protocol can: TCP, or TLS over it.
func abort(c net.Conn) {
	inner := c
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		inner = t.NetConn() // a TLS close would first wait for its alert to be sent
	}
	if t, ok := inner.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // on failure the close below is all there is
	}
	_ = inner.Close()
}

// Listener returns ln guarded by the lease: it accepts nothing while the lease is
// not valid, its connections are guarded as by Conn, and all of it is closed when
// the lease ends. http.Server.Serve on it returns ErrLapsed.
func (l *Lease) Listener(ln net.Listener) net.Listener {
	g := &guardedListener{Listener: ln, lease: l}
	g.forget = l.atEnd(func() { _ = ln.Close() })
	return g
}

type guardedListener struct {
	net.Listener
	lease  *Lease
	forget func()
}

func (g *guardedListener) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	switch {
	case g.lease.Valid() && err == nil:
		return g.lease.Conn(c), nil
	case err == nil:
		abort(c)
		return nil, ErrLapsed
	case !g.lease.Valid():
		return nil, errors.Join(ErrLapsed, err)
	}
	return nil, err
}

func (g *guardedListener) Close() error {
	g.forget()
	return g.Listener.Close()
}

// Middleware lets next handle a request only while the lease is valid; otherwise
// the answer is 503 with problem details. The request's context ends with the
// lease, what the handler writes after that is refused, and an answer under way
// is cut off, so that no client takes half an answer for a whole one. For echo:
// e.Use(echo.WrapMiddleware(lease.Middleware)).
func (l *Lease) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.Valid() {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"type":"about:blank","title":"lapsed","status":503,"detail":"nobody vouches for this machine now"}`+"\n")
			return
		}
		ctx, cancel := l.Context(r.Context())
		defer cancel()
		conn := http.NewResponseController(w)
		stop := context.AfterFunc(ctx, func() {
			if errors.Is(context.Cause(ctx), ErrLapsed) { // wake a handler that waits for its client
				_ = conn.SetReadDeadline(time.Unix(1, 0))
				_ = conn.SetWriteDeadline(time.Unix(1, 0))
			}
		})
		defer stop()
		next.ServeHTTP(&guardedResponse{ResponseWriter: w, lease: l}, r.WithContext(ctx))
		if !l.Valid() {
			panic(http.ErrAbortHandler)
		}
	})
}

// guardedResponse lets a ResponseController through to the real writer.
type guardedResponse struct {
	http.ResponseWriter
	lease *Lease
}

func (g *guardedResponse) Unwrap() http.ResponseWriter { return g.ResponseWriter }

func (g *guardedResponse) Write(p []byte) (int, error) {
	if !g.lease.Valid() {
		return 0, ErrLapsed
	}
	return g.ResponseWriter.Write(p)
}

// Flush is for handlers that ask for an http.Flusher.
func (g *guardedResponse) Flush() {
	if g.lease.Valid() {
		_ = http.NewResponseController(g.ResponseWriter).Flush()
	}
}
