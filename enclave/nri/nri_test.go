package nri

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	nrinet "github.com/containerd/nri/pkg/net"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/verifier/token"
)

var keeperPath string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "writ-nri-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	keeperPath = filepath.Join(dir, "writ-keeper")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "../../cmd/writ-keeper", "../../cmd/writ-bpf")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the keeper: %v\n%s", err, out))
	}
	return m.Run()
}

const life = 4 * time.Second

// node is an agent and a verifier in one, which really signs.
type node struct {
	dir, socket, trust string
	key                *ecdsa.PrivateKey

	mu         sync.Mutex
	seq        uint64
	legitimate bool
	grants     bool
	images     []string
	latest     enclave.Instant // no token given so far is valid for longer
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "writ-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{dir: dir, socket: filepath.Join(dir, "agent.sock"), trust: filepath.Join(dir, "trust.json"), legitimate: true, grants: true}
	if n.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	keys, err := token.NewKeys(n.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	trust, err := json.Marshal(map[string]any{"v": 1, "domain": "test.invalid", "token_keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.trust, trust, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"legitimate": n.legitimate, "expires": time.Now().Unix() + 60, "problem": "policy-denied: PCR 4"})
	})
	mux.HandleFunc("POST /v1/lease", n.lease)
	mux.HandleFunc("POST /v1/stops", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return n
}

func (n *node) lease(w http.ResponseWriter, r *http.Request) {
	received := enclave.Now()
	var req struct{ Audience, Exec, WL, Level, R, Image string }
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.images = append(n.images, req.Image)
	if !n.grants {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"title":"unavailable"}`)
		return
	}
	n.seq++
	n.latest = received.Add(life)
	now, digest := time.Now().Unix(), strings.Repeat("A", 43)
	tok, err := token.Issue(token.Claims{
		Issuer: "https://test.invalid", Subject: "spiffe://test.invalid/node/00112233445566778899aabbccddeeff", Audience: req.Audience, ID: strconv.FormatUint(n.seq, 10),
		IssuedAt: now, NotBefore: now, Expires: now + int64(life/time.Second),
		Confirm: token.Confirm{JKT: digest}, Nonce: req.R, BootCount: 7, Status: "affirming",
		Verifier: token.Verifier{Developer: "https://test.invalid", Build: "test"},
		Submods:  map[string]token.Submod{"platform": {Status: "affirming", Policies: []string{"urn:test"}}},
		Writ: token.Writ{V: 1, State: "synchronized", Seq: n.seq, Execution: req.Exec, Workload: req.WL, Level: req.Level, Key: "lease",
			Evidence: digest, References: digest, Verdict: digest, Log: token.Log{Origin: "test.invalid/log", Index: int64(n.seq)}},
	}, n.key, rand.Reader)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"token": tok})
}

func (n *node) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) until() (at enclave.Instant) {
	n.set(func() { at = n.latest })
	return at
}

// engine is the other end of a plugin's connection: what containerd does there.
type engine struct {
	api.PluginService
	policy     *api.FailurePolicy
	disconnect func()
}

// registry takes the plugin's registration.
type registry struct {
	registered chan *api.RegisterPluginRequest
}

func (r registry) RegisterPlugin(_ context.Context, req *api.RegisterPluginRequest) (*api.Empty, error) {
	r.registered <- req
	return &api.Empty{}, nil
}

func (r registry) UpdateContainers(context.Context, *api.UpdateContainersRequest) (*api.UpdateContainersResponse, error) {
	return &api.UpdateContainersResponse{}, nil
}

// connected runs a plugin and has an engine configure it, over a pair of sockets.
func connected(t *testing.T, n *node) *engine {
	t.Helper()
	pair, err := nrinet.NewSocketPair()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := pair.LocalConn()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := pair.PeerConn()
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{Keeper: keeperPath, Socket: n.socket, Trust: n.trust, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	trunk := multiplex.Multiplex(ours, multiplex.WithBlockedRead())
	conn, err := trunk.Open(multiplex.PluginServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := trunk.Listen(multiplex.RuntimeServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	rpcs, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	r := registry{make(chan *api.RegisterPluginRequest, 1)}
	api.RegisterRuntimeService(rpcs, r)
	rpcc := ttrpc.NewClient(conn)
	var served sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	served.Go(func() { _ = rpcs.Serve(ctx, l) })
	trunk.Unblock()
	served.Go(func() { _ = p.Serve(ctx, stub.WithPluginIdx("90"), stub.WithConnection(theirs)) })
	e := &engine{PluginService: api.NewPluginClient(rpcc)}
	e.disconnect = sync.OnceFunc(func() {
		cancel()
		_ = rpcc.Close()
		_ = rpcs.Close()
		_ = trunk.Close()
		served.Wait()
	})
	t.Cleanup(e.disconnect)
	if req := <-r.registered; req.GetPluginName() != "writ" {
		t.Fatalf("registered %v", req)
	}
	cfg, err := e.Configure(t.Context(), &api.ConfigureRequest{RuntimeName: "containerd", RuntimeVersion: "v2.2.0", RegistrationTimeout: 5000, RequestTimeout: 2000, NRIVersion: "v0.12.5"})
	if err != nil {
		t.Fatal(err)
	}
	e.policy = cfg.GetFailurePolicy()
	for _, event := range []api.Event{api.Event_CREATE_CONTAINER, api.Event_START_CONTAINER} {
		if events := api.EventMask(cfg.GetEvents()); !events.IsSet(event) {
			t.Errorf("the plugin does not want %v", event)
		}
	}
	return e
}

// box is a container whose first process waits in its cgroup to be started.
type box struct {
	*api.Container
	t   *testing.T
	cmd *exec.Cmd
	dir string
}

func newBox(t *testing.T) *box {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	path := ""
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = filepath.Join(p, fmt.Sprintf("nritest-%d-%s", os.Getpid(), rand.Text()))
		}
	}
	dir, err := enclave.GroupDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, dir: dir, Container: &api.Container{Id: filepath.Base(path), PodSandboxId: "pod", Name: "work", State: api.ContainerState_CONTAINER_CREATED,
		Args: []string{"sleep", "1000"}, Env: []string{"A=B", "PATH=/none:/bin:/usr/bin"}, Linux: &api.LinuxContainer{CgroupsPath: path},
		Image: &api.Image{Digest: "sha256:" + strings.Repeat("5a", 32)}}}
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	b.cmd = exec.Command("sh", "-c", "kill -STOP $$; sleep 1000 & exec sleep 1000")
	b.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go b.cmd.Wait()
	t.Cleanup(func() {
		for os.Remove(dir) != nil {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte{'1'}, 0)
			time.Sleep(5 * time.Millisecond)
		}
		b.eventually("its keeper has gone", func() bool {
			lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			return !slices.ContainsFunc(lines, func(line string) bool {
				args, _ := os.ReadFile(line)
				return bytes.Contains(args, []byte(dir))
			})
		})
	})
	b.eventually("it waits", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
		return bytes.Contains(stat, []byte(") T "))
	})
	return b
}

func (b *box) release() {
	b.t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) alive() bool {
	events, err := os.ReadFile(filepath.Join(b.dir, "cgroup.events"))
	return err == nil && bytes.Contains(events, []byte("populated 1"))
}

func (b *box) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// diesAt asserts that the container lives nearly up to the end of a token, which counts
// from before it was asked for, and not much longer.
func (b *box) diesAt(at enclave.Instant) {
	b.t.Helper()
	b.eventually("it is dead", func() bool { return !b.alive() })
	if now := enclave.Now(); now < at.Add(-2*time.Second) || now > at.Add(10*time.Second) {
		b.t.Errorf("it died %v after it should", now.Sub(at))
	}
}

var asking = map[string]string{Annotation: "true"}

func pod(annotations map[string]string) *api.PodSandbox {
	return &api.PodSandbox{Id: "pod", Name: "pod", Namespace: "default", Annotations: annotations}
}

func (e *engine) create(b *box, annotations map[string]string) error {
	_, err := e.CreateContainer(b.t.Context(), &api.CreateContainerRequest{Pod: pod(annotations), Container: b.Container})
	return err
}

func (e *engine) start(b *box, annotations map[string]string) error {
	_, err := e.StartContainer(b.t.Context(), &api.StartContainerRequest{Pod: pod(annotations), Container: b.Container})
	return err
}

func TestContainerDiesAtTheDeadline(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	e, b := connected(t, n), newBox(t)
	if !e.policy.GetFailRequest() {
		t.Error("a plugin that does not answer lets containers start")
	}
	if err := e.create(b, asking); err != nil {
		t.Fatal(err)
	}
	if err := e.start(b, asking); err != nil {
		t.Fatal(err)
	}
	first := n.until()
	b.release()
	for enclave.Now() < first.Add(300*time.Millisecond) {
		time.Sleep(10 * time.Millisecond)
	}
	if !b.alive() {
		t.Fatal("it died though its token was renewed")
	}
	n.set(func() { n.grants = false })
	b.diesAt(n.until())
	n.set(func() {
		if n.images[0] != b.GetImage().GetDigest() {
			t.Errorf("the request names the image %q", n.images[0])
		}
	})
}

// The naive twin: the node is asked once, as a hook does, and what runs, runs on.
func TestUnheldContainerRunsOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	e, b := connected(t, n), newBox(t)
	for _, annotations := range []map[string]string{nil, {Annotation: "false"}, {Annotation: ""}} {
		if err := e.create(b, annotations); err != nil {
			t.Fatal(err)
		}
		if err := e.start(b, annotations); err != nil {
			t.Fatal(err)
		}
	}
	n.set(func() { n.grants, n.legitimate = false, false })
	b.release()
	time.Sleep(life + 500*time.Millisecond)
	if !b.alive() {
		t.Error("a container that nobody holds died, so the other tests show nothing")
	}
}

func TestContainerRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change      func(n *node, b *box)
		annotations map[string]string
		create      string // what the refusal says; "" is no refusal
		start       string
	}{
		"no token":           {func(n *node, b *box) { n.grants = false }, asking, "", "run/no-token"},
		"not legitimate":     {func(n *node, b *box) { n.grants, n.legitimate = false, false }, asking, "PCR 4", "run/no-token"},
		"no agent":           {func(n *node, b *box) { _ = os.Remove(n.socket) }, asking, "asking the agent", "run/agent-unreachable"},
		"unknown value":      {func(n *node, b *box) {}, map[string]string{Annotation: "yes"}, "expected true or false", "expected true or false"},
		"its own word":       {func(n *node, b *box) { b.Annotations = map[string]string{Annotation: "maybe"} }, nil, "maybe", "maybe"},
		"no trust file":      {func(n *node, b *box) { _ = os.Remove(n.trust) }, asking, "", "run/trust"},
		"no such program":    {func(n *node, b *box) { b.Args[0] = "writ-none" }, asking, "", "run/not-found"},
		"no command":         {func(n *node, b *box) { b.Args = nil }, asking, "", "no command"},
		"no cgroup":          {func(n *node, b *box) { b.Linux.CgroupsPath += "x" }, asking, "", "cgroup"},
		"no cgroup's path":   {func(n *node, b *box) { b.Linux = nil }, asking, "", "cgroup"},
		"the engine's":       {func(n *node, b *box) { b.Linux.CgroupsPath = filepath.Dir(b.Linux.CgroupsPath) }, asking, "", "cgroup"},
		"a path that climbs": {func(n *node, b *box) { b.Linux.CgroupsPath += "/../../.." }, asking, "", "clean path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			e, b := connected(t, n), newBox(t)
			n.set(func() { c.change(n, b) })
			for _, step := range []struct {
				err  error
				says string
			}{{e.create(b, c.annotations), c.create}, {e.start(b, c.annotations), c.start}} {
				if (step.err != nil) != (step.says != "") || step.err != nil && !strings.Contains(step.err.Error(), step.says) {
					t.Errorf("%v, expected it to say %q", step.err, step.says)
				}
			}
		})
	}
}

// Refusing is not enough if the engine goes on: what waits is dead.
func TestRefusedContainerIsDead(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.set(func() { n.grants = false })
	e, b := connected(t, n), newBox(t)
	if err := e.start(b, asking); err == nil {
		t.Fatal("it was not refused")
	}
	b.eventually("it is dead", func() bool { return !b.alive() })
}

// The plugin goes away and comes back: its keepers hold on, and what runs unheld gets a
// keeper or is killed.
func TestPluginRestarted(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	e, b := connected(t, n), newBox(t)
	if err := e.start(b, asking); err != nil {
		t.Fatal(err)
	}
	b.release()
	e.disconnect()
	unheld, unasked := newBox(t), newBox(t)
	for _, b := range []*box{b, unheld, unasked} {
		b.State = api.ContainerState_CONTAINER_RUNNING
	}
	unasked.Annotations = map[string]string{Annotation: "false"}
	e = connected(t, n)
	all := &api.SynchronizeRequest{Pods: []*api.PodSandbox{pod(asking)}, Containers: []*api.Container{b.Container, unheld.Container, unasked.Container}}
	if _, err := e.Synchronize(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if !b.alive() || !unheld.alive() {
		t.Fatal("a container that has, or gets, a token died")
	}
	n.set(func() { n.grants = false })
	deadline := n.until()
	late := newBox(t)
	late.State = api.ContainerState_CONTAINER_RUNNING
	all.Containers = []*api.Container{late.Container}
	if _, err := e.Synchronize(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	late.eventually("it is dead, for there was no token for it", func() bool { return !late.alive() })
	b.eventually("it is dead", func() bool { return !b.alive() })
	unheld.eventually("it is dead", func() bool { return !unheld.alive() })
	if now := enclave.Now(); now > deadline.Add(10*time.Second) {
		t.Errorf("they died %v after their deadline", now.Sub(deadline))
	}
	if !unasked.alive() {
		t.Error("a container that did not ask died")
	}
}

func TestGroupPath(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"/kubepods/burstable/pod1/c1":                         "/kubepods/burstable/pod1/c1",
		"kubepods-besteffort-pod12_3.slice:cri-containerd:c1": "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod12_3.slice/cri-containerd-c1.scope",
		"-.slice:crio:c1":                                     "/crio-c1.scope",
		":crio:c1":                                            "/system.slice/crio-c1.scope",
		"machine.slice:libpod:c1.slice":                       "/machine.slice/c1.slice",
		"":                                                    "",
		"relative":                                            "",
		"a.slice:b":                                           "",
		"a.slice:b:c:d":                                       "",
		"a.slice::c":                                          "",
		"a.slice:b:":                                          "",
		"a:b:c":                                               "",
		"a--b.slice:b:c":                                      "",
		"../a.slice:b:c":                                      "",
		"a.slice:b:../../c":                                   "",
	} {
		got, err := groupPath(s)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, expected %q", s, got, err, want)
		}
	}
}

func FuzzGroupPath(f *testing.F) {
	f.Add("/a/b")
	f.Add("kubepods-pod1.slice:cri-containerd:c1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := groupPath(s)
		if err == nil && !strings.HasPrefix(got, "/") {
			t.Errorf("%q is at %q", s, got)
		}
		if err == nil && !strings.HasPrefix(s, "/") && strings.Contains(got, "..") && !strings.Contains(s, "..") {
			t.Errorf("%q climbs to %q", s, got)
		}
	})
}
