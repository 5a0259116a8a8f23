package enclave

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/verifier/token"
)

func TestWorkDiesAtDeadline(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t, "--json-stop").hydra(nil, 300, "sleep")
	a.answers(unavailable)
	sleepPast(a.until().Add(-time.Second))
	e.lives("a second before the deadline")
	e.exits(ExitStopped, "writ: stopped: lapsed at ")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	if s.Level != "E3" || s.LatencyUS <= 0 || s.Stopped.Sub(s.Deadline).Microseconds() != s.LatencyUS {
		t.Errorf("stop record %+v", s)
	}
	if s.Deadline > a.until() {
		t.Errorf("the deadline is %v later than the request and the life of the token allow", s.Deadline.Sub(a.until()))
	}
	if a.mu.Lock(); len(a.stops) != 1 || a.stops[0] != s {
		t.Errorf("the agent was told %+v, the record says %+v", a.stops, s)
	}
	a.mu.Unlock()
	if !strings.Contains(e.said(), `"cause":"deadline"`) {
		t.Errorf("--json-stop said nothing:\n%s", e.said())
	}
}

// The naive twin of the test above: a supervisor with a timer that kills the
// process group. It is what people write, and most of the hydra outlives it.
func TestProcessGroupKillIsNotEnough(t *testing.T) {
	t.Parallel()
	g, err := newGroup(newID(), 200)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.killAll()
		for !g.empty() {
			time.Sleep(time.Millisecond)
		}
		g.remove()
	})
	a := newAgent(t, time.Second)
	path := filepath.Join(a.dir, "mem")
	const heads = 40
	write(t, path, make([]byte, 64*(heads+2)), 0o600)
	e := a.prepare(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if e.mem, err = unix.Mmap(int(f.Fd()), 0, 64*(heads+2), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	e.heads = heads
	cmd := exec.Command(hydraPath, path, fmt.Sprint(heads), "sleep")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(g.fd.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.eventually("all heads live", func() bool { return e.word(0) == heads })
	if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	time.Sleep(50 * time.Millisecond)
	e.lives("after the kill")
}

func TestKeeperKilled(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	e := a.prepare(t).hydra(nil, 40, "sleep")
	now := Now()
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	e.dies(now)
	e.exits(128+int(unix.SIGKILL), "")
}

func TestKeeperStopped(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 40, "sleep")
	a.answers(unavailable)
	if err := e.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	e.lives("while the keeper is stopped")
	e.dies(a.until())
	e.exits(128+int(unix.SIGKILL), "") // by the kernel's timer
}

// Only the kernel's own timer can act here.
func TestKeeperAndInitStopped(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 40, "sleep")
	a.answers(unavailable)
	init := e.initPID()
	for _, pid := range []int{e.cmd.Process.Pid, init} {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	e.lives("while keeper and init are stopped")
	e.dies(a.until())
	e.exits(128+int(unix.SIGKILL), "")
}

func TestInitKilled(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	e := a.prepare(t).hydra(nil, 40, "sleep")
	init := e.initPID()
	now := Now()
	if err := unix.Kill(init, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.dies(now)
	e.exits(ExitRefused, "run/init-died").stop(CauseInitDied)
}

func TestBusyLoopsDoNotPostponeTheStop(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t).hydra(nil, 16, "busy")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	e.dies(e.stop(CauseDeadline).Deadline)
}

func TestNoTokenNoStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(request) (int, any)
		code   string
	}{
		"unavailable": {unavailable, "run/no-token"},
		"denied":      {func(request) (int, any) { return 403, map[string]string{"title": "denied", "detail": "PCR 4"} }, "run/denied"},
		"no token":    {func(request) (int, any) { return 200, map[string]string{} }, "run/token"},
		"no JSON":     {func(request) (int, any) { return 200, "hello" }, "run/agent-unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 5*time.Second)
			a.answers(c.answer)
			e := a.prepare(t).start(nil, "touch", filepath.Join(a.dir, "ran"))
			e.exits(ExitRefused, c.code)
			a.notRun(t)
		})
	}
	t.Run("no agent", func(t *testing.T) {
		a := newAgent(t, 5*time.Second)
		e := a.prepare(t, "--socket", filepath.Join(a.dir, "none.sock")).start(nil, "touch", filepath.Join(a.dir, "ran"))
		e.exits(ExitRefused, "run/agent-unreachable")
		a.notRun(t)
	})
	t.Run("no trust", func(t *testing.T) {
		a := newAgent(t, 5*time.Second)
		e := a.prepare(t, "--trust", filepath.Join(a.dir, "none.json")).start(nil, "touch", filepath.Join(a.dir, "ran"))
		e.exits(ExitRefused, "run/trust")
		a.notRun(t)
	})
}

