package enclave

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A keeper that nobody answers asks again and again, but never in a rush.
func TestRenewalPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 60 * time.Second
		var asks []time.Time
		ctx, cancel := context.WithTimeout(t.Context(), life)
		defer cancel()
		pace(ctx, life, nil, func(context.Context) (time.Duration, error) {
			asks = append(asks, time.Now())
			if len(asks) < 4 {
				return 0, context.DeadlineExceeded
			}
			return life, nil
		}, func(error) {})
		if first := asks[0].Sub(time.Now().Add(-life)); first < 18*time.Second || first > 22*time.Second {
			t.Errorf("first renewal after %v, expected a third of %v +-10%%", first, life)
		}
		for i := 1; i < 4; i++ {
			if d := asks[i].Sub(asks[i-1]); d < life/60 || d > life/6 {
				t.Errorf("retry %d after %v, expected %v to %v", i, d, life/60, life/6)
			}
		}
		if len(asks) > 4 {
			if d := asks[4].Sub(asks[3]); d < 18*time.Second || d > 22*time.Second {
				t.Errorf("renewal after a success after %v", d)
			}
		}
	})
}

func TestRetryStaysInBounds(t *testing.T) {
	for _, life := range []time.Duration{time.Second, 6 * time.Second, 300 * time.Second} {
		last := third(life)
		for range 1000 {
			last = retry(last, life)
			if last < life/60 || last > life/6 {
				t.Fatalf("life %v: pause %v", life, last)
			}
		}
	}
}

func TestAgentAnswersGarbage(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":       "",
		"no HTTP":       "hello\r\n\r\n",
		"no status":     "HTTP/1.0\r\n\r\n",
		"endless line":  "HTTP/1.0 " + strings.Repeat("2", 1<<16),
		"endless head":  "HTTP/1.0 200 OK\r\n" + strings.Repeat("a: b\r\n", 1000),
		"endless body":  "HTTP/1.0 200 OK\r\n\r\n{\"token\":\"" + strings.Repeat("a", 2*maxAnswer),
		"half a body":   "HTTP/1.0 200 OK\r\n\r\n{\"token\":",
		"wrong members": "HTTP/1.0 200 OK\r\n\r\n{\"token\":7}",
	} {
		t.Run(name, func(t *testing.T) {
			socket := serveRaw(t, raw, false)
			a, err := agent{socket}.lease(t.Context(), request{}, "")
			if err == nil {
				t.Errorf("answer %+v", a)
			}
		})
	}
}

func TestAgentHangs(t *testing.T) {
	socket := serveRaw(t, "HTTP/1.0 200 OK\r\n", true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var opened atomic.Bool
	if err := (agent{socket}).watch(ctx, "e1", E3, func() { opened.Store(true) }, nil); err == nil || opened.Load() {
		t.Errorf("watching a hanging agent: %v", err)
	}
}

// serveRaw answers every request with the given bytes, and then ends the
// connection or leaves it hanging.
func serveRaw(t *testing.T, raw string, hang bool) (socket string) {
	t.Helper()
	socket = filepath.Join(newAgent(t, time.Second).dir, "raw.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = c.Write([]byte(raw))
				if hang {
					<-t.Context().Done()
				}
				c.Close()
			}()
		}
	}()
	return socket
}
