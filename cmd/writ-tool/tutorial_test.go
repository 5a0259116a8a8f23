package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lesson is a block of commands of the tutorial, and what it says that they print.
type lesson struct {
	commands, prints string
	said             bool // whether it says so
}

// lessons are the fenced blocks of a page: sh is typed, text is printed by what was
// typed before it.
func lessons(page string) ([]lesson, error) {
	var all []lesson
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		kind, ok := strings.CutPrefix(lines[i], "```")
		if !ok {
			continue
		}
		first := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		text := strings.Join(lines[first:min(i, len(lines))], "\n") + "\n"
		switch last := len(all) - 1; {
		case kind == "sh":
			all = append(all, lesson{commands: text})
		case kind == "text" && last >= 0 && !all[last].said:
			all[last].prints, all[last].said = text, true
		default:
			return nil, fmt.Errorf("line %d: a block of %q, expected sh, and text after it alone", first, kind)
		}
	}
	return all, nil
}

// pattern is what fits a text in which … stands for anything, on a line of its own for
// any lines, and spaces for any number of them.
func pattern(prints string) *regexp.Regexp {
	var b strings.Builder
	for line := range strings.Lines(prints) {
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?:[^\n]*\n)*`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, "\n"), "…")
		for i, p := range parts {
			words := regexp.MustCompile(` +`).Split(p, -1)
			for j := range words {
				words[j] = regexp.QuoteMeta(words[j])
			}
			parts[i] = strings.Join(words, " *")
		}
		b.WriteString(strings.Join(parts, `[^\n]*`) + "\n")
	}
	return regexp.MustCompile(`\A` + b.String() + `\z`)
}

// TestTutorial runs docs/tutorial.md in an empty directory, in one shell, as a reader
// would, against the programs as they ship. Each block prints what the page says.
func TestTutorial(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	all, err := lessons(string(page))
	if err != nil || len(all) < 10 || !strings.HasPrefix(all[0].commands, "make build\n") {
		t.Fatalf("the tutorial has %d blocks, building first of all: %v", len(all), err)
	}
	all = all[1:] // that is done
	bin, dir := programs(t), t.TempDir()
	var script strings.Builder
	for i, l := range all {
		fmt.Fprintf(&script, "exec >%d.out 2>&1\n%s", i, l.commands)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	sh := exec.CommandContext(ctx, "sh", "-c", script.String())
	sh.Dir = dir
	sh.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir)
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // whatever it starts ends with it
	sh.Cancel = func() error { return syscall.Kill(-sh.Process.Pid, syscall.SIGTERM) }
	sh.WaitDelay = 20 * time.Second
	if err := sh.Run(); err != nil {
		t.Errorf("the commands ended with %v", err)
	}
	for i, l := range all {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.out", i)))
		if err != nil {
			dev, _ := os.ReadFile(filepath.Join(dir, "dev.log")) // to show alone
			t.Fatalf("not reached: %s%s", l.commands, dev)
		}
		if !pattern(l.prints).Match(got) {
			t.Errorf("these commands\n%sprint\n%swhich the tutorial does not say:\n%s", l.commands, got, l.prints)
		}
	}
	if left := running(t, bin); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "domain")); !os.IsNotExist(err) {
		t.Errorf("the domain is still there: %v", err)
	}
}

// TestTutorialPattern: the tutorial's test sees what is missing, other or too much.
func TestTutorialPattern(t *testing.T) {
	p := pattern("a  … c\n…\nend\n")
	for text, want := range map[string]bool{
		"a b c\nend\n": true, "a   b b   c\nx\ny\nend\n": true, "a b d\nend\n": false, "a b c\n": false, "a b c\nend\nmore\n": false, "x\na b c\nend\n": false,
	} {
		if got := p.MatchString(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	for _, bad := range []string{"```text\nx\n```\n", "```sh\nx\n```\n```text\n1\n```\n```text\n2\n```\n", "```\nx\n```\n"} {
		if all, err := lessons(bad); err == nil {
			t.Errorf("%q is %+v", bad, all)
		}
	}
	if !bytes.Contains([]byte(pattern("(x)\n").String()), []byte(`\(x\)`)) {
		t.Error("what a page says is taken for an expression")
	}
}
