package enclave

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
)

func leaseFor(t *testing.T, d time.Duration) *Lease {
	t.Helper()
	l := new(Lease)
	if err := l.Renew(Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Revoke)
	return l
}

func TestDoDiscardsLateResults(t *testing.T) {
	called := false
	if err := new(Lease).Do(func() error { called = true; return nil }); !errors.Is(err, ErrLapsed) || called {
		t.Errorf("without a lease: called %v, %v", called, err)
	}
	l := leaseFor(t, time.Hour)
	mine := errors.New("mine")
	if err := l.Do(func() error { return mine }); err != mine {
		t.Errorf("under a lease: %v, expected the function's own error", err)
	}
	if err := l.Do(func() error { l.Revoke(); return nil }); !errors.Is(err, ErrLapsed) {
		t.Errorf("revoked meanwhile: %v", err)
	}
}

func TestWriterRefusesAfterLapse(t *testing.T) {
	var b bytes.Buffer
	l := leaseFor(t, time.Hour)
	w := l.Writer(&b)
	if _, err := io.WriteString(w, "in time"); err != nil {
		t.Fatal(err)
	}
	l.Revoke()
	if n, err := io.WriteString(w, "late"); n != 0 || !errors.Is(err, ErrLapsed) || b.String() != "in time" {
		t.Errorf("late write: %d, %v, %q", n, err, b.String())
	}
	if _, err := io.WriteString(new(Lease).Writer(&b), "x"); !errors.Is(err, ErrLapsed) {
		t.Errorf("zero lease writes: %v", err)
	}
}

// pair is two ends of one TCP connection.
func pair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	here, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// The peer reads nothing until the lease has ended: the sender's kernel holds
// megabytes by then. The naive twin, a plain close, delivers them.
func TestBytesInSocketBuffersAfterTheStop(t *testing.T) {
	received := func(stop func(l *Lease, c net.Conn)) (int64, error) {
		here, there := pair(t)
		l := leaseFor(t, time.Hour)
		c := net.Conn(here)
		if stop == nil {
			c = l.Conn(here)
			stop = func(l *Lease, c net.Conn) {
				l.Revoke()
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrLapsed) {
					t.Errorf("reading after the lapse: %v", err)
				}
			}
		}
		sent := 0
		for chunk := make([]byte, 64<<10); sent < 64<<20; {
			_ = here.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			n, err := c.Write(chunk)
			sent += n
			if err != nil {
				break // all buffers are full
			}
		}
		stop(l, c)
		for l.Valid() == false { // until it was cut
			if _, err := here.Write([]byte{0}); errors.Is(err, net.ErrClosed) {
				break
			}
			time.Sleep(time.Millisecond)
		}
		return io.Copy(io.Discard, there)
	}
	if n, err := received(nil); err == nil {
		t.Errorf("the peer read %d bytes to a clean end after the lapse", n)
	}
	n, err := received(func(l *Lease, c net.Conn) { c.Close(); l.Revoke() })
	if err != nil || n == 0 {
		t.Errorf("the naive twin delivered %d bytes (%v): this test shows nothing", n, err)
	}
}

func TestConnWakesWhoWaits(t *testing.T) {
	here, _ := pair(t)
	l := leaseFor(t, 80*time.Millisecond)
	if _, err := l.Conn(here).Read(make([]byte, 1)); !errors.Is(err, ErrLapsed) {
		t.Errorf("a read that waited at the lapse: %v", err)
	}
	here, there := pair(t)
	c := new(Lease).Conn(here)
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrLapsed) {
		t.Errorf("zero lease: %v", err)
	}
	if b, err := io.ReadAll(there); len(b) > 0 || err == nil {
		t.Errorf("zero lease: the peer read %q, %v, expected a reset", b, err)
	}
}

func TestListenerClosesAtLapse(t *testing.T) {
	l := leaseFor(t, time.Hour)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		for r.Context().Err() == nil { // a stream that ignores the lease
			if _, err := io.WriteString(w, "tick\n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Millisecond)
		}
	})}
	defer srv.Close()
	go func() { served <- srv.Serve(l.Listener(ln)) }()
	res, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	stream := bufio.NewReader(res.Body)
	if _, err := stream.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	l.Revoke()
	if _, err := io.Copy(io.Discard, stream); err == nil {
		t.Error("the stream ended cleanly")
	}
	if err := <-served; !errors.Is(err, ErrLapsed) {
		t.Errorf("Serve returned %v", err)
	}
}

func TestMiddleware(t *testing.T) {
	l := leaseFor(t, time.Hour)
	started := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			_, _ = io.WriteString(w, "done")
			return
		}
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		close(started)
		<-r.Context().Done()
		if !errors.Is(context.Cause(r.Context()), ErrLapsed) {
			t.Errorf("cause %v", context.Cause(r.Context()))
		}
		if _, err := io.WriteString(w, "late"); !errors.Is(err, ErrLapsed) {
			t.Errorf("late write: %v", err)
		}
	})
	e := echo.New()
	e.Use(echo.WrapMiddleware(l.Middleware))
	e.GET("/*", echo.WrapHandler(handler))
	srv := httptest.NewServer(e)
	defer srv.Close()

	get := func(path string) (int, string, error) {
		res, err := http.Get(srv.URL + path)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return res.StatusCode, string(b), err
	}
	if status, body, err := get("/quick"); status != 200 || body != "done" || err != nil {
		t.Errorf("under a lease: %d %q %v", status, body, err)
	}
	go func() { <-started; l.Revoke() }()
	if _, body, err := get("/slow"); err == nil || strings.Contains(body, "late") {
		t.Errorf("an answer under way at the lapse: %q, %v, expected it to be cut off", body, err)
	}
	if status, body, err := get("/quick"); status != 503 || !strings.Contains(body, "lapsed") || err != nil {
		t.Errorf("after the lapse: %d %q %v", status, body, err)
	}
}
