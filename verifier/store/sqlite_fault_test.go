package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
)

// childFaulty makes the writer one that goes on after errors, for a while.
const childFaulty = "WRIT_TEST_FAULTY"

// appendDespite makes requests, each repeated a few times when it fails, and
// writes the receipts to standard output.
func appendDespite(dir string) error {
	ctx := context.Background()
	s, err := store.OpenSQLite(ctx, filepath.Join(dir, "writ.db"))
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := ledger.Open(ctx, config(s, dir))
	if err != nil {
		return err
	}
	defer l.Close()
	out := json.NewEncoder(os.Stdout)
	for i := range 12 {
		for range 3 {
			rs, err := l.Append(ctx, request(strconv.Itoa(i)))
			if err == nil {
				err = out.Encode(rs[0])
			}
			if err == nil || errors.As(err, new(errDone)) {
				break
			}
		}
	}
	return nil
}

// faultyWriter runs that writer under strace, which injects a fault into its
// system calls, and returns the receipts it gave out.
func faultyWriter(t *testing.T, dir, fault string) []ledger.Receipt {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is needed: make tools, or apt-get install strace")
	}
	args := []string{"-f", "-qq", "--seccomp-bpf", "-o", filepath.Join(dir, "trace"), "-e", "trace=pwrite64,fsync,fdatasync,ftruncate,rename,renameat"}
	if fault != "" {
		args = append(args, "-e", "inject="+fault)
	}
	cmd := exec.CommandContext(t.Context(), strace, append(args, self(t))...)
	cmd.Env = append(os.Environ(), childDir+"="+dir, childFaulty+"=1", "GOMAXPROCS=1")
	return receipts(t, cmd, func() {})
}

// TestWriteFaults makes each kind of write and sync fail, early and late, once
// and from then on. What was acknowledged until then is there afterwards, and
// the log goes on. (strace counts calls by thread, so one fault may come twice.)
func TestWriteFaults(t *testing.T) {
	t.Parallel()
	probe := t.TempDir()
	if got := faultyWriter(t, probe, ""); len(got) != 12 {
		t.Fatalf("without faults it has %d receipts", len(got))
	}
	trace, err := os.ReadFile(filepath.Join(probe, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	var faults []string
	for call, rounds := range map[string]int{"pwrite64": 10, "fdatasync": 6, "fsync": 3} {
		calls := strings.Count(string(trace), " "+call+"(")
		if calls == 0 {
			t.Errorf("nothing calls %s: what does it write with?", call)
			continue
		}
		step := max(1, calls/soak(t, rounds))
		for n := 1; n <= calls; n += step {
			faults = append(faults, fmt.Sprintf("%s:error=EIO:when=%d", call, n))
		}
	}
	for n := 1; n < 40; n += max(1, 15/soak(t, 1)) { // a disk that is full from then on
		faults = append(faults, fmt.Sprintf("pwrite64:error=ENOSPC:when=%d+", n))
	}
	hit := 0
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			dir := t.TempDir()
			got := faultyWriter(t, dir, fault)
			if trace, err := os.ReadFile(filepath.Join(dir, "trace")); err == nil && strings.Contains(string(trace), "INJECTED") {
				hit++
			}
			s, l := reopen(t, dir)
			defer l.Close()
			checkAcknowledged(t, l, got)
			for i := range 12 {
				if _, _, err := insist(t.Context(), l, strconv.Itoa(i)); err != nil {
					t.Fatal(err)
				}
			}
			if l.Size() != 12 {
				t.Errorf("12 requests made %d entries", l.Size())
			}
			wantClean(t, s, dir, l.VerifierKey())
		})
	}
	if t.Logf("%d of %d faults hit", hit, len(faults)); hit < len(faults)/2 {
		t.Errorf("of %d faults only %d hit a call", len(faults), hit)
	}
}

// TestDiskFull fills a small disk, and goes on once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("not root, so nothing is mounted: TestWriteFaults has ENOSPC by injection")
		return
	}
	dir := t.TempDir()
	small := filepath.Join(dir, "disk")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("writ", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Logf("mounting: %v: TestWriteFaults has ENOSPC by injection", err)
		return
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, filepath.Join(small, "writ.db"))
	l, err := ledger.Open(t.Context(), config(s, dir)) // the guard file is elsewhere
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var got []ledger.Receipt
	for {
		rs, err := l.Append(t.Context(), benchDraft(0))
		if err != nil {
			t.Logf("after %d entries: %v", len(got), err)
			break
		}
		got = append(got, rs[0])
	}
	if _, err := l.Append(t.Context(), benchDraft(0)); err == nil {
		t.Error("a full disk takes another entry")
	}
	if err := syscall.Mount("writ", small, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		rs, err := l.Append(t.Context(), benchDraft(0))
		if err == nil {
			got = append(got, rs[0])
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
	}
	checkAcknowledged(t, l, got)
	wantClean(t, s, dir, l.VerifierKey())
}
