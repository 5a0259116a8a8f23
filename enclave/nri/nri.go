// Package nri has a container engine (containerd, CRI-O) refuse and hold containers,
// through its Node Resource Interface: a container that asks for it starts only with
// a token, under a keeper of its own, which kills its cgroup at the deadline.
//
// Hazards. An engine asks its plugins while they are connected: it must be told to
// require this one, or containers start unheld while it is away. A keeper does not end
// with the plugin, nor with the engine, but what manages services may kill it with
// theirs. Who writes a pod's annotations decides whether it asks; that is for
// admission control.
package nri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/writ-attestation/writ/enclave"
)

// Annotation of a pod, or of one container, that asks for a keeper: "true", or "false"
// for none. Another value is refused.
const Annotation = "writ-attestation.github.io/hold"

// Config of a Plugin.
type Config struct {
	Keeper   string // path of writ-keeper
	Socket   string // of the agent
	Trust    string // trust file
	Audience string // of the tokens, or "" for the domain's enclave
	Log      *slog.Logger
}

// A Plugin answers an engine's questions about containers.
type Plugin struct{ cfg Config }

// New makes a plugin. Nothing starts before Serve.
func New(cfg Config) (*Plugin, error) {
	if cfg.Keeper == "" || cfg.Socket == "" || cfg.Trust == "" || cfg.Log == nil {
		return nil, errors.New("starting the plugin: keeper, socket, trust file and log are needed")
	}
	return &Plugin{cfg}, nil
}

// Serve answers until ctx or the connection to the engine ends.
func (p *Plugin) Serve(ctx context.Context, opts ...stub.Option) error {
	opts = append([]stub.Option{
		stub.WithPluginName("writ"),
		stub.WithLogger(logger{p.cfg.Log}),
		stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: true}), // no answer is a no
		stub.WithOnClose(func() {}),                                   // Serve returns; the stub would leave the program
	}, opts...)
	s, err := stub.New(p, opts...)
	if err != nil {
		return fmt.Errorf("making the plugin: %w", err)
	}
	if err := s.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving the engine: %w", err)
	}
	return nil
}

// Synchronize is told what runs when the plugin comes (back). What asks for a keeper
// and has none gets one now, or is killed.
func (p *Plugin) Synchronize(ctx context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	byID := make(map[string]*api.PodSandbox)
	for _, pod := range pods {
		byID[pod.GetId()] = pod
	}
	for _, c := range containers {
		if s := c.GetState(); s != api.ContainerState_CONTAINER_RUNNING && s != api.ContainerState_CONTAINER_PAUSED {
			continue
		}
		held, err := wanted(byID[c.GetPodSandboxId()], c)
		if err == nil && !held {
			continue
		}
		if err == nil {
			err = p.hold(ctx, c)
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == enclave.ExitHeld {
			continue // its keeper outlived the plugin before
		}
		if err != nil {
			p.cfg.Log.ErrorContext(ctx, "a container that ran unheld was killed", "container", c.GetId(), "name", c.GetName(), "err", err)
		}
	}
	return nil, nil
}

// CreateContainer refuses early, before anything is made of the container.
func (p *Plugin) CreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	held, err := wanted(pod, c)
	if err == nil && held {
		err = p.legitimate(ctx)
	}
	return nil, nil, err
}

// StartContainer is asked when the container's first process waits in its cgroup. It
// returns nil when a keeper has a token and holds it; else the engine gives it up, and
// it is dead already.
func (p *Plugin) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	held, err := wanted(pod, c)
	if err == nil && held {
		err = p.hold(ctx, c)
	}
	if err != nil {
		p.cfg.Log.WarnContext(ctx, "a container was refused", "container", c.GetId(), "name", c.GetName(), "err", err)
	}
	return err
}

