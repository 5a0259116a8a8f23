package enclave

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
	"github.com/writ-attestation/writ/verifier/token"
)

// The programs under test, built once: the keeper as it ships, but for its grace where
// nothing is measured, and the hydra.
var keeperPath, loaderPath, hydraPath, probePath string

func TestMain(m *testing.M) {
	if os.Getenv(containerVar) != "" { // this process is a container runtime
		fmt.Fprintln(os.Stderr, containMain())
		os.Exit(ExitRefused)
	}
	if dir := os.Getenv(bootVar); dir != "" { // this process is PID 1 of a machine
		fmt.Fprintln(os.Stderr, bootMain(dir))
		os.Exit(ExitRefused)
	}
	if keeper := os.Getenv("WRIT_TEST_SUPERVISE"); keeper != "" { // this process is `writ run`
		if os.Getenv(noBPFVar) != "" {
			withoutBPF()
		}
		exit, err := supervisor.Run(keeper, os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(ExitRefused)
		}
		os.Exit(exit)
	}
	if exit, ok := Reenter(); ok { // a part of a keeper that this program plays
		os.Exit(exit)
	}
	flag.Parse()
	dir := os.Getenv(insideVar)
	if dir == "" {
		os.Exit(watchTests())
	}
	os.Exit(runInside(m, dir))
}

func buildAndRun(m *testing.M) int {
	if dir := os.Getenv("WRIT_TEST_PROGRAMS"); dir != "" { // there is no compiler in the machine of make vmtest
		programs(dir)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "writ-enclave-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // an unprivileged test executes from it
		panic(err)
	}
	programs(dir)
	for out, pkg := range map[string]string{keeperPath: "../cmd/writ-keeper", loaderPath: "../cmd/writ-bpf", hydraPath: "./testdata/hydra", probePath: "./testdata/probe"} {
		tags := "patient" // see fuseGrace
		if flag.Lookup("test.bench").Value.String() != "" {
			tags = ""
		}
		build := exec.Command("go", "build", "-trimpath", "-tags", tags, "-ldflags=-s -w", "-o", out, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := build.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("building %s: %v\n%s", pkg, err, b))
		}
	}
	return m.Run()
}

func programs(dir string) {
	keeperPath, loaderPath = filepath.Join(dir, "writ-keeper"), filepath.Join(dir, "writ-bpf")
	hydraPath, probePath = filepath.Join(dir, "hydra"), filepath.Join(dir, "probe")
}

const (
	testDomain = "test.invalid"
	testIssuer = "https://test.invalid"
	testNode   = "spiffe://test.invalid/node/00112233445566778899aabbccddeeff"
	audience   = "spiffe://test.invalid/enclave"
)

// fakeAgent is an agent and a verifier in one: it really signs. What it answers
// can be changed before and while a keeper asks.
type fakeAgent struct {
	dir, socket, trust string
	key                *ecdsa.PrivateKey

	mu      sync.Mutex
	life    time.Duration
	seq     uint64
	boot    uint32
	answer  func(req request) (status int, body any) // nil: grants
	change  func(c *token.Claims)                    // of claims about to be signed
	asked   []request
	keepers []string
	latest  Instant // no token given so far is valid for longer than this
	stops   []Stop
	denied  bool // as its status says

	push   chan string
	server *http.Server
}

