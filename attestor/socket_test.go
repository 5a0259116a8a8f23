package attestor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// serve runs an agent's socket until the test ends.
func serve(t testing.TB, a *Agent, s Socket) {
	t.Helper()
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, l, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// over is an HTTP client over a socket.
func over(t testing.TB, path string) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func ask(t testing.TB, c *http.Client, method, path string, body any) (int, []byte) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://agent"+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, out
}

// TestSocket: what keepers and `writ` ask of an agent.
func TestSocket(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	s := Socket{Path: filepath.Join(b.dir, "agent.sock")}
	serve(t, a, s)
	c := over(t, s.Path)

	var status Status
	if code, body := ask(t, c, "GET", "/v1/status", nil); code != 200 || json.Unmarshal(body, &status) != nil || !status.Legitimate || status.Node != b.enrol.Node {
		t.Errorf("status: %d %s", code, body)
	}
	req := lease(b)
	var first, again protocol.Grant
	if code, body := ask(t, c, "POST", "/v1/lease", req); code != 200 || json.Unmarshal(body, &first) != nil {
		t.Fatalf("lease: %d %s", code, body)
	}
	claims, err := b.d.claims(first.Token)
	if err != nil || claims.Nonce != req.R || claims.Writ.Execution != "e1" {
		t.Errorf("lease: %+v, %v", claims, err)
	}
	if code, body := ask(t, c, "POST", "/v1/lease", req); code != 200 || json.Unmarshal(body, &again) != nil {
		t.Fatalf("lease again: %d %s", code, body)
	}
	if same, err := b.d.claims(again.Token); err != nil || same.ID != claims.ID {
		t.Errorf("one request id got two tokens: %+v, %v", same, err)
	}
	for _, bad := range []any{"text", map[string]string{"r": "short", "level": "E2", "id": "x"}, map[string]string{}} {
		if code, body := ask(t, c, "POST", "/v1/lease", bad); code != 400 || !strings.Contains(string(body), "request-malformed") {
			t.Errorf("lease of %v: %d %s", bad, code, body)
		}
	}
	if code, body := ask(t, c, "POST", "/v1/lease", strings.Repeat("x", 1<<17)); code != 400 {
		t.Errorf("a request of 128 KiB: %d %s", code, body)
	}
	if code, body := ask(t, c, "GET", "/v1/token?audience=https://elsewhere.example.org", nil); code != 403 || !strings.Contains(string(body), protocol.RequestRefused) {
		t.Errorf("a token for another audience: %d %s", code, body)
	}
	var bearer protocol.Exchanged
	if code, body := ask(t, c, "GET", "/v1/bearer?audience=https://cloud.example", nil); code != 200 || json.Unmarshal(body, &bearer) != nil || strings.Count(bearer.Token, ".") != 2 {
		t.Errorf("a bearer token: %d %s", code, body)
	}
	for path, want := range map[string]int{"/v1/lease": 405, "/v1/bearer?audience=https://elsewhere.example": 403, "/v1/bearer": 403, "/v1/nonsense": 404, "/": 404} {
		if code, _ := ask(t, c, "GET", path, nil); code != want {
			t.Errorf("GET %s: %d, expected %d", path, code, want)
		}
	}
	l.mu.Lock()
	l.down = true
	l.mu.Unlock()
	if code, body := ask(t, c, "POST", "/v1/lease", lease(b)); code != 503 || !strings.Contains(string(body), "verifier-unreachable") {
		t.Errorf("a lease without a verifier: %d %s", code, body)
	}
}