func unavailable(request) (int, any) { return 503, map[string]string{"title": "unavailable"} }

func (a *fakeAgent) notRun(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(a.dir, "ran")); err == nil {
		t.Error("the work ran")
	}
}

func TestForgedToken(t *testing.T) {
	t.Parallel()
	forger := newAgent(t, 5*time.Second)
	for name, c := range map[string]struct {
		answer func(a *fakeAgent, req request) any
		says   string
	}{
		"another's key": {func(a *fakeAgent, req request) any { return forger.issue(req) }, token.UnknownKey},
		"one bit": {func(a *fakeAgent, req request) any {
			head, rest, _ := strings.Cut(a.issue(req), ".")
			payload, sig, _ := strings.Cut(rest, ".")
			flipped := "A"
			if sig[0] == 'A' {
				flipped = "B"
			}
			return head + "." + payload + "." + flipped + sig[1:]
		}, token.BadSignature},
		"an event": {func(a *fakeAgent, req request) any { return a.event(9) }, token.WrongType},
		"no signature": {func(a *fakeAgent, req request) any {
			head, _, _ := strings.Cut(a.issue(req), ".")
			return head + "." + head + "."
		}, "token/"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 5*time.Second)
			a.answers(func(req request) (int, any) { return 200, map[string]any{"token": c.answer(a, req)} })
			a.prepare(t).start(nil, "touch", filepath.Join(a.dir, "ran")).exits(ExitRefused, "run/token").exits(ExitRefused, c.says)
			a.notRun(t)
		})
	}
}

// A token that says what was not asked for is no token.
func TestTokenForSomethingElse(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(c *token.Claims){
		"audience":  func(c *token.Claims) { c.Audience = "spiffe://test.invalid/other" },
		"issuer":    func(c *token.Claims) { c.Issuer = "https://other.invalid" },
		"domain":    func(c *token.Claims) { c.Subject = "spiffe://other.invalid/node/1" },
		"level":     func(c *token.Claims) { c.Writ.Level = "E2" },
		"work":      func(c *token.Claims) { c.Writ.Workload = "sha256:" + strings.Repeat("0", 64) },
		"no work":   func(c *token.Claims) { c.Writ.Workload = "" },
		"execution": func(c *token.Claims) { c.Writ.Execution = "another" },
		"nonce":     func(c *token.Claims) { c.Nonce = strings.Repeat("A", 43) },
		"expired": func(c *token.Claims) {
			c.IssuedAt, c.NotBefore, c.Expires = c.IssuedAt-60, c.NotBefore-60, c.Expires-60
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 5*time.Second)
			a.set(func() { a.change = change })
			a.prepare(t).start(nil, "touch", filepath.Join(a.dir, "ran")).exits(ExitRefused, "run/token")
			a.notRun(t)
		})
	}
}

