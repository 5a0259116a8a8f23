package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rogpeppe/go-internal/testscript"
)

// openTerminal makes a terminal, and its other end.
func openTerminal() (mine, theirs *os.File, err error) {
	if mine, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	err = unix.IoctlSetPointerInt(int(mine.Fd()), unix.TIOCSPTLCK, 0)
	var n int
	if err == nil {
		n, err = unix.IoctlGetInt(int(mine.Fd()), unix.TIOCGPTN)
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		mine.Close()
		return nil, nil, err
	}
	return mine, theirs, nil
}

// answer is the script command "answer CODE LINE PROGRAM ARGS...": PROGRAM has a
// terminal for input and messages, at which somebody types LINE, and must end with
// CODE. What it wrote there is in the file terminal.
func answer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: answer CODE LINE PROGRAM ARGS...")
	}
	mine, theirs, err := openTerminal()
	ts.Check(err)
	defer mine.Close()
	path, err := exec.LookPath(args[2])
	ts.Check(err)
	c := exec.Command(path, args[3:]...)
	c.Dir, c.Stdin, c.Stderr = ts.MkAbs("."), theirs, theirs
	for _, name := range []string{"PATH", "HOME", "WRIT_OPERATOR", "WRIT_VERIFIER", "GORACE", "TESTSCRIPT_COMMAND"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	err = c.Start()
	theirs.Close()
	ts.Check(err)
	_, err = io.WriteString(mine, args[1]+"\n") // it waits there
	ts.Check(err)
	said, _ := io.ReadAll(mine) // ends with EIO when the last one has closed it
	err = c.Wait()
	code := 0
	if ended, ok := err.(*exec.ExitError); ok {
		code = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("terminal"), []byte(strings.ReplaceAll(string(said), "\r", "")), 0o644))
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("%v: exit code %d, expected %s; it said\n%s", args[2:], code, args[0], said)
	}
}

// TestTerminal: a device that is no terminal is nobody who could answer.
func TestTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	mine, theirs, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	defer theirs.Close()
	for what, c := range map[string]struct {
		v    any
		want bool
	}{"/dev/null": {null, false}, "a buffer": {new(strings.Builder), false}, "a terminal": {theirs, true}} {
		if terminal(c.v) != c.want {
			t.Errorf("%s: %v", what, !c.want)
		}
	}
}