// TestSocketWatch: a denial's signed events come with the refusal and over the
// stream; a renewal is a hint.
func TestSocketWatch(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	s := Socket{Path: filepath.Join(b.dir, "agent.sock")}
	serve(t, a, s)
	res, err := over(t, s.Path).Get("http://agent/v1/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("a stream of %s", got)
	}
	lines := bufio.NewScanner(res.Body)
	next := func() string {
		for lines.Scan() {
			if text := lines.Text(); text != "" && text[0] != ':' {
				return text
			}
		}
		t.Fatal(lines.Err())
		return ""
	}
	b.mustAttest(a)
	if kind, data := next(), next(); kind != "event: renewed" || data != "data: {}" {
		t.Errorf("a renewal is told as %q, %q", kind, data)
	}
	b.measure(4, 0x80000003, "foreign.efi")
	_ = a.attest(t.Context(), false) // denied
	if kind, data := next(), next(); kind != "event: revocation" || !strings.HasPrefix(data, "data: ey") {
		t.Errorf("a denial is told as %q, %q", kind, data)
	}
	code, body := ask(t, over(t, s.Path), "POST", "/v1/lease", lease(b))
	var p problem
	if err := json.Unmarshal(body, &p); err != nil || code != 403 || p.Title != protocol.PolicyDenied || len(p.Events) != 1 {
		t.Errorf("a lease of a denied node: %d %s", code, body)
	}
}

// TestPeerOfAnotherUser: the kernel says who is at the other end, and only root,
// the agent's own user and those it names are served.
func TestPeerOfAnotherUser(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	for uid, want := range map[uint32]bool{0: true, uint32(os.Getuid()): true, 1234: true, nobody: false, 1<<32 - 1: false} {
		if got := (Socket{UIDs: []uint32{1234}}).allowed(uid); got != want {
			t.Errorf("user %d is allowed: %v, expected %v", uid, got, want)
		}
	}
	if os.Getuid() != 0 {
		return // nobody else can be played
	}
	_, _, a := ready(t)
	dir, err := os.MkdirTemp("", "writ-peer-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, s := range []Socket{{}, {UIDs: []uint32{nobody}}} {
		s.Path = filepath.Join(dir, "agent"+string(rune('0'+i)))
		serve(t, a, s)
		for path, want := range map[string]string{
			"/v1/status": []string{"HTTP/1.1 403 ", "HTTP/1.1 200 "}[i],
			"/v1/bearer?audience=https://cloud.example": "HTTP/1.1 403 ", // whoever may run work is not the node
		} {
			answer := make(chan string)
			go func() { answer <- askAs(nobody, s.Path, path) }()
			if got := <-answer; !strings.HasPrefix(got, want) {
				t.Errorf("another user, of those allowed %v, is answered %q, expected %q", s.UIDs, got, want)
			}
		}
	}
}

// askAs asks for a path as another user: this thread becomes that user, and
// ends with the goroutine.
func askAs(uid uintptr, socket, path string) string {
	runtime.LockOSThread()
	if _, _, err := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); err != 0 {
		return err.Error()
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer syscall.Close(fd)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		return err.Error()
	}
	if _, err := syscall.Write(fd, []byte("GET "+path+" HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")); err != nil {
		return err.Error()
	}
	buf := make([]byte, 64)
	n, err := syscall.Read(fd, buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// TestSocketTaken: a second agent does not take the socket of one that answers,
// and nothing else that stands there is removed.
func TestSocketTaken(t *testing.T) {
	t.Parallel()
	_, _, a := ready(t)
	dir := t.TempDir()
	s := Socket{Path: filepath.Join(dir, "agent.sock")}
	serve(t, a, s)
	if _, err := s.Listen(); err == nil || !strings.Contains(err.Error(), "another agent answers") {
		t.Errorf("a second agent: %v", err)
	}

	left := Socket{Path: filepath.Join(dir, "left.sock")}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: left.Path})
	}
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(fd)
	l, err := left.Listen()
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	l.Close()

	file := Socket{Path: filepath.Join(dir, "file")}
	if err := os.WriteFile(file.Path, []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Listen(); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file in the socket's place: %v", err)
	}
	if raw, err := os.ReadFile(file.Path); err != nil || string(raw) != "kept" {
		t.Errorf("a file in the socket's place is gone: %v", err)
	}
}