// A token is good for the keeper that drew its nonce, and no other.
func TestOldTokenToNewKeeper(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	var old string
	a.answers(func(req request) (int, any) {
		if old == "" {
			old = a.issue(req)
		}
		return 200, map[string]string{"token": old}
	})
	a.prepare(t).start(nil, "true").exits(0, "")
	a.prepare(t).start(nil, "touch", filepath.Join(a.dir, "ran")).exits(ExitRefused, token.WrongNonce)
	a.notRun(t)
}

// The node was reset between two tokens: the second is refused, and the work
// dies at the deadline of the first.
func TestTokenFromAnotherBoot(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	first := a.until()
	a.set(func() { a.boot++ })
	e.exits(ExitStopped, "bootcount")
	e.dies(first)
}

func TestSequenceDoesNotRise(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	first := a.until()
	a.set(func() { a.change = func(c *token.Claims) { c.Writ.Seq = 1 } })
	e.exits(ExitStopped, "seq")
	e.dies(first)
}

func TestRevocationStopsAtOnce(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.prepare(t).hydra(nil, 40, "sleep")
	e.pushed(a.event(a.lastSeq()))
	now := Now()
	e.dies(now)
	e.exits(ExitStopped, "writ: stopped: revoked")
	if s := e.stop(CauseRevoked); s.LatencyUS <= 0 || s.Deadline < now {
		t.Errorf("stop record %+v", s)
	}
}

func TestSignedDenialStopsAtOnce(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	a.answers(func(request) (int, any) {
		return 403, map[string]any{"title": "denied", "events": []string{a.event(a.seq)}}
	})
	e.exits(ExitStopped, "writ: stopped: denied")
	if s := e.stop(CauseDenied); s.Stopped >= s.Deadline {
		t.Errorf("it waited for the deadline: %+v", s)
	}
}

// Words that prove nothing change nothing.
func TestUnsignedRevocationIgnored(t *testing.T) {
	t.Parallel()
	a, forger := newAgent(t, 60*time.Second), newAgent(t, time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	for name, event := range map[string]string{
		"unsigned":      "revoke!",
		"another's key": forger.event(9),
		"earlier seq":   a.event(a.lastSeq() - 1),
		"a token":       admissible(a),
	} {
		e.pushed(event)
		e.lives(name)
	}
	a.answers(func(request) (int, any) { return 403, map[string]any{"title": "denied", "events": []string{"no"}} })
	time.Sleep(200 * time.Millisecond)
	e.lives("after all of them")
	if e.hasEnded() {
		t.Errorf("the keeper ended\n%s", e.said())
	}
}

// admissible is a token, where an event is expected.
func admissible(a *fakeAgent) (tok string) {
	a.set(func() { tok = a.issue(request{Audience: audience, R: strings.Repeat("A", 43), Level: "E3"}) })
	return tok
}

func TestRenewalKeepsAlive(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 6*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	first := a.until()
	sleepPast(first.Add(1500 * time.Millisecond))
	e.lives("long after the first deadline")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	e.dies(e.stop(CauseDeadline).Deadline)
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := map[string]bool{}
	for i, req := range a.asked {
		ids[req.ID], ids[req.R] = true, true
		if req.Workload != a.asked[0].Workload || req.Execution != a.asked[0].Execution || req.Level != "E3" || req.Audience != audience {
			t.Errorf("request %d is %+v", i, req)
		}
		if !strings.HasPrefix(a.keepers[i], "sha256:") {
			t.Errorf("request %d names the keeper %q", i, a.keepers[i])
		}
	}
	if len(ids) != 2*len(a.asked) {
		t.Error("a request used the id or the nonce of another")
	}
	if want, err := Digest(hydraPath); err != nil || a.asked[0].Workload != want {
		t.Errorf("workload %s, expected %s (%v)", a.asked[0].Workload, want, err)
	}
}

// The agent may go away and come back while leases live.
func TestAgentRestarted(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	if err := os.Rename(a.socket, a.socket+".away"); err != nil {
		t.Fatal(err)
	}
	e.eventually("the keeper notices", func() bool { return strings.Contains(e.said(), "renewing: ") })
	if err := os.Rename(a.socket+".away", a.socket); err != nil {
		t.Fatal(err)
	}
	e.eventually("the keeper renews", func() bool { return strings.Contains(e.said(), "works again") })
	e.lives("after the agent's return")
}

// The work is asked to end before its deadline when renewing has failed, and also when
// that is known only later than it would have been asked.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"3s", "5s"} { // the first renewal is asked for 4 s before
		a := newAgent(t, 6*time.Second)
		e := a.prepare(t, "--drain-before", before).start(nil, "sh", "-c", `trap 'echo drained; exit 5' TERM; echo ready; while :; do sleep 0.02; done`)
		e.eventually("the work is ready", func() bool { return strings.Contains(e.output(), "ready") || e.hasEnded() })
		a.answers(unavailable)
		e.exits(5, "draining")
		if s := e.stop(CauseExited); s.Stopped >= s.Deadline || strings.Count(e.output(), "drained") != 1 {
			t.Errorf("%s: stop record %+v, output %q", before, s, e.output())
		}
	}
}

