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
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	annotation = "writ-attestation.github.io/hold"
	life       = 6 * time.Second
	patient    = 60 * time.Second
)

// TestContainersOfARealEngine: the library by which containerd asks its plugins, with
// writ-nri as a plugin that it requires, and containers that runc makes. Nothing is
// created while the plugin is away; a container that asks runs while its token is
// renewed and dies at the deadline; another, the naive twin, runs on; and what gets no
// token never starts.
func TestContainersOfARealEngine(t *testing.T) {
	n := newNode(t)
	e := newEngine(t)
	held := e.container("true")
	if err := e.create(held); err == nil {
		t.Fatal("a container was created though the required plugin is away")
	}
	e.plug(n)
	unheld := e.container("false")
	for _, c := range []*box{held, unheld} {
		if err := e.create(c); err != nil {
			t.Fatal(err)
		}
		c.runc("create", "--bundle", c.bundle, c.id)
		if err := e.start(c); err != nil {
			t.Fatalf("%v\n%s", err, e.said())
		}
		c.runc("start", c.id)
		c.eventually("it runs", func() bool { return c.beats() != "" })
	}
	first := enclave.Instant(n.until.Load())
	held.eventually("its token is renewed", func() bool { return enclave.Instant(n.until.Load()) > first })
	for enclave.Now() < first.Add(time.Second) {
		time.Sleep(10 * time.Millisecond)
	}
	if !held.alive() {
		t.Fatalf("it died though its token was renewed\n%s", e.said())
	}
	n.grants.Store(false)
	held.eventually("it is dead", func() bool { return !held.alive() })
	if last := enclave.Instant(n.until.Load()); enclave.Now() > last.Add(10*time.Second) {
		t.Errorf("it died %v after its deadline", enclave.Now().Sub(last))
	}
	if was := unheld.beats(); !unheld.alive() {
		t.Error("a container that did not ask died, so this test shows nothing")
	} else {
		unheld.eventually("it works on", func() bool { return unheld.beats() != was })
	}

	late := e.container("true")
	if err := e.create(late); err != nil {
		t.Fatal(err) // the node is legitimate; there is no token for this container
	}
	late.runc("create", "--bundle", late.bundle, late.id)
	if err := e.start(late); err == nil || !strings.Contains(err.Error(), "run/no-token") {
		t.Errorf("started without a token: %v", err)
	}
	late.eventually("what waited is dead", func() bool { return !late.alive() })
	if late.beats() != "" {
		t.Error("it ran")
	}
}