func newAgent(t testing.TB, life time.Duration) *fakeAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "writ-agent-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &fakeAgent{dir: dir, socket: filepath.Join(dir, "agent.sock"), trust: filepath.Join(dir, "trust.json"),
		key: key, life: life, boot: 7, push: make(chan string)}
	keys, err := token.NewKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	trust, err := json.Marshal(map[string]any{"v": 1, "domain": testDomain, "token_keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	write(t, a.trust, trust, 0o644)
	if err := os.Chmod(dir, 0o777); err != nil { // for the unprivileged
		t.Fatal(err)
	}
	a.serve(t)
	return a
}

// serve listens on the agent's socket.
func (a *fakeAgent) serve(t testing.TB) { a.serveAt(t, a.socket) }

func (a *fakeAgent) serveAt(t testing.TB, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil { // for the unprivileged
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/lease", a.serveLease)
	mux.HandleFunc("POST /v1/stops", a.serveStop)
	mux.HandleFunc("GET /v1/watch", a.serveWatch)
	mux.HandleFunc("GET /v1/status", a.serveStatus)
	s := &http.Server{Handler: mux}
	a.server = s
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

func (a *fakeAgent) serveLease(w http.ResponseWriter, r *http.Request) {
	received := Now()
	var req request
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked, a.keepers = append(a.asked, req), append(a.keepers, r.Header.Get("Writ-Keeper"))
	status, body := http.StatusOK, any(nil)
	if a.answer != nil {
		status, body = a.answer(req)
	} else {
		a.latest = received.Add(a.life)
		body = map[string]string{"token": a.issue(req)}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// issue signs a token for a request; a.mu is held.
func (a *fakeAgent) issue(req request) string {
	a.seq++
	now := time.Now().Unix()
	digest := strings.Repeat("A", 43)
	c := token.Claims{
		Issuer: testIssuer, Subject: testNode, Audience: req.Audience, ID: newID(),
		IssuedAt: now, NotBefore: now, Expires: now + int64(a.life/time.Second),
		Confirm: token.Confirm{JKT: digest}, Nonce: req.R, BootCount: a.boot, Status: "affirming",
		Verifier: token.Verifier{Developer: "https://test.invalid", Build: "test"},
		Submods:  map[string]token.Submod{"platform": {Status: "affirming", Policies: []string{"urn:test"}}},
		Writ: token.Writ{V: 1, State: "synchronized", Seq: a.seq, Execution: req.Execution, Workload: req.Workload,
			Level: req.Level, Key: "lease", Evidence: digest, References: digest, Verdict: digest, Log: token.Log{Origin: testDomain + "/log", Index: int64(a.seq)}},
	}
	if a.change != nil {
		a.change(&c)
	}
	tok, err := token.Issue(c, a.key, rand.Reader)
	if err != nil {
		panic(err)
	}
	return tok
}

// event signs a revocation of every token up to seq.
func (a *fakeAgent) event(seq uint64) string {
	e, err := token.IssueEvent(token.Event{Issuer: testIssuer, Subject: testNode, Audience: audience, ID: newID(),
		IssuedAt: time.Now().Unix(), Seq: seq, Cause: "revoked", Reason: "test"}, a.key, rand.Reader)
	if err != nil {
		panic(err)
	}
	return e
}

func (a *fakeAgent) serveStop(w http.ResponseWriter, r *http.Request) {
	var told struct {
		Statement string `json:"statement"`
	}
	err := json.NewDecoder(r.Body).Decode(&told)
	a.mu.Lock()
	defer a.mu.Unlock()
	jkt, payload, opening := token.OpenStatement(told.Statement)
	var s Stop
	if err = errors.Join(err, opening, json.Unmarshal(payload, &s)); err == nil && jkt != a.asked[len(a.asked)-1].Key {
		err = errors.New("signed with another key")
	}
	if err != nil {
		a.stops = append(a.stops, Stop{Cause: err.Error()})
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.stops = append(a.stops, s)
	w.WriteHeader(http.StatusNoContent)
}

func (a *fakeAgent) serveStatus(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"node": "n", "legitimate": !a.denied, "expires": time.Now().Unix() + 60, "problem": "policy-denied: PCR 4"})
}

func (a *fakeAgent) serveWatch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprint(w, ": here\n\n")
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case e := <-a.push:
			_, _ = fmt.Fprintf(w, "event: revocation\ndata: %s\n\n", e)
		}
	}
}

func (a *fakeAgent) answers(f func(req request) (status int, body any)) {
	a.set(func() { a.answer = f })
}

func (a *fakeAgent) until() (at Instant) {
	a.set(func() { at = a.latest })
	return at
}

func (a *fakeAgent) lastSeq() (seq uint64) {
	a.set(func() { seq = a.seq })
	return seq
}

func (a *fakeAgent) requests() (r []request) {
	a.set(func() { r = slices.Clone(a.asked) })
	return r
}

func (a *fakeAgent) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// patient is how long a test waits for what has to come on a machine that has much
// else to do.
const patient = 60 * time.Second

// execution is one keeper started as `writ run` would.
type execution struct {
	t      testing.TB
	agent  *fakeAgent
	cmd    *exec.Cmd
	stdout string
	stderr string
	record string
	ended  chan struct{}
	flags  []string
	env    []string // of `writ run`, beside ours
	mem    []byte   // of the hydra
	heads  int

	keeper     string // keeperPath
	supervised bool   // started as `writ run` does; the keeper is cmd's child
}

func (a *fakeAgent) prepare(t testing.TB, flags ...string) *execution {
	t.Helper()
	id := newID()
	e := &execution{t: t, agent: a, keeper: keeperPath, ended: make(chan struct{}),
		stdout: filepath.Join(a.dir, id+".out"), stderr: filepath.Join(a.dir, id+".err"), record: filepath.Join(a.dir, id+".json")}
	e.flags = append([]string{"--socket", a.socket, "--trust", a.trust, "--record", e.record, "--pids", "600"}, flags...)
	return e
}

// start runs a command under the keeper.
func (e *execution) start(attr *syscall.SysProcAttr, command ...string) *execution {
	e.t.Helper()
	e.cmd = exec.Command(e.keeper, slices.Concat(e.flags, []string{"--"}, command)...)
	if e.supervised {
		e.cmd.Path = os.Args[0]
		e.cmd.Env = append(append(os.Environ(), "WRIT_TEST_SUPERVISE="+e.keeper), e.env...)
	}
	e.cmd.SysProcAttr = attr
	out, errs := create(e.t, e.stdout), create(e.t, e.stderr)
	defer out.Close()
	defer errs.Close()
	e.cmd.Stdout, e.cmd.Stderr = out, errs // files: nothing waits for whoever holds a pipe
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	go func() {
		_ = e.cmd.Wait()
		close(e.ended)
	}()
	e.t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		<-e.ended
		for e.supervised && keepers(e.agent.socket) { // it dies with its supervisor, a moment later
			time.Sleep(time.Millisecond)
		}
		sweepAll()
	})
	return e
}

