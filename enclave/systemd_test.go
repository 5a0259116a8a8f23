package enclave

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bootVar makes this program the start of a machine whose PID 1 is systemd: it names a
// directory with what belongs into it.
const bootVar = "WRIT_TEST_BOOT"

// bootMain makes a root of the machine's programs and the test's units, and becomes
// systemd.
func bootMain(dir string) error {
	runtime.LockOSThread()
	root := filepath.Join(dir, "root")
	at := func(path string) string { return filepath.Join(root, path) }
	err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"))
	bind := func(from, to string) {
		err = errors.Join(err, os.MkdirAll(at(to), 0o755), unix.Mount(from, at(to), "", unix.MS_BIND|unix.MS_REC, ""))
	}
	mount := func(kind, to string) {
		err = errors.Join(err, os.MkdirAll(at(to), 0o755), unix.Mount(kind, at(to), kind, 0, ""))
	}
	for _, d := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"} {
		if link, no := os.Readlink(d); no == nil {
			err = errors.Join(err, os.Symlink(link, at(d)))
		} else if _, no := os.Stat(d); no == nil {
			bind(d, d)
		}
	}
	mount("proc", "/proc")
	bind("/sys", "/sys")
	for _, d := range []string{"/sys/fs/cgroup", "/run", "/dev", "/tmp", "/var"} {
		mount("tmpfs", d)
	}
	mount("cgroup2", "/sys/fs/cgroup")
	for _, dev := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		err = errors.Join(err, os.WriteFile(at("/dev/"+dev), nil, 0o666), unix.Mount("/dev/"+dev, at("/dev/"+dev), "", unix.MS_BIND, ""))
	}
	bind(filepath.Dir(keeperOf(dir)), "/opt/writ")
	bind(filepath.Join(dir, "etc"), "/etc")
	bind(filepath.Join(dir, "out"), "/out")
	for _, d := range []string{"/run/writ", "/var/lib/writ"} {
		bind(filepath.Join(dir, "agent"), d)
	}
	err = errors.Join(err, os.Chdir(root), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH), os.Chdir("/"))
	if err != nil {
		return err
	}
	env := []string{"container=writ", "PATH=/usr/bin:/usr/sbin", "SYSTEMD_UNIT_PATH=/etc/systemd/system", "SYSTEMD_GENERATOR_PATH=/none"}
	return syscall.Exec("/lib/systemd/systemd", []string{"systemd", "--log-level=info", "--log-target=console"}, env)
}

func keeperOf(dir string) string {
	path, _ := os.Readlink(filepath.Join(dir, "keeper"))
	return path
}

// booted is a machine under systemd with the units that we ship.
type booted struct {
	t   *testing.T
	dir string
	pid int
}

// boot builds writ, writes units and starts the machine. Its agent is the test's.
func boot(t *testing.T, a *fakeAgent, units map[string]string) *booted {
	t.Helper()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Dir(keeperPath)+"/", "../cmd/writ", "../cmd/writ-tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b := &booted{t: t, dir: t.TempDir()}
	system := filepath.Join(b.dir, "etc/systemd/system")
	for _, d := range []string{"root", "out", "agent", "etc/writ/jobs", "etc/systemd/system/service.d"} {
		if err := os.MkdirAll(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		"etc/machine-id":       "",
		"etc/passwd":           "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":            "root:x:0:\n",
		"etc/writ/jobs/beat":   "#!/bin/sh\nwhile :; do date +%s%N >/out/beat; sleep 0.02; done\n",
		"agent/trust.json":     read(t, a.trust),
		"out/.log":             "",
		"etc/systemd/.journal": "",
	} {
		write(t, filepath.Join(b.dir, path), []byte(text), 0o755)
	}
	for name, text := range units {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(system, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(system, name), []byte(text), 0o644)
	}
	for _, target := range []string{"sysinit", "basic", "multi-user", "shutdown", "default"} {
		write(t, filepath.Join(system, target+".target"), []byte("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n"), 0o644)
	}
	write(t, filepath.Join(system, "service.d/log.conf"), []byte("[Service]\nStandardOutput=append:/out/.log\nStandardError=append:/out/.log\n"), 0o644)
	if err := os.Symlink(keeperPath, filepath.Join(b.dir, "keeper")); err != nil {
		t.Fatal(err)
	}
	a.serveAt(t, filepath.Join(b.dir, "agent/agent.sock"))
	b.start()
	return b
}

func (b *booted) start() {
	b.t.Helper()
	g := grouped(b.t)
	log := create(b.t, filepath.Join(b.dir, "console"))
	defer log.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), bootVar+"="+b.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.fd.Fd()), Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.pid = cmd.Process.Pid
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.eventually("its cgroups are empty", func() bool {
			g.killAll()
			removeBelow(g.dir)
			return g.empty()
		})
	})
	b.eventually("systemd has started", func() bool {
		out, _ := b.systemctl("is-system-running")
		return out == "running" || out == "degraded"
	})
}