// engine is what containerd is to its plugins.
type engine struct {
	t      *testing.T
	dir    string
	socket string
	log    string
	*adaptation.Adaptation
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "writ-nri-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &engine{t: t, dir: dir, socket: filepath.Join(dir, "nri.sock"), log: filepath.Join(dir, "log")}
	adaptation.SetPluginRequestTimeout(patient)
	adaptation.SetPluginRegistrationTimeout(patient)
	e.Adaptation, err = adaptation.New("containerd", "v2.2.0",
		func(ctx context.Context, sync adaptation.SyncCB) error { _, err := sync(ctx, nil, nil); return err },
		func(context.Context, []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
			return nil, nil
		},
		adaptation.WithSocketPath(e.socket), adaptation.WithPluginPath(filepath.Join(dir, "none")), adaptation.WithPluginConfigPath(filepath.Join(dir, "none")),
		adaptation.WithDefaultValidator(&validator.DefaultValidatorConfig{Enable: true, RequiredPlugins: []string{"writ"}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

// plug starts writ-nri and waits until the engine knows it.
func (e *engine) plug(n *node) {
	e.t.Helper()
	build := exec.Command("go", "build", "-o", e.dir+"/", "./cmd/writ-nri", "./cmd/writ-keeper", "./cmd/writ-bpf")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		e.t.Fatalf("%v\n%s", err, out)
	}
	log, err := os.Create(e.log)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(e.dir, "writ-nri"), "-nri-socket", e.socket, "-socket", n.socket, "-trust", n.trust)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(patient); ; time.Sleep(10 * time.Millisecond) {
		if err := e.create(e.container("")); err == nil {
			return
		} else if time.Now().After(end) {
			e.t.Fatalf("the plugin does not come: %v\n%s", err, e.said())
		}
	}
}

func (e *engine) said() string {
	b, _ := os.ReadFile(e.log)
	return string(b)
}

func (e *engine) create(b *box) error {
	_, err := e.CreateContainer(e.t.Context(), &adaptation.CreateContainerRequest{Pod: b.pod, Container: b.api})
	return err
}

func (e *engine) start(b *box) error {
	return e.StartContainer(e.t.Context(), &adaptation.StartContainerRequest{Pod: b.pod, Container: b.api})
}

// box is a container that writes the time into a file, again and again.
type box struct {
	t          *testing.T
	id, bundle string
	pod        *adaptation.PodSandbox
	api        *adaptation.Container
}

func (e *engine) container(hold string) *box {
	e.t.Helper()
	id := "writ-" + strings.ToLower(rand.Text())
	b := &box{t: e.t, id: id, bundle: filepath.Join(e.dir, id)}
	for _, d := range []string{"rootfs", "out"} {
		if err := os.MkdirAll(filepath.Join(b.bundle, d), 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	args := []string{"/bin/sh", "-c", "while :; do date +%s%N >/out/beat; sleep 0.02; done"}
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/out", "type": "none", "source": filepath.Join(b.bundle, "out"), "options": []string{"rbind"}},
	}
	for _, d := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		mounts = append(mounts, map[string]any{"destination": d, "type": "none", "source": d, "options": []string{"rbind", "ro"}})
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2", "root": map[string]any{"path": "rootfs"}, "mounts": mounts,
		"process": map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": []string{"PATH=/usr/bin:/bin"}},
		"linux":   map[string]any{"cgroupsPath": "/" + id, "namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}}},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), config, 0o644); err != nil {
		e.t.Fatal(err)
	}
	b.pod = &adaptation.PodSandbox{Id: "pod-" + id, Name: "pod", Uid: "uid", Namespace: "default", Annotations: map[string]string{annotation: hold}}
	b.api = &adaptation.Container{Id: id, PodSandboxId: "pod-" + id, Name: "work", Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Linux: &adaptation.LinuxContainer{CgroupsPath: "/" + id}}
	e.t.Cleanup(func() {
		out, err := exec.Command("runc", "--root", filepath.Join(e.dir, "runc"), "delete", "--force", id).CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("does not exist")) {
			e.t.Errorf("deleting a container: %v\n%s", err, out)
		}
	})
	return b
}

func (b *box) runc(args ...string) {
	b.t.Helper()
	cmd := exec.Command("runc", append([]string{"--root", filepath.Join(filepath.Dir(b.bundle), "runc")}, args...)...)
	log, err := os.CreateTemp(b.bundle, "log") // a file: the container holds its standard files
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log.Name())
		b.t.Fatalf("runc %s: %v\n%s", args[0], err, said)
	}
}

func (b *box) beats() string {
	beat, _ := os.ReadFile(filepath.Join(b.bundle, "out", "beat"))
	return string(beat)
}

func (b *box) alive() bool {
	dir, err := enclave.GroupDir("/" + b.id)
	if err != nil {
		b.t.Fatal(err)
	}
	events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err == nil && bytes.Contains(events, []byte("populated 1"))
}

func (b *box) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patient); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// node is an agent and a verifier in one, which really signs.
type node struct {
	socket, trust string
	key           *ecdsa.PrivateKey
	seq           atomic.Uint64
	grants        atomic.Bool
	until         atomic.Int64 // Instant: no token given so far is valid for longer
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "writ-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{socket: filepath.Join(dir, "agent.sock"), trust: filepath.Join(dir, "trust.json")}
	n.grants.Store(true)
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
		_ = json.NewEncoder(w).Encode(map[string]any{"legitimate": true, "expires": time.Now().Unix() + 600})
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
	var req struct{ Audience, Exec, WL, Level, R string }
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !n.grants.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"title":"unavailable"}`)
		return
	}
	seq := n.seq.Add(1)
	now, digest := time.Now().Unix(), strings.Repeat("A", 43)
	tok, err := token.Issue(token.Claims{
		Issuer: "https://test.invalid", Subject: "spiffe://test.invalid/node/00112233445566778899aabbccddeeff", Audience: req.Audience, ID: strconv.FormatUint(seq, 10),
		IssuedAt: now, NotBefore: now, Expires: now + int64(life/time.Second),
		Confirm: token.Confirm{JKT: digest}, Nonce: req.R, BootCount: 7, Status: "affirming",
		Verifier: token.Verifier{Developer: "https://test.invalid", Build: "test"},
		Submods:  map[string]token.Submod{"platform": {Status: "affirming", Policies: []string{"urn:test"}}},
		Writ: token.Writ{V: 1, State: "synchronized", Seq: seq, Execution: req.Exec, Workload: req.WL, Level: req.Level, Key: "lease",
			Evidence: digest, References: digest, Verdict: digest, Log: token.Log{Origin: "test.invalid/log", Index: int64(seq)}},
	}, n.key, rand.Reader)
	if err != nil {
		http.Error(w, fmt.Sprint(err), http.StatusInternalServerError)
		return
	}
	n.until.Store(int64(received.Add(life)))
	_ = json.NewEncoder(w).Encode(map[string]string{"token": tok})
}
