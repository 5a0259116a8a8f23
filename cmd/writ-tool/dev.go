package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/reference"
)

func newDev() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Start a whole domain on this machine to play with",
		Long: `Start a verifier and three nodes with software TPMs, booted from recorded logs of
real machines, provision and attest them, and leave them running until Ctrl-C.
Everything is on loopback; the domain, dev.invalid, its TPM maker and its keys are
for play, and writd serve refuses its data.

With --demo, run through what Writ does, check each step, clean up and exit 0 only
if all of it happened. Needs swtpm, and writd and writ-keeper beside writ.`,
		Example: `  writ dev
  writ dev --demo`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.demo && !cmd.Flags().Changed("token-life") {
				o.life = 6 * time.Second
			}
			return runDev(cmd.Context(), cmd.OutOrStdout(), &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.demo, "demo", false, "run the demonstration and exit")
	f.StringVar(&o.dir, "dir", "", "keep state in `directory` (default: a temporary one, removed at the end)")
	f.StringArrayVar(&o.set, "set", nil, "`line` of writd.toml for the verifier, such as 'ear_profile = \"veraison-2023\"'")
	f.DurationVar(&o.life, "token-life", time.Minute, "how long tokens live (6s with --demo)")
	return cmd
}

type devOptions struct {
	demo bool
	dir  string
	life time.Duration
	set  []string // lines of writd.toml
}

// dev is a running development domain.
type dev struct {
	options *devOptions
	out     io.Writer
	dir     string
	self    string // this program; writd and writ-keeper are beside it
	level   enclave.Level
	maker   *swtpm.CA
	refKey  ed25519.PrivateKey

	verifier *child
	ready    devReady
	operator *client.Client
	nodes    []*devNode
	children []*child
	stage    *stage // of the page /demo; nil: none
}

// devReady is what `writd dev` prints once it serves.
type devReady struct {
	Domain   string `json:"domain"`
	Verifier string `json:"verifier"`
	Admin    string `json:"admin"`
	Operator string `json:"operator"`
}

// devNode is a machine with its agent.
type devNode struct {
	*machine
	id    string
	class string
	agent *child
}

// machines are the recorded boots the nodes are made from, one class each.
var machines = []struct{ name, boot, class, what string }{
	{"node 1", "c-grub-sb", "grub", "shim + GRUB, Secure Boot on"},
	{"node 2", "d-uki-sb", "uki", "unified kernel image, Secure Boot on"},
	{"node 3", "a-direct", "direct", "direct kernel boot"},
}

func runDev(ctx context.Context, out io.Writer, o *devOptions) (err error) {
	// What is started below dies with this process, however it ends, and that is
	// with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d := &dev{options: o, out: out, dir: o.dir, level: enclave.Detect().Level}
	for _, need := range []string{"swtpm"} {
		if _, err := exec.LookPath(need); err != nil {
			return exit(exitFailed, fmt.Errorf("%s is not installed: it stands in for the nodes' TPMs", need), "apt-get install "+need)
		}
	}
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "writ-dev-"); err != nil {
			return err
		}
		defer os.RemoveAll(d.dir)
	} else if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.acceptable(ctx); err != nil {
		return err
	}
	if o.demo {
		return d.demo(ctx)
	}
	return d.play(ctx)
}

// child is a process of the domain.
type child struct {
	*exec.Cmd
	name string
	last syscall.Signal // ends it: SIGTERM, but SIGKILL for work that ignores what it can
	done chan struct{}
	err  error // valid once done is closed
}

// start runs a program with its messages in a file of their own.
func (d *dev) start(name string, stdout io.Writer, program string, args ...string) (*child, error) {
	log, err := os.OpenFile(filepath.Join(d.dir, strings.ReplaceAll(name, " ", "-")+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &child{Cmd: exec.Command(program, args...), name: name, last: syscall.SIGTERM, done: make(chan struct{})}
	c.Env = ownEnvironment()
	c.Stdout, c.Stderr = stdout, log
	if stdout == nil {
		c.Stdout = log
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM} // Ctrl-C is ours to pass on, in order
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		c.err = c.Wait()
		close(c.done)
	}()
	d.children = append(d.children, c)
	return c, nil
}

// ownEnvironment is ours without what was exported for another domain.
func ownEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "WRIT_") })
}

// stop ends a process with a signal and waits for it.
func (c *child) stop(sig syscall.Signal) {
	select {
	case <-c.done:
		return
	default:
	}
	_ = c.Process.Signal(sig) // it may have ended meanwhile
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		_ = c.Process.Kill()
		<-c.done
	}
}