// removeBelow removes the empty cgroups below one, which ended with their namespace.
func removeBelow(dir string) {
	below, _ := os.ReadDir(dir)
	for _, d := range below {
		if d.IsDir() {
			removeBelow(filepath.Join(dir, d.Name()))
			_ = os.Remove(filepath.Join(dir, d.Name()))
		}
	}
}

func (b *booted) systemctl(args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(b.pid), "-m", "-p", "-i", "-u", "-C", "--", "systemctl"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (b *booted) show(unit, property string) string {
	out, _ := b.systemctl("show", "--value", "-p", property, unit)
	return out
}

func (b *booted) run(args ...string) {
	b.t.Helper()
	if out, err := b.systemctl(args...); err != nil {
		b.t.Fatalf("systemctl %v: %v\n%s\n%s", args, err, out, b.said())
	}
}

func (b *booted) said() string {
	console, _ := os.ReadFile(filepath.Join(b.dir, "console"))
	services, _ := os.ReadFile(filepath.Join(b.dir, "out/.log"))
	units, _ := b.systemctl("show", "-p", "Id,ActiveState,SubState,Result,NRestarts", "*.service")
	return string(console) + string(services) + units
}

func (b *booted) beat() string {
	beat, _ := os.ReadFile(filepath.Join(b.dir, "out/beat"))
	return string(beat)
}

func (b *booted) beats() {
	b.t.Helper()
	was := b.beat()
	b.eventually("the job beats", func() bool { return b.beat() != was })
}

func (b *booted) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patient); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited in vain until %s\n%s", what, b.said())
		}
	}
}

// shipped is a unit of docs/systemd, for the programs under test.
func shipped(t *testing.T, name string) string {
	return strings.ReplaceAll(read(t, "../docs/systemd/"+name), "/usr/bin/writ", "/opt/writ/writ")
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The units that we ship, under a real systemd as PID 1. A job lives longer than PID 1
// would let it because each renewal says so; a notify service that says nothing, the
// naive twin, is ended. When renewing fails, the job is over, and so is what is bound to
// the lease; what is not bound, the other twin, runs on. A node that a verifier has
// refused has its units skipped, and when it is legitimate again they start.
func TestUnderSystemd(t *testing.T) {
	t.Parallel()
	const most = "[Service]\nRuntimeMaxSec=8\nRestartSec=1\n"
	a := newAgent(t, 6*time.Second)
	b := boot(t, a, map[string]string{
		"writ-run@.service":              shipped(t, "writ-run@.service"),
		"writ-run@.service.d/most.conf":  most,
		"writ-lease.service":             shipped(t, "writ-lease.service"),
		"writ-lease.service.d/most.conf": most,
		"mute.service":                   "[Service]\nType=notify\nNotifyAccess=all\nRuntimeMaxSec=8\nTimeoutStopSec=1\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'\n",
		"bound.service":                  "[Unit]\nBindsTo=writ-lease.service\nAfter=writ-lease.service\n[Service]\nExecStart=/bin/sleep 1000\n",
		"loose.service":                  "[Service]\nExecStart=/bin/sleep 1000\n",
	})
	began := time.Now()
	b.run("start", "writ-run@beat", "mute", "bound", "loose")
	b.beats()
	b.eventually("the mute service is ended", func() bool { return b.show("mute", "Result") == "timeout" })
	time.Sleep(time.Until(began.Add(12 * time.Second)))
	b.beats()
	for _, unit := range []string{"writ-run@beat", "writ-lease", "bound", "loose"} {
		if state, again := b.show(unit, "ActiveState"), b.show(unit, "NRestarts"); state != "active" || again != "0" {
			t.Errorf("%s is %s, restarted %s times\n%s", unit, state, again, b.said())
		}
	}

	a.set(func() { a.denied = true })
	a.answers(unavailable)
	for _, unit := range []string{"writ-run@beat", "writ-lease"} {
		b.eventually(unit+" is skipped", func() bool { return b.show(unit, "ActiveState") == "inactive" }) // not failed
	}
	b.eventually("what is bound is stopped", func() bool { return b.show("bound", "ActiveState") == "inactive" })
	if state := b.show("loose", "ActiveState"); state != "active" {
		t.Errorf("what is not bound is %s, so this test shows nothing", state)
	}
	if was := b.beat(); func() bool { time.Sleep(200 * time.Millisecond); return b.beat() != was }() {
		t.Error("the job runs on")
	}

	a.set(func() { a.denied = false })
	a.answers(nil)
	b.run("start", "bound", "writ-run@beat")
	b.beats()
	b.run("stop", "writ-run@beat")
	if was := b.beat(); func() bool { time.Sleep(200 * time.Millisecond); return b.beat() != was }() {
		t.Error("the job outlives its unit")
	}
}