// hydra starts the hostile tree and waits until all its heads live.
func (e *execution) hydra(attr *syscall.SysProcAttr, heads int, mode string) *execution {
	e.t.Helper()
	path := filepath.Join(e.agent.dir, newID()+".mem")
	write(e.t, path, make([]byte, 64*(heads+2)), 0o666)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	if e.mem, err = unix.Mmap(int(f.Fd()), 0, 64*(heads+2), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		e.t.Fatal(err)
	}
	e.heads = heads
	e.start(attr, hydraPath, path, strconv.Itoa(heads), mode)
	e.eventually("all heads live", func() bool { return e.word(0) == int64(heads) || e.hasEnded() })
	return e
}

func (e *execution) word(slot int) int64 {
	return (*atomic.Int64)(unsafe.Pointer(&e.mem[64*slot])).Load()
}

// last is the moment of the last instruction of any head.
func (e *execution) last() (last Instant) {
	for i := range e.heads {
		last = max(last, Instant(e.word(i+1)))
	}
	return last
}

// dies asserts that no head acts later than the given moment allows.
func (e *execution) dies(by Instant) {
	e.t.Helper()
	sleepPast(by.Add(late))
	last := e.last()
	time.Sleep(100 * time.Millisecond)
	if again := e.last(); again != last {
		e.t.Fatalf("the work runs on: it acted %v after it had to be dead\n%s", again.Sub(by), e.said())
	}
	if last > by.Add(late) {
		e.t.Errorf("the last instruction came %v after the work had to be dead", last.Sub(by))
	}
	e.t.Logf("last instruction %v after it", last.Sub(by))
}

// lives asserts that the work acts at a moment.
func (e *execution) lives(what string) {
	e.t.Helper()
	now := Now()
	e.eventually(what+": the work lives", func() bool { return e.last() > now })
}

func sleepPast(at Instant) {
	for Now() < at {
		sleepUntil(at)
	}
}

func (e *execution) eventually(what string, ok func() bool) {
	e.t.Helper()
	for end := Now().Add(patient); !ok(); time.Sleep(time.Millisecond) {
		if Now() > end {
			e.t.Fatalf("waited in vain until %s\n%s", what, e.said())
		}
	}
}

func (e *execution) hasEnded() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

// exits asserts the exit code (128+n for a signal) and what stderr contains.
func (e *execution) exits(code int, says string) *execution {
	e.t.Helper()
	select {
	case <-e.ended:
	case <-time.After(patient):
		e.t.Fatalf("the keeper did not end\n%s", e.said())
	}
	ws := e.cmd.ProcessState.Sys().(syscall.WaitStatus)
	got := ws.ExitStatus()
	if ws.Signaled() {
		got = 128 + int(ws.Signal())
	}
	if got != code {
		e.t.Errorf("exit code %d, expected %d\n%s", got, code, e.said())
	}
	if !strings.Contains(e.said(), says) {
		e.t.Errorf("stderr does not say %q:\n%s", says, e.said())
	}
	return e
}

func (e *execution) said() string {
	b, _ := os.ReadFile(e.stderr)
	return string(b)
}

func (e *execution) output() string {
	b, _ := os.ReadFile(e.stdout)
	return string(b)
}

// stop reads the stop record and checks it as a whole.
func (e *execution) stop(cause string) Stop {
	e.t.Helper()
	b, err := os.ReadFile(e.record)
	if err != nil {
		e.t.Fatalf("%v\n%s", err, e.said())
	}
	var s Stop
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		e.t.Fatal(err)
	}
	if s.Cause != cause || !s.Confirmed || s.Exec == "" {
		e.t.Errorf("stop record %+v, expected a confirmed one with cause %q", s, cause)
	}
	return s
}

// pushed has the agent push an event to the keeper.
func (e *execution) pushed(event string) {
	e.t.Helper()
	select {
	case e.agent.push <- event:
	case <-e.ended:
		e.t.Fatalf("nobody listens for an event: the keeper has ended\n%s", e.said())
	case <-time.After(patient):
		e.t.Fatalf("nobody listens for an event: the keeper has not connected\n%s", e.said())
	}
}

// initPID is the pid of the namespace init: the keeper's only child.
func (e *execution) initPID() int { return e.child(e.cmd.Process.Pid) }

func (e *execution) child(parent int) int {
	e.t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		b, _ := os.ReadFile(stat)
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			return pid
		}
	}
	e.t.Fatal("it has no child")
	return 0
}

// keepers reports whether a keeper of an agent's lives.
func keepers(socket string) bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	return slices.ContainsFunc(lines, func(path string) bool {
		b, _ := os.ReadFile(path)
		return bytes.Contains(b, []byte(socket)) && filepath.Base(filepath.Dir(path)) != strconv.Itoa(os.Getpid())
	})
}

func create(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t testing.TB, path string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}
