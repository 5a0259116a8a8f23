package enclave

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFindGroup(t *testing.T) {
	const hybrid = `24 1 254:1 / / rw - ext4 /dev/root rw
30 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw
38 30 0:35 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 30 0:37 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
`
	const pure = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	for name, c := range map[string]struct{ mounts, own, fstype, controller, want string }{
		"hybrid v2":        {hybrid, "8:pids:/a\n0::/\n", "cgroup2", "", "/sys/fs/cgroup/unified"},
		"hybrid v1":        {hybrid, "8:pids:/a\n0::/\n", "cgroup", "pids", "/sys/fs/cgroup/pids/a"},
		"v1 joined":        {strings.Replace(hybrid, "rw,pids", "rw,cpu,pids", 1), "8:cpu,pids:/a\n", "cgroup", "pids", "/sys/fs/cgroup/pids/a"},
		"service":          {pure, "0::/system.slice/writ.service\n", "cgroup2", "", "/sys/fs/cgroup/system.slice/writ.service"},
		"bind mount":       {strings.Replace(pure, " / /sys", " /ci /sys", 1), "0::/ci/job\n", "cgroup2", "", "/sys/fs/cgroup/job"},
		"mount of another": {strings.Replace(pure, " / /sys", " /ci /sys", 1), "0::/cinema\n", "cgroup2", "", ""},
		"space in path":    {strings.Replace(pure, "/sys/fs/cgroup", `/mnt/a\040b`, 1), "0::/\n", "cgroup2", "", "/mnt/a b"},
		"no v2":            {"", "0::/\n", "cgroup2", "", ""},
		"out of namespace": {pure, "0::/../other\n", "cgroup2", "", ""},
		"no such v1":       {hybrid, "8:pids:/a\n0::/\n", "cgroup", "cpu", ""},
	} {
		got, ok := findGroup(c.mounts, c.own, c.fstype, c.controller)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v, expected %q", name, got, ok, c.want)
		}
	}
}

func TestDetect(t *testing.T) {
	c := Detect()
	if c.Level < E3 {
		t.Errorf("level %v, missing %+v; these tests need root with cgroup v2 and SCHED_FIFO", c.Level, c.Missing)
	}
	if what, cure := (Capabilities{Missing: []Missing{{E4, "no bpf", "allow bpf"}}}).shortOf(E4); what == "" || cure == "" {
		t.Error("what E4 lacks is not explained")
	}
	parent, err := ownGroup("cgroup2", "")
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"probe*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	for l := E0; l <= E4; l++ {
		if got, err := ParseLevel(l.String()); err != nil || got != l {
			t.Errorf("%v: %v, %v", l, got, err)
		}
	}
	for _, s := range []string{"", "E5", "e3", "3", "E-1"} {
		if l, err := ParseLevel(s); err == nil || l != 0 {
			t.Errorf("%q is %v", s, l)
		}
	}
}

func TestPageIsReadOnlyForOthers(t *testing.T) {
	w, f, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := w.renew(Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("mapped for writing")
	}
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("written to")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("truncated")
	}
	other, err := mapPage(f, unix.PROT_READ)
	if err != nil {
		t.Fatal(err)
	}
	if !other.valid() || other.deadline() != w.deadline() {
		t.Error("the reader sees another deadline")
	}
	w.revoke()
	if other.valid() {
		t.Error("the reader does not see the revocation")
	}
}

func TestShebang(t *testing.T) {
	for text, want := range map[string]struct {
		interpreter, option string
		script, bad         bool
	}{
		"#!/bin/sh\n":                           {"/bin/sh", "", true, false},
		"#! /usr/bin/env  python3 -u\nx":        {"/usr/bin/env", "python3 -u", true, false},
		"#!/bin/sh\t-e \n":                      {"/bin/sh", "-e", true, false},
		"#!/bin/sh":                             {"/bin/sh", "", true, false},
		"":                                      {},
		"#":                                     {},
		"\x7fELF":                               {},
		"#!\n":                                  {bad: true},
		"#!sh\n":                                {bad: true},
		"#!/" + strings.Repeat("a", 300) + "\n": {bad: true},
	} {
		path := filepath.Join(t.TempDir(), "f")
		write(t, path, []byte(text), 0o600)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		interpreter, option, ok, err := shebang(f)
		f.Close()
		if interpreter != want.interpreter || option != want.option || ok != want.script || (err != nil) != want.bad {
			t.Errorf("%.20q: %q %q %v %v", text, interpreter, option, ok, err)
		}
	}
}

func TestDigestTellsPrograms(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	for name, text := range map[string]string{
		"a": "#!/bin/sh\nexit 0\n", "b": "#!/bin/sh\nexit 1\n", "c": "#!/bin/sh -e\nexit 0\n", "d": "#!/bin/cat\nexit 0\n", "e": "plain",
	} {
		path := filepath.Join(dir, name)
		write(t, path, []byte(text), 0o755)
		d, err := Digest(path)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[d] = name
	}
}