// close ends everything, agents before machines.
func (d *dev) close() error {
	var errs []error
	if d.stage != nil {
		errs = append(errs, d.stage.close())
	}
	for i := len(d.children) - 1; i >= 0; i-- {
		d.children[i].stop(d.children[i].last)
	}
	for _, n := range d.nodes {
		errs = append(errs, n.Close())
	}
	if d.operator != nil {
		d.operator.Close()
	}
	return errors.Join(errs...)
}

// sibling is a program installed with this one.
func (d *dev) sibling(name string) (string, error) {
	path := filepath.Join(filepath.Dir(d.self), name)
	if _, err := os.Stat(path); err != nil {
		return "", exit(exitFailed, fmt.Errorf("%s is not beside %s", name, d.self), "make build makes all programs in bin/")
	}
	return path, nil
}

// startVerifier makes the TPM maker and the reference key, and runs writd dev.
func (d *dev) startVerifier(ctx context.Context) (err error) {
	if d.maker, err = swtpm.NewCA("writ dev", time.Now()); err != nil {
		return err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	d.refKey = key
	if err := os.WriteFile(filepath.Join(d.dir, "ek-root.pem"), d.maker.RootPEM(), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "reference-key.pem"), []byte(reference.FormatKey(pub)), 0o644); err != nil {
		return err
	}
	return d.runVerifier(ctx, "127.0.0.1:0")
}

// acceptable has writd look at its configuration, before anything starts.
func (d *dev) acceptable(ctx context.Context) error {
	writd, err := d.sibling("writd")
	if err != nil || len(d.options.set) == 0 {
		return err
	}
	var said bytes.Buffer
	c := exec.CommandContext(ctx, writd, append([]string{"dev", "--check", "--data", d.dir, "--token-life", d.options.life.String()}, d.lines()...)...)
	c.Stderr, c.Env = &said, ownEnvironment()
	if err := c.Run(); err != nil {
		text, _, _ := strings.Cut(strings.TrimPrefix(said.String(), "writd: error: "), "\nhint: ")
		return exit(exitUsage, errors.New(strings.TrimSpace(text)), "writd example-config prints every key that --set takes")
	}
	return nil
}

// lines are the arguments by which writd dev is given lines of its configuration.
func (d *dev) lines() (args []string) {
	for _, line := range d.options.set {
		args = append(args, "--set", line)
	}
	return args
}

// runVerifier runs writd dev on the data there is, and waits until it serves.
func (d *dev) runVerifier(ctx context.Context, listen string) error {
	writd, err := d.sibling("writd")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := []string{"dev", "--data", filepath.Join(d.dir, "verifier"), "--listen", listen, "--ek-root", filepath.Join(d.dir, "ek-root.pem"), "--reference-key", filepath.Join(d.dir, "reference-key.pem"), "--token-life", d.options.life.String()}
	args = append(args, d.lines()...)
	if d.stage != nil {
		args = append(args, "--demo", d.stage.socket)
	}
	d.verifier, err = d.start("verifier", w, writd, args...)
	w.Close()
	if err != nil {
		return err
	}
	line, err := firstLine(ctx, r, 15*time.Second)
	if err == nil {
		err = json.Unmarshal(line, &d.ready)
	}
	if err != nil {
		return fmt.Errorf("waiting for the verifier: %w%s", err, d.lastWords("verifier"))
	}
	raw, err := os.ReadFile(d.ready.Operator)
	if err != nil {
		return err
	}
	id, err := keys.ParseIdentity(raw)
	if err != nil {
		return err
	}
	if d.operator != nil {
		d.operator.Close()
	}
	d.operator, err = client.New(client.Config{URL: d.ready.Verifier, Operator: id})
	return err
}

// firstLine reads one line of a process that is to print it soon.
func firstLine(ctx context.Context, r *os.File, within time.Duration) ([]byte, error) {
	if err := r.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		err = errors.New("it ended before it was ready")
	}
	return line, err
}