func TestLevelRefused(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 5*time.Second)
	e := a.prepare(t, "--level", "E4").start(nobody(), "touch", filepath.Join(a.dir, "ran"))
	e.exits(ExitRefused, "run/level").exits(ExitRefused, "--level E2")
	a.notRun(t)
	if len(a.requests()) != 0 {
		t.Error("a token was asked for")
	}
	e = a.prepare(t).start(nobody(), "touch", filepath.Join(a.dir, "ran"))
	e.exits(ExitRefused, "run/level").exits(ExitRefused, "pass --level E2")
	a.notRun(t)
}

func nobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func TestUnprivilegedE2(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t, "--level", "E2").hydra(nobody(), 20, "sleep")
	a.answers(unavailable)
	e.dies(a.until().Add(scheduled))
	e.eventually("it ends", e.hasEnded)
	if code := e.cmd.ProcessState.ExitCode(); code != ExitStopped && code != -1 { // it is no real-time keeper, and the kernel's timer may be first
		t.Errorf("exit code %d\n%s", code, e.said())
	}
	if level := a.requests()[0].Level; level != "E2" {
		t.Errorf("asked for as %s", level)
	}
	a.answers(nil)
	e = a.prepare(t, "--level", "E2").start(nobody(), "sh", "-c", "id -u; grep -E '^(CapEff|CapPrm|CapInh|CapAmb|NoNewPrivs)' /proc/self/status")
	e.exits(0, "")
	want := "65534\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n"
	if e.output() != want {
		t.Errorf("the work is\n%s\nexpected\n%s", e.output(), want)
	}
}

func TestUnprivilegedKeeperKilled(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	e := a.prepare(t, "--level", "E2").hydra(nobody(), 20, "sleep")
	now := Now()
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	e.dies(now.Add(scheduled))
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(a.dir, name)
		write(t, path, []byte(text), mode)
		return path
	}
	for _, c := range []struct {
		command []string
		code    int
		says    string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"false"}, 1, ""},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "exit 124"}, 124, ""},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{[]string{file("script", "#!/bin/sh -u\necho \"$1\"\nexit 9\n", 0o755), "argument"}, 9, ""},
		{[]string{file("plain", "hello", 0o644)}, 126, "run/not-executable"},
		{[]string{file("garbage", "\x7fELFhello", 0o755)}, 126, "run/not-executable"},
		{[]string{a.dir}, 126, "run/not-executable"},
		{[]string{file("nested", "#!"+filepath.Join(a.dir, "script")+"\n", 0o755)}, 126, "not supported"},
		{[]string{file("nointerpreter", "#!/none\n", 0o755)}, 127, "run/not-found"},
		{[]string{"writ-no-such-command"}, 127, "run/not-found"},
		{[]string{filepath.Join(a.dir, "none")}, 127, "run/not-found"},
	} {
		e := a.prepare(t).start(nil, c.command...)
		e.exits(c.code, c.says)
		if t.Failed() {
			t.Fatalf("that was %q", c.command)
		}
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	for i, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		name := strings.TrimPrefix(unix.SignalName(s), "SIG")
		e := a.prepare(t).start(nil, "sh", "-c", fmt.Sprintf("trap 'exit %d' %s; echo ready; while :; do sleep 0.02; done", 40+i, name))
		e.eventually("the work is ready", func() bool { return strings.Contains(e.output(), "ready") })
		if err := e.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		e.exits(40+i, "")
		e.stop(CauseExited)
	}
}

