package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// programs builds all commands as they ship and returns where they are.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "../...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the commands: %v\n%s", err, out)
	}
	return dir
}

// TestDemo runs the demonstration as the README says: everything it shows is
// checked by itself, and nothing is left running after it.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := programs(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	demo := exec.CommandContext(ctx, filepath.Join(dir, "writ"), "dev", "--demo")
	demo.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	demo.Stdout, demo.Stderr = &out, &out
	if err := demo.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"token_life = 6s", "PCR 4 event", "revoked by the operator", "died at its deadline", "bundle: verified", "invalid"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demonstration does not say %q:\n%s", want, out.String())
		}
	}
	if left := running(t, dir); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
}

// running lists the command lines of processes whose program or arguments name a
// directory.
func running(t *testing.T, dir string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) == 0 {
		t.Fatalf("reading /proc: %d processes, %v", len(lines), err)
	}
	var out []string
	for _, path := range lines {
		raw, err := os.ReadFile(path)
		if err == nil && bytes.Contains(raw, []byte(dir)) { // one that has ended meanwhile is not running
			out = append(out, string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
		}
	}
	return out
}