// lastWords is the end of a process's log, to show why it failed.
func (d *dev) lastWords(name string) string {
	raw, err := os.ReadFile(filepath.Join(d.dir, strings.ReplaceAll(name, " ", "-")+".log"))
	if err != nil || len(raw) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// bootAll makes and boots the machines.
func (d *dev) bootAll(ctx context.Context) error {
	for i, m := range machines {
		booted, err := bootMachine(ctx, filepath.Join(d.dir, fmt.Sprintf("node-%d", i+1)), m.name, m.boot, d.maker)
		if err != nil {
			return err
		}
		d.nodes = append(d.nodes, &devNode{machine: booted, class: m.class})
	}
	return nil
}

// writ runs this program as a user would and returns its standard output.
func (d *dev) writ(ctx context.Context, args ...string) (string, error) {
	var out, messages bytes.Buffer
	c := exec.CommandContext(ctx, d.self, args...)
	c.Stdout, c.Stderr, c.Env = &out, &messages, ownEnvironment()
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("writ %s: %w: %s", args[0], err, strings.TrimSpace(messages.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// operate runs this program as the operator.
func (d *dev) operate(ctx context.Context, args ...string) (string, error) {
	return d.writ(ctx, append(args, "--operator", d.ready.Operator, "--verifier", d.ready.Verifier)...)
}

func (n *devNode) tpmArgs() []string {
	return []string{"--tpm", n.device(), "--eventlog", n.eventlog(), "--ima", n.ima()}
}

// provision enrols a node with a join token; it stays pending until the
// operator approves it.
func (d *dev) provision(ctx context.Context, n *devNode) error {
	token, err := d.operate(ctx, "join-token", "create", "--class", n.class)
	if err != nil {
		return err
	}
	file := filepath.Join(n.dir, "join-token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	out, err := d.writ(ctx, append([]string{"provision", "--verifier", d.ready.Verifier, "--join-token-file", file, "--state", n.state()}, n.tpmArgs()...)...)
	var ended *exec.ExitError
	if err != nil && !(errors.As(err, &ended) && ended.ExitCode() == exitPartial) {
		return err
	}
	n.id = strings.TrimSpace(out)
	_, err = d.operate(ctx, "node", "approve", n.id, "--reason", "known machine")
	return err
}

// attest starts a node's agent and waits for its first token.
func (d *dev) attest(ctx context.Context, n *devNode) error {
	var err error
	name := strings.ReplaceAll(n.name, " ", "-") + "-agent"
	n.agent, err = d.start(name, nil, d.self, append([]string{"agent", "--state", n.state(), "--socket", n.socket(), "--level", d.level.String()}, n.tpmArgs()...)...)
	if err != nil {
		return err
	}
	return d.wait(ctx, 15*time.Second, n.name+" to be legitimate", name, func() (bool, error) {
		_, err := d.writ(ctx, "status", "--socket", n.socket())
		return err == nil, nil
	})
}

// wait polls until a condition holds.
func (d *dev) wait(ctx context.Context, within time.Duration, what, log string, f func() (bool, error)) error {
	deadline := time.Now().Add(within)
	for {
		ok, err := f()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: not within %s%s", what, within, d.lastWords(log))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// play sets everything up and leaves it running.
func (d *dev) play(ctx context.Context) (err error) {
	if d.stage, err = newStage(d); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "starting a verifier and %d nodes in %s\n", len(machines), d.dir)
	if err := d.startVerifier(ctx); err != nil {
		return err
	}
	if err := d.bootAll(ctx); err != nil {
		return err
	}
	for i, n := range d.nodes {
		if err := d.provision(ctx, n); err != nil {
			return err
		}
		fmt.Fprintf(d.out, "  %s  %s  %s (%s)\n", n.name, n.id, n.class, machines[i].what)
	}
	if _, err := d.publish(ctx); err != nil {
		return err
	}
	for _, n := range d.nodes {
		if err := d.attest(ctx, n); err != nil {
			return err
		}
	}
	d.printTries()
	return d.perform(ctx)
}

// perform plays what the page /demo asks for until ctx is done. It does so here, on
// the goroutine whose thread the domain's processes end with.
func (d *dev) perform(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			fmt.Fprintln(d.out, "\nstopping")
			return nil
		case <-d.verifier.done:
			return fmt.Errorf("the verifier ended: %w%s", d.verifier.err, d.lastWords("verifier"))
		case act := <-d.stage.asked:
			d.stage.perform(ctx, act)
		case <-d.stage.ended():
			d.stage.lost(ctx)
		}
	}
}

func (d *dev) printTries() {
	n := d.nodes[0]
	fmt.Fprintf(d.out, `
all nodes are legitimate; enforcement level %[1]s. Open in a browser (the certificate is this domain's own):

  %[2]s/demo

and, beside it, /console, /lineage, /health and /proof; or try, in another terminal:

  export PATH=%[8]s:$PATH
  export WRIT_VERIFIER=%[2]s WRIT_OPERATOR=%[3]s
  export WRIT_SOCKET=%[4]s WRIT_STATE=%[5]s
  writ node list
  writ status
  writ run --level %[1]s -- sh -c 'while :; do date; sleep 1; done'   # then, elsewhere:
  writ node suspend %[6]s --reason "try it"         # the work stops at once
  writ node approve %[6]s                           # and may be started again
  writ bundle %[6]s -o node.writ.json && writ verify node.writ.json --trust %[5]s/trust.json
  curl -s '%[7]s/readyz?verbose'
  writ sign-in      # a link to %[2]s/console that signs a browser in as the operator

Ctrl-C ends the domain. Work you started ends at its deadline, at most a token's life later.
`, d.level, d.ready.Verifier, d.ready.Operator, n.socket(), n.state(), n.id, d.ready.Admin, filepath.Dir(d.self))
}