// What the work may not have, it does not have, even as root.
func TestWorkIsConfined(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	const show = `grep -E '^(NoNewPrivs|CapEff|CapAmb)' /proc/self/status; ulimit -r; ulimit -n; ls /proc/self/fd | wc -l; cat /proc/1/comm; kill -9 1; kill -STOP 1; exec grep NSpid /proc/self/status`
	e := a.prepare(t).start(nil, "sh", "-c", show)
	e.exits(0, "")
	var caps uint64
	lines := strings.Split(e.output(), "\n")
	if _, err := fmt.Sscanf(lines[0], "CapEff:\t%x", &caps); err != nil {
		t.Fatalf("%v\n%s", err, e.output())
	}
	for _, c := range withheld {
		if caps&(1<<c) != 0 {
			t.Errorf("the work has capability %d", c)
		}
	}
	if caps&(1<<unix.CAP_CHOWN) == 0 {
		t.Error("root's work has lost more than it had to")
	}
	plain, err := exec.Command("sh", "-c", "ulimit -n").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "0", strings.TrimSpace(string(plain)), "4"} // 0, 1, 2 and ls's own
	for i, w := range want {
		if lines[i+1] != w {
			t.Errorf("the work sees %q, expected %q in\n%s", lines[i+1], w, e.output())
		}
	}
	if !strings.Contains(e.output(), "NSpid:") {
		t.Errorf("the work killed its init:\n%s", e.output())
	}
}

// Nothing the work starts outlives it.
func TestDaemonDiesWithWork(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	pidfile := filepath.Join(a.dir, "beat")
	e := a.prepare(t).start(nil, "sh", "-c", "setsid sh -c 'while :; do date +%s%N >"+pidfile+"; sleep 0.01; done' & while ! [ -s "+pidfile+" ]; do sleep 0.01; done")
	e.exits(0, "").stop(CauseExited)
	before, _ := os.ReadFile(pidfile)
	time.Sleep(100 * time.Millisecond)
	if after, _ := os.ReadFile(pidfile); string(after) != string(before) {
		t.Error("a daemon runs on")
	}
}

// The file is replaced between its digest and its execution.
func TestWorkSwappedAfterDigest(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	work := filepath.Join(a.dir, "work")
	write(t, work, []byte("#!/bin/sh\nexit 3\n"), 0o755)
	swap := func(f func()) func(request) (int, any) {
		return func(req request) (int, any) {
			f()
			return 200, map[string]string{"token": a.issue(req)}
		}
	}
	a.answers(swap(func() {
		other := filepath.Join(a.dir, "other")
		write(t, other, []byte("#!/bin/sh\nexit 4\n"), 0o755)
		if err := os.Rename(other, work); err != nil {
			t.Error(err)
		}
	}))
	a.prepare(t).start(nil, work).exits(ExitRefused, "run/changed") // ctime moves with the link count
	a.answers(swap(func() { write(t, work, []byte("#!/bin/sh\nexit 5\n"), 0o755) }))
	a.prepare(t).start(nil, work).exits(ExitRefused, "run/changed")
}

func TestKeeperLeavesNoGroup(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	e := a.prepare(t).start(nil, "true").exits(0, "")
	if left := e.groupDirs(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