// wanted reports whether a container asks for a keeper; its own annotation goes first.
func wanted(pod *api.PodSandbox, c *api.Container) (bool, error) {
	value, ok := c.GetAnnotations()[Annotation]
	if !ok {
		value = pod.GetAnnotations()[Annotation]
	}
	switch value {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, fmt.Errorf("annotation %s is %.40q: expected true or false", Annotation, value)
}

// legitimate asks the agent whether the node has a token.
func (p *Plugin) legitimate(ctx context.Context) error {
	ask := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.cfg.Socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		return err
	}
	res, err := ask.Do(req)
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	defer res.Body.Close()
	var s struct {
		Legitimate bool   `json:"legitimate"`
		Expires    int64  `json:"expires"`
		Problem    string `json:"problem"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 8<<20)).Decode(&s); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the agent: it answered %s (%v)", res.Status, err)
	}
	if !s.Legitimate || time.Now().Unix() >= s.Expires {
		return fmt.Errorf("this node is not legitimate: %.300s", s.Problem)
	}
	return nil
}

var imageRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// hold starts a keeper for a container and waits until it has a token. What cannot be
// held is killed, unless another keeper holds it.
func (p *Plugin) hold(ctx context.Context, c *api.Container) error {
	path, err := groupPath(c.GetLinux().GetCgroupsPath())
	if err != nil {
		return err
	}
	dir, err := enclave.GroupDir(path)
	if err != nil {
		return err
	}
	kill, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("looking for the container's cgroup: %w", err)
	}
	err = p.start(ctx, c, dir, kill)
	var exit *exec.ExitError
	if err == nil {
		return nil // kill is the watcher's
	}
	if !errors.As(err, &exit) || exit.ExitCode() != enclave.ExitHeld {
		_, _ = kill.Write([]byte{'1'})
	}
	return errors.Join(err, kill.Close())
}

// start starts the keeper, in a session of its own, and returns when it holds the
// container. What it says goes to the plugin's log, and the reason of a refusal to the
// engine.
func (p *Plugin) start(ctx context.Context, c *api.Container, dir string, kill *os.File) error {
	if len(c.GetArgs()) == 0 {
		return errors.New("starting a keeper: the container has no command")
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a line to the keeper: %w", err)
	}
	line, theirs := os.NewFile(uintptr(pair[0]), "line"), os.NewFile(uintptr(pair[1]), "line")
	args := []string{"-adopt", dir, "-path", variable(c.GetEnv(), "PATH"), "-socket", p.cfg.Socket, "-trust", p.cfg.Trust, "-audience", p.cfg.Audience, "-line", "3"}
	if digest := c.GetImage().GetDigest(); imageRE.MatchString(digest) {
		args = append(args, "-image", digest)
	}
	said := &head{to: os.Stderr}
	cmd := exec.Command(p.cfg.Keeper, append(append(args, "--"), c.GetArgs()...)...)
	cmd.Stderr, cmd.ExtraFiles = said, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // for a guard that holds the same stderr
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return errors.Join(fmt.Errorf("starting a keeper: %w", err), line.Close())
	}
	gone := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		defer line.Close()
		follow(line, ready)
		gone <- cmd.Wait()
	}()
	select {
	case <-ready:
		p.cfg.Log.InfoContext(ctx, "a container is held", "container", c.GetId(), "name", c.GetName(), "keeper", cmd.Process.Pid)
		go p.watch(c, kill, gone)
		return nil
	case err := <-gone:
		return fmt.Errorf("a keeper refused: %s: %w", said, err)
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-gone
		return fmt.Errorf("waiting for a keeper to get a token: %w", ctx.Err())
	}
}

// follow closes ready when the keeper says that it holds the work, and returns when
// it says no more.
func follow(line *os.File, ready chan<- struct{}) {
	var b [256]byte
	for said := false; ; {
		n, err := line.Read(b[:])
		if err != nil || n == 0 {
			return
		}
		if !said && bytes.HasPrefix(b[:n], []byte("READY=1")) {
			said = true
			close(ready)
		}
	}
}

// watch kills the container once more when its keeper has gone, whatever of: there is
// no work without a keeper.
func (p *Plugin) watch(c *api.Container, kill *os.File, gone <-chan error) {
	defer kill.Close()
	err := <-gone
	_, _ = kill.Write([]byte{'1'}) // fails if the cgroup is gone already
	p.cfg.Log.Info("a container is over", "container", c.GetId(), "name", c.GetName(), "keeper", fmt.Sprint(err))
}

func variable(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// A head passes on what it is told and remembers the beginning of it.
type head struct {
	to    io.Writer
	mu    sync.Mutex
	begin []byte
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin = append(h.begin, b[:min(len(b), 500-min(500, len(h.begin)))]...)
	return h.to.Write(b)
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.TrimSpace(string(h.begin))
}
