package enclave

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a root process can do to its keeper, its cgroup or the machine, work as
// root cannot. The naive twin is the same program without a keeper: most of it
// succeeds, so the test sees something.
func TestWorkAttacksItsKeepers(t *testing.T) {
	t.Parallel()
	group, err := ownGroup("cgroup2", "")
	if err != nil {
		t.Fatal(err)
	}
	procs := filepath.Join(group, "cgroup.procs")
	a := newAgent(t, 10*time.Second)
	e := a.prepare(t).start(nil, probePath, procs)
	e.exits(0, "")
	tried := 0
	for line := range strings.Lines(e.output()) {
		tried++
		name, answer, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch answer {
		case unix.EPERM.Error(), unix.EROFS.Error():
		case unix.ENOENT.Error(): // a kernel without it
			if name != "/proc/sysrq-trigger" {
				t.Errorf("%s: %s", name, answer)
			}
		case unix.ENOSYS.Error():
			if name != "clone3" {
				t.Errorf("%s: %s", name, answer)
			}
		default:
			t.Errorf("the work tried %s: %s", name, answer)
		}
	}
	naive, err := exec.Command(probePath, procs).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"process_vm_readv", "unshare", "clone into a user namespace", "real-time priority", "/proc/sys/kernel/core_pattern", procs} {
		if !strings.Contains(string(naive), name+": allowed\n") && name != "process_vm_readv" {
			t.Errorf("without a keeper %s is not possible either:\n%s", name, naive)
		}
	}
	if tried < 18 {
		t.Errorf("only %d attacks were tried:\n%s", tried, e.output())
	}
}

// The other instruction set's system calls have other numbers, which a list of
// numbers does not deny.
func TestSystemCallsOfAnotherArchitecture(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	src, bin := filepath.Join(a.dir, "main.go"), filepath.Join(a.dir, "main")
	write(t, src, []byte("package main\nfunc main() {}\n"), 0o644)
	build := exec.Command("go", "build", "-o", bin, src)
	build.Env = append(os.Environ(), "GOARCH=386", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := exec.Command(bin).Run(); err != nil {
		t.Fatalf("a 32-bit program does not run here at all: %v", err)
	}
	a.prepare(t).start(nil, bin).exits(128+int(unix.SIGSYS), "")
}

func TestLandlock(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	readable, writable, other := filepath.Join(a.dir, "r"), filepath.Join(a.dir, "w"), filepath.Join(a.dir, "o")
	for _, dir := range []string{readable, writable, other} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "f"), []byte("x"), 0o644)
	}
	try := "cat " + readable + "/f " + writable + "/f >/dev/null && echo read; echo y >" + writable + "/f && echo wrote; echo y >" + readable + "/f; cat " + other + "/f && echo BAD; exit 0"
	script := filepath.Join(a.dir, "script")
	write(t, script, []byte("#!/bin/sh\n"+try+"\n"), 0o755)
	flags := []string{"--landlock-ro", "/usr", "--landlock-ro", "/lib", "--landlock-ro", "/lib64", "--landlock-ro", "/bin", "--landlock-ro", "/etc",
		"--landlock-rw", "/dev/null", "--landlock-ro", readable, "--landlock-rw", writable}
	for name, command := range map[string][]string{"binary": {"sh", "-c", try}, "script": {script}} {
		e := a.prepare(t, flags...).start(nil, command...).exits(0, "ermission denied")
		if e.output() != "read\nwrote\n" {
			t.Errorf("%s: the work got\n%s%s", name, e.output(), e.said())
		}
		if b, _ := os.ReadFile(filepath.Join(readable, "f")); string(b) != "x" {
			t.Errorf("%s: the work wrote what it may read: %q", name, b)
		}
	}
	a.prepare(t, "--landlock-ro", filepath.Join(a.dir, "none")).start(nil, "true").exits(ExitRefused, "run/init")
	if e := a.prepare(t).start(nil, "sh", "-c", try).exits(0, ""); !strings.Contains(e.output(), "BAD") {
		t.Error("without rules the work is restricted too")
	}
}

func TestPrivateTmp(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	f, err := os.CreateTemp("/tmp", "writ-visible-")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	t.Cleanup(func() { os.Remove(f.Name()) })
	mark := f.Name() + "-work"
	t.Cleanup(func() { os.Remove(mark) })
	try := "ls " + f.Name() + " && echo seen; echo x >" + mark + "; touch /dev/shm/writ-x /var/tmp/writ-x; exit 0"
	if e := a.prepare(t, "--private-tmp").start(nil, "sh", "-c", try).exits(0, ""); strings.Contains(e.output(), "seen") {
		t.Error("the work sees the machine's /tmp")
	}
	for _, path := range []string{mark, "/dev/shm/writ-x", "/var/tmp/writ-x"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("the work left %s", path)
			os.Remove(path)
		}
	}
	if e := a.prepare(t).start(nil, "sh", "-c", "ls "+f.Name()+" && echo seen").exits(0, ""); !strings.Contains(e.output(), "seen") {
		t.Error("without the flag it does not either")
	}
}

// Without a network the work has its own loopback and nothing else; the socket
// of the naive twin reaches the machine's.
func TestNoNet(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	const show = "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' ' | sort; cat /proc/net/fib_trie | grep -c 127.0.0.1"
	own := a.prepare(t, "--net", "none").start(nil, "sh", "-c", show).exits(0, "").output()
	if !strings.HasPrefix(own, "lo\n") || strings.Count(own, "\n") != 2 {
		t.Errorf("the work sees the interfaces\n%s", own)
	}
	all := a.prepare(t).start(nil, "sh", "-c", show).exits(0, "").output()
	if strings.Count(all, "\n") <= 2 {
		t.Errorf("this machine has no other interface, so the test shows nothing:\n%s", all)
	}
	if got := a.prepare(t, "--net", "none", "--level", "E2").start(nobody(), "sh", "-c", show).exits(0, "").output(); got != own {
		t.Errorf("an unprivileged user's work sees\n%s", got)
	}
	a.prepare(t, "--net", "some").start(nil, "true").exits(ExitRefused, "run/usage")
}
