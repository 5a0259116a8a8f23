package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/token"
)

const jobs = "https://jobs.example"

// live is a domain of `writ dev`, with a gate for the audience jobs: every part is a
// process of its own.
type live struct {
	*testing.T
	bin, dir string
	operator *keys.Identity
	verifier string // URL
	trust    *bundle.Trust
	gate     string // URL
}

func startLive(t *testing.T, args ...string) *live {
	t.Helper()
	l := &live{T: t, bin: programs(t), dir: t.TempDir()}
	lines := l.start("dev", append([]string{"dev", "--dir", l.dir, "--set", `audiences = ["` + jobs + `"]`}, args...)...)
	l.await(lines, "Ctrl-C ends the domain")
	raw, err := os.ReadFile(l.file("verifier", "operator.pem"))
	if err == nil {
		l.operator, err = keys.ParseIdentity(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	var node struct{ Verifiers []string }
	if raw, err = os.ReadFile(l.file("node-1", "state", "node.json")); err != nil || json.Unmarshal(raw, &node) != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	l.verifier = node.Verifiers[0]
	if raw, err = os.ReadFile(l.file("node-1", "state", "trust.json")); err == nil {
		l.trust, err = bundle.ParseTrust(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	l.gate = "http://" + free.Addr().String()
	l.await(l.start("gate", "gate", "--trust", l.file("node-1", "state", "trust.json"), "--audience", jobs, "--origin", jobs, "--proxy", "nginx", "--listen", free.Addr().String()), "gate listens")
	l.until("the gate to let a token pass", func() bool { return l.passes(l.token(1)) == http.StatusNoContent })
	return l
}

func (l *live) file(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

// command is writ as the operator runs it, and a user of the first node.
func (l *live) command(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(l.bin, "writ"), args...)
	c.Env = append(ownEnvironment(), "WRIT_KEEPER="+filepath.Join(l.bin, "writ-keeper"), "WRIT_SOCKET="+l.file("node-1", "agent.sock"), "WRIT_STATE="+l.file("node-1", "state"))
	if l.verifier != "" {
		c.Env = append(c.Env, "WRIT_VERIFIER="+l.verifier, "WRIT_OPERATOR="+l.file("verifier", "operator.pem"))
	}
	return c
}

func (l *live) writ(args ...string) string {
	l.Helper()
	out, err := l.command(args...).CombinedOutput()
	if err != nil {
		l.Fatalf("writ %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// start runs writ until the test ends, and returns what it says.
func (l *live) start(name string, args ...string) <-chan string {
	l.Helper()
	c := l.command(args...)
	r, w, err := os.Pipe()
	if err != nil {
		l.Fatal(err)
	}
	c.Stdout, c.Stderr = w, w
	err = c.Start()
	w.Close()
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGINT)
		_ = c.Wait()
		r.Close()
	})
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			select {
			case lines <- s.Text():
			default: // nobody waits for more
			}
		}
	}()
	return lines
}

func (l *live) await(lines <-chan string, want string) {
	l.Helper()
	var said []string
	for timeout := time.After(2 * time.Minute); ; {
		select {
		case line, ok := <-lines:
			if said = append(said, line); !ok || strings.Contains(line, want) {
				if !ok {
					l.Fatalf("it ended before it said %q:\n%s", want, strings.Join(said, "\n"))
				}
				return
			}
		case <-timeout:
			l.Fatalf("it did not say %q:\n%s", want, strings.Join(said, "\n"))
		}
	}
}

func (l *live) until(what string, ok func() bool) {
	l.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.Fatalf("waiting for %s: not within a minute", what)
		}
	}
}

// presented is a token with a proof for one request.
type presented struct {
	Token string `json:"token"`
	Proof string `json:"proof"`
}

// token asks the agent of a node for one.
func (l *live) token(node int) presented {
	l.Helper()
	p, err := l.tryToken(node)
	if err != nil {
		l.Fatal(err)
	}
	return p
}

func (l *live) tryToken(node int) (p presented, err error) {
	query := url.Values{"audience": {jobs}, "htm": {"GET"}, "htu": {jobs + "/"}}
	err = askAgent(context.Background(), l.file(fmt.Sprintf("node-%d", node), "agent.sock"), "/v1/token?"+query.Encode(), &p)
	return p, err
}

