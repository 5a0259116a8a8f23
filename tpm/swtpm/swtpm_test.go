package swtpm_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

const testdata = "../../testdata"

func newCA(t testing.TB) *swtpm.CA {
	t.Helper()
	ca, err := swtpm.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func start(t testing.TB, dir string) *swtpm.Instance {
	t.Helper()
	i, err := swtpm.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// transport hides that an Instance can be closed.
type transport struct{ i *swtpm.Instance }

func (l transport) Send(cmd []byte) ([]byte, error) { return l.i.Send(cmd) }

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseLog(t testing.TB, path string) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Parse(read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// Ground truth are the values the kernel of the recorded machine read.
func TestReplayLog(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"c-grub-sb", "d-uki-sb", "f-ima-ng"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			boot := filepath.Join(testdata, "boots", name)
			i := start(t, t.TempDir())
			log := parseLog(t, filepath.Join(boot, "eventlog.bin"))
			if err := i.ReplayLog(log); err != nil {
				t.Fatal(err)
			}
			list, err := ima.Parse(read(t, filepath.Join(boot, "ima.bin")))
			if err != nil {
				t.Fatal(err)
			}
			if err := i.ReplayIMA(list); err != nil {
				t.Fatal(err)
			}
			dev := device.New(transport{i})
			for _, bank := range log.Algs {
				checkPCRs(t, dev, bank, filepath.Join(boot, "quote"+map[tpm.Alg]string{tpm.AlgSHA1: "_sha1.bin", tpm.AlgSHA256: ".bin"}[bank]))
			}
		})
	}
}

// checkPCRs compares the TPM's PCRs with those in a recorded quote.
func checkPCRs(t testing.TB, dev *device.TPM, bank tpm.Alg, quote string) {
	t.Helper()
	q, err := tpm.ParseQuote(read(t, quote))
	if err != nil {
		t.Fatal(err)
	}
	if q.Bank != bank {
		t.Fatalf("%s is over %s, want %s", quote, q.Bank, bank)
	}
	values, err := dev.PCRs(bank, q.PCRs)
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.CheckPCRs(q, values); err != nil {
		t.Errorf("%s: %v", quote, err)
	}
}

// PCR 0 of these machines did not start at zero.
func TestReplayOfLocalityStart(t *testing.T) {
	t.Parallel()
	i := start(t, t.TempDir())
	log := parseLog(t, filepath.Join(testdata, "logs/keylime/binary_bios_measurements"))
	err := i.ReplayLog(log)
	if err == nil || !strings.Contains(err.Error(), "starts PCR 0 at another value") {
		t.Fatalf("error %v, want a refusal", err)
	}
	values, err := device.New(transport{i}).PCRs(tpm.AlgSHA256, []int{0})
	if err != nil || !bytes.Equal(values[0], make([]byte, 32)) {
		t.Fatalf("PCR 0 is %x, %v, want zeros", values[0], err)
	}
}

func TestManufactureInParallel(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	ids := make(chan string, 8)
	t.Run("group", func(t *testing.T) {
		for n := range cap(ids) {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "state")
				if err := swtpm.Manufacture(t.Context(), dir, ca, swtpm.Options{}); err != nil {
					t.Fatal(err)
				}
				eks, err := device.New(transport{start(t, dir)}).EKs()
				if err != nil {
					t.Fatal(err)
				}
				ids <- tpm.NodeID(eks[0].Public)
			})
		}
	})
	close(ids)
	seen := make(map[string]bool)
	for id := range ids {
		seen[id] = true
	}
	if len(seen) != cap(ids) {
		t.Errorf("%d different TPMs, want %d", len(seen), cap(ids))
	}
}

func TestStartOnBrokenState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), []byte("not a TPM"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := swtpm.Start(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "swtpm says") {
		t.Fatalf("error %v, want what swtpm logged", err)
	}
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := swtpm.Start(t.Context(), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "apt-get install swtpm") {
		t.Fatalf("error %v, want one that names the package", err)
	}
}

// A killed parent must leave no TPM behind. The child of this test is the test
// binary itself, which starts a TPM, says so and waits to be killed.
func TestKilledParent(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("SWTPM_TEST_CHILD"); dir != "" {
		i, err := swtpm.Start(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		fmt.Println("started")
		io.Copy(io.Discard, os.Stdin)
		return
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestKilledParent$")
	child.Env = append(os.Environ(), "SWTPM_TEST_CHILD="+dir)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("started"))
	if _, err := io.ReadFull(stdout, line); err != nil {
		t.Fatal(err)
	}
	pids := running(t, dir)
	if len(pids) != 1 {
		t.Fatalf("%d TPMs in %s, want 1", len(pids), dir)
	}
	child.Process.Kill()
	child.Wait()
	for deadline := time.Now().Add(20 * time.Second); len(running(t, dir)) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			syscall.Kill(pids[0], syscall.SIGKILL)
			t.Fatal("swtpm outlived its parent by 20 s")
		}
	}
}

// running returns the processes that have dir in their command line as a TPM's
// state directory.
func running(t testing.TB, dir string) []int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range lines {
		cmdline, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(cmdline, []byte("dir="+dir+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