// passes is what the gate says of a request with a token.
func (l *live) passes(p presented) int {
	req, err := http.NewRequest(http.MethodGet, l.gate+"/v1/authz", nil)
	if err != nil {
		l.Error(err)
		return 0
	}
	for name, value := range map[string]string{"X-Original-Method": "GET", "X-Original-URI": "/", "Authorization": "DPoP " + p.Token, "DPoP": p.Proof} {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Error(err)
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// party is a relying party that asks the verifier.
func (l *live) party() *http.Client {
	tr := &http.Transport{TLSClientConfig: keys.ClientTLS(l.operator.Pin, l.operator.Domain, time.Now, l.operator.Certificate), MaxIdleConnsPerHost: 8}
	l.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// active is what the verifier says of a token (RFC 7662).
func (l *live) active(c *http.Client, tok string) (bool, error) {
	res, err := c.PostForm(l.verifier+"/oauth2/introspect", url.Values{"token": {tok}})
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	var said struct{ Active bool }
	err = json.NewDecoder(res.Body).Decode(&said)
	return said.Active && res.StatusCode == http.StatusOK, err
}

// keySet is the domain's, as a relying party fetches it.
func (l *live) keySet(c *http.Client) (token.Keys, error) {
	res, err := c.Get(l.verifier + "/.well-known/jwks.json")
	if err != nil {
		return token.Keys{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return token.Keys{}, err
	}
	return token.ParseJWKS(raw)
}

// work is a program that runs as long as its node is legitimate.
type work struct {
	*exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
}

func (l *live) work() *work {
	l.Helper()
	began := l.file(fmt.Sprintf("began-%d", time.Now().UnixNano()))
	w := &work{Cmd: l.command("run", "--level", enclave.Detect().Level.String(), "--", "sh", "-c", "touch "+began+"; while :; do sleep 0.1; done"), ended: make(chan struct{})}
	w.Stderr = &w.said
	if err := w.Start(); err != nil {
		l.Fatal(err)
	}
	go func() {
		_ = w.Wait()
		close(w.ended)
	}()
	l.Cleanup(func() {
		_ = w.Process.Signal(syscall.SIGTERM)
		<-w.ended
	})
	l.until("the work to begin", func() bool {
		select {
		case <-w.ended:
			l.Fatalf("the work did not begin: %s", &w.said)
		default:
		}
		_, err := os.Stat(began)
		return err == nil
	})
	return w
}

// runs requires that the work goes on for a while.
func (l *live) runs(w *work, while time.Duration, why string) {
	l.Helper()
	select {
	case <-w.ended:
		l.Fatalf("%s, and the work ended: %v %s", why, w.ProcessState, &w.said)
	case <-time.After(while):
	}
}

// TestKeyRotatedUnderLoad: while nodes get tokens all the time another key begins to
// sign. No token is refused: not by a gate, not by the verifier, not by a relying party
// that keeps the key set for less than the overlap and never looks again; and work
// goes on.
func TestKeyRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	const life, overlap = 15 * time.Second, 5 * time.Second
	l := startLive(t, "--token-life", life.String(), "--set", `token_key_overlap = "`+overlap.String()+`"`)
	w := l.work()
	want := token.Expect{Issuer: l.trust.IssuerURL(), Domain: l.trust.Domain, Audience: jobs}
	ctx, cancel := context.WithCancel(t.Context())
	first := token.KeyID(l.token(1).Token)
	var shown, fresh atomic.Int64
	loaded := make(chan struct{})
	for node := range 3 {
		go func() {
			defer func() { loaded <- struct{}{} }()
			c := l.party()
			var set token.Keys
			var fetched time.Time
			for ctx.Err() == nil {
				p, err := l.tryToken(node + 1)
				if err != nil {
					t.Errorf("an agent gives no token: %v", err)
					return
				}
				if code := l.passes(p); code != http.StatusNoContent {
					t.Errorf("the gate answers %d to a token by %s", code, token.KeyID(p.Token))
				}
				if ok, err := l.active(c, p.Token); err != nil || !ok {
					t.Errorf("the verifier does not know a token by %s: %v", token.KeyID(p.Token), err)
				}
				if time.Since(fetched) > overlap/2 {
					asked := time.Now()
					if set, err = l.keySet(c); err != nil {
						t.Errorf("fetching the key set: %v", err)
					}
					fetched = asked
				}
				if _, err := token.Verify(p.Token, set, want, time.Now()); err != nil {
					t.Errorf("a relying party: %v", err)
				}
				shown.Add(1)
				if token.KeyID(p.Token) != first {
					fresh.Add(1)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	l.writ("keys", "rotate")
	l.until("tokens by the next key", func() bool { return fresh.Load() > 0 || t.Failed() })
	l.runs(w, life+2*time.Second, "another key signs") // a keeper that took no token by it would have run out
	cancel()
	for range 3 {
		<-loaded
	}
	t.Logf("%d tokens, %d of them by the next key, none refused", shown.Load(), fresh.Load())
	if list := l.writ("keys", "list"); !strings.Contains(list, "retiring") {
		t.Errorf("the first key does not retire:\n%s", list)
	}
}

// TestKeyWithdrawn: tokens by a key that was withdrawn are refused at once, by the
// verifier and by a gate; work goes on by the next key, or ends where there is none.
func TestKeyWithdrawn(t *testing.T) {
	t.Parallel()
	l := startLive(t, "--token-life", "2m")
	w := l.work()
	c := l.party()
	stolen := make([]presented, 60)
	for i := range stolen {
		stolen[i] = l.token(1 + i%3)
	}
	first := token.KeyID(stolen[0].Token)
	if ok, err := l.active(c, stolen[0].Token); err != nil || !ok || l.passes(stolen[0]) != http.StatusNoContent {
		t.Fatalf("before, a token does not count: %v, %v", ok, err)
	}
	l.writ("keys", "withdraw", first, "--reason", "stolen")
	for _, p := range stolen {
		if ok, err := l.active(c, p.Token); err != nil || ok {
			t.Fatalf("the verifier takes a token by a key that was withdrawn: %v", err)
		}
	}
	refused := 0
	for _, p := range stolen[1:] { // each proof is good once
		switch code := l.passes(p); {
		case code == http.StatusNoContent && refused > 0:
			t.Fatal("the gate takes a token again that it has refused")
		case code == http.StatusNoContent:
			time.Sleep(500 * time.Millisecond) // until it hears
		default:
			refused++
		}
	}
	if refused == 0 {
		t.Error("the gate takes tokens by a key that was withdrawn")
	}
	l.until("the gate to let a token by the next key pass", func() bool {
		p, err := l.tryToken(1)
		return err == nil && token.KeyID(p.Token) != first && l.passes(p) == http.StatusNoContent
	})
	l.runs(w, 8*time.Second, "a key was withdrawn and another one signs")

	// Now the node's agent hears of it, and no verifier answers it any more.
	agent, writd := l.process("agent", l.file("node-1", "agent.sock")), l.process("dev", filepath.Join(l.bin, "writd"))
	next := token.KeyID(l.token(1).Token)
	l.signal(agent, syscall.SIGSTOP)
	l.writ("keys", "withdraw", next, "--reason", "stolen, too")
	l.until("another agent to hear of it", func() bool {
		p, err := l.tryToken(2)
		return err == nil && token.KeyID(p.Token) != next
	})
	time.Sleep(time.Second) // what this one is told waits for it
	l.signal(writd, syscall.SIGSTOP)
	l.signal(agent, syscall.SIGCONT)
	select { // its token would last for more than a minute yet
	case <-w.ended:
	case <-time.After(time.Minute):
		t.Fatal("work goes on by a token whose key was withdrawn")
	}
	if code := w.ProcessState.ExitCode(); code != 124 {
		t.Errorf("writ run ended with %d: %s", code, &w.said)
	}
}

// process is the one process whose command line has all of these words.
func (l *live) process(words ...string) int {
	l.Helper()
	var found []int
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.Fatal(err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		line := strings.Split(string(raw), "\x00")
		if err == nil && !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(line, w) }) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				l.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		l.Fatalf("%d processes have %v on their command line", len(found), words)
	}
	return found[0]
}

// signal sends one; what it stops goes on at the end of the test.
func (l *live) signal(pid int, sig syscall.Signal) {
	l.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		l.Fatal(err)
	}
	if sig == syscall.SIGSTOP {
		l.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	}
}
