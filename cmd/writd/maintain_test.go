package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// site is a configured verifier on one data directory.
type site struct {
	t      *testing.T
	data   string
	config string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, data: filepath.Join(t.TempDir(), "data"), config: filepath.Join(t.TempDir(), "writd.toml")}
	write(t, s.config, fmt.Appendf(nil, "domain = \"test.invalid\"\ndata = %q\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\naddresses = [\"127.0.0.1\"]\napprovals = 1\n", s.data))
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.data, name) }

// as is a client with an operator's file.
func (s *site) as(file, url string) *client.Client { return operatorClient(s.t, url, file) }

// serve runs `writd serve` until the test ends or stop is called, and returns
// the URL it answers at.
func (s *site) serve(flags ...string) string {
	s.t.Helper()
	url, stop := s.start(flags...)
	s.t.Cleanup(stop)
	return url
}

func (s *site) start(flags ...string) (url string, stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, append([]string{"serve", "--config", s.config}, flags...), io.Discard, w)
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	var seen []string
	for lines.Scan() {
		seen = append(seen, lines.Text())
		var m struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &m) == nil && m.Msg == "serving" {
			go func() { _, _ = io.Copy(io.Discard, r) }() // to the end
			stopped := false
			return "https://" + m.Address, func() {
				if stopped {
					return
				}
				stopped = true
				cancel()
				if code := <-ended; code != 0 {
					s.t.Errorf("writd serve ended with %d", code)
				}
			}
		}
	}
	cancel()
	s.t.Fatalf("writd serve did not start: exit code %d\n%s", <-ended, strings.Join(seen, "\n"))
	return "", nil
}

// refuses requires that the verifier does not start, with a code and words that
// say why.
func (s *site) refuses(code int, says ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var errs bytes.Buffer
	if got := run(ctx, []string{"serve", "--config", s.config}, io.Discard, &errs); got != code {
		s.t.Errorf("writd serve: exit code %d, expected %d\n%s", got, code, &errs)
	}
	for _, want := range says {
		if !strings.Contains(errs.String(), want) {
			s.t.Errorf("writd serve does not say %q:\n%s", want, &errs)
		}
	}
}

// history makes some entries and stops, so that the database is one file.
func (s *site) history() {
	s.t.Helper()
	url, stop := s.start()
	defer stop()
	s.entries(s.as(s.path("operator.pem"), url), 8)
}

func (s *site) entries(c *client.Client, n int) {
	s.t.Helper()
	for range n {
		if _, err := c.MintJoinToken(s.t.Context(), protocol.NewJoinToken{Class: "web"}); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) run(code int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	got, stdout, stderr := writd(s.t, append(args, "--config", s.config)...)
	if got != code {
		s.t.Errorf("writd %q: exit code %d, expected %d\n%s%s", args, got, code, stdout, stderr)
	}
	return stdout, stderr
}

// flip changes one bit of a file, in the last place where it holds find.
func flip(t *testing.T, path, find string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(raw, []byte(find))
	if at < 0 {
		t.Fatalf("%s does not hold %s", path, find)
	}
	raw[at+len(find)-1] ^= 1
	write(t, path, raw)
}

// TestFsckNamesDamage changes one bit of the history on the disk.
func TestFsckNamesDamage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, find, names string }{
		{databaseFile, `"kind":"join-token.created`, "problem: entry 1: its bytes"},
		{databaseFile, "test.invalid/log\n9\n", "head"},
		{guardFile, "test.invalid/log\n9\n", "note: guard file"}, // a torn write looks so: the other slot counts
	} {
		t.Run(c.file+" "+c.names, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.history()
			if out, _ := s.run(0, "fsck"); !strings.Contains(out, "9 entries") || !strings.HasSuffix(out, "clean\n") {
				t.Errorf("writd fsck of a sound history says\n%s", out)
			}
			flip(t, s.path(c.file), c.find)
			code := 4
			if strings.HasPrefix(c.names, "note") {
				code = 0
			}
			if out, errs := s.run(code, "fsck"); !strings.Contains(out+errs, c.names) {
				t.Errorf("writd fsck does not name the damage as %s:\n%s%s", c.names, out, errs)
			}
		})
	}
}

// TestServeRefusesDevDirectory: the keys and the TPM maker of writ dev never get
// into production, nor production's directory into play.
func TestServeRefusesDevDirectory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := startDev(t, "writd", s.data)
	if code := p.end(syscall.SIGTERM); code != 0 {
		t.Errorf("writd dev ended with %d:\n%s", code, &p.stderr)
	}
	s.refuses(2, "made by writ dev", "use another data directory")

	s = newSite(t)
	s.history()
	if code, _, errs := writd(t, "dev", "--data", s.data); code != 2 || !strings.Contains(errs, "use an empty directory") {
		t.Errorf("writd dev on a verifier's data: exit code %d\n%s", code, errs)
	}
}

// TestRestoredOlderDatabaseIsRefused: revocations may be missing from it.
func TestRestoredOlderDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	backup := filepath.Join(t.TempDir(), "backup.db")
	url, stop := s.start()
	c := s.as(s.path("operator.pem"), url)
	s.entries(c, 2)
	s.run(0, "backup", "-o", backup) // while it is in use
	s.entries(c, 2)
	stop()

	if _, errs := s.run(2, "restore", "--from", backup); !strings.Contains(errs, "move it away first") {
		t.Errorf("restoring over a database: %s", errs)
	}
	lost := t.TempDir()
	if err := os.Rename(s.path(databaseFile), filepath.Join(lost, databaseFile)); err != nil {
		t.Fatal(err)
	}
	s.run(0, "restore", "--from", backup)
	s.refuses(6, "rolled back")
	if out, _ := s.run(4, "fsck"); !strings.Contains(out, "guard") {
		t.Errorf("writd fsck does not see the rollback:\n%s", out)
	}

	// What was lost is found again: put back, it is served.
	if err := os.Remove(s.path(databaseFile)); err != nil {
		t.Fatal(err)
	}
	s.run(0, "restore", "--from", filepath.Join(lost, databaseFile))
	s.serve()
}

// TestRestoreBesideALeftover: a write-ahead log of the database before would be
// replayed into the one that is restored.
func TestRestoreBesideALeftover(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.history()
	backup := filepath.Join(t.TempDir(), "backup.db")
	s.run(0, "backup", "-o", backup)
	if err := os.Rename(s.path(databaseFile), s.path("writ.db.old")); err != nil {
		t.Fatal(err)
	}
	write(t, s.path(databaseFile+"-wal"), []byte("of another database"))
	if _, errs := s.run(2, "restore", "--from", backup); !strings.Contains(errs, "-wal exists") {
		t.Errorf("restoring beside a write-ahead log: %s", errs)
	}
}

// TestDamagedBackupIsNotRestored.
func TestDamagedBackupIsNotRestored(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.history()
	backup := filepath.Join(t.TempDir(), "backup.db")
	s.run(0, "backup", "-o", backup)
	if _, errs := s.run(1, "backup", "-o", backup); !strings.Contains(errs, "exists") {
		t.Errorf("a backup over another: %s", errs)
	}
	raw, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	write(t, backup, raw[:len(raw)/2])
	if err := os.Rename(s.path(databaseFile), s.path("writ.db.old")); err != nil {
		t.Fatal(err)
	}
	s.run(4, "restore", "--from", backup)
	if _, err := os.Stat(s.path(databaseFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a damaged backup was put in place: %v", err)
	}
}

// TestLostKeyStopsStart: a key that is lost and made anew would be another
// issuer and another log under the old name.
func TestLostKeyStopsStart(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	s.history()
	other.history()
	if err := os.Rename(s.path("keys"), s.path("lost")); err != nil {
		t.Fatal(err)
	}
	s.refuses(2, "keys are missing", "restore them from a backup")
	if _, err := os.Stat(s.path("keys")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("keys were made where there is history")
	}
	if err := os.Rename(s.path("lost"), s.path("keys")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"log.pem", "token.pem", "tls-ca.pem", "operator-ca.pem", "challenge.pem"} {
		own, err := os.ReadFile(s.path("keys/" + name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(s.path("keys/" + name)); err != nil {
			t.Fatal(err)
		}
		s.refuses(2, name, "missing")
		foreign, err := os.ReadFile(other.path("keys/" + name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, s.path("keys/"+name), foreign)
		s.refuses(2, "key")
		write(t, s.path("keys/"+name), own)
	}
	s.serve()
}

// TestLostGuardFile: without it a rollback would not be seen, so somebody has to
// say that there was none.
func TestLostGuardFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.history()
	if err := os.Remove(s.path(guardFile)); err != nil {
		t.Fatal(err)
	}
	s.refuses(2, "guard file is missing", "--adopt")
	_, stop := s.start("--adopt")
	stop()
	s.serve()
}

// TestSecondVerifierOnOneDirectory: two would sign two histories.
func TestSecondVerifierOnOneDirectory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve()
	s.refuses(1, "in use by another process")
}

// TestKeyOthersMayRead: a key that was readable is not a secret.
func TestKeyOthersMayRead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.history()
	if err := os.Chmod(s.path("keys/token.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.refuses(2, "token.pem", "expected 0600")
}

// TestOperators: a further operator may do what its roles say, and the history
// names it.
func TestOperators(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	url := s.serve()
	ctx := t.Context()
	acts := []struct {
		name string
		role keys.Role // that may
		do   func(c *client.Client) error
	}{
		{"see nodes", keys.Viewer, func(c *client.Client) error { _, err := c.Nodes(ctx, "", 0); return err }},
		{"read the history", keys.Auditor, func(c *client.Client) error { _, err := c.Audit(ctx, 0, 1); return err }},
		{"make a join token", keys.Actor, func(c *client.Client) error {
			_, err := c.MintJoinToken(ctx, protocol.NewJoinToken{Class: "web"})
			return err
		}},
		{"publish a reference set", keys.Approver, func(c *client.Client) error { _, err := c.Publish(ctx, []byte("{}")); return err }},
	}
	for _, role := range keys.AllRoles() {
		file := filepath.Join(t.TempDir(), "op.pem")
		s.run(0, "operator", "--name", "op-"+string(role), "--role", string(role), "-o", file)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("an operator's file has mode %v (%v)", info.Mode(), err)
		}
		c := s.as(file, url)
		for _, a := range acts {
			err := a.do(c)
			var r *protocol.Refusal
			denied := errors.As(err, &r) && r.Code == "role-required"
			if may := a.role == role || (a.name == "see nodes" && role != keys.RelyingParty); denied == may {
				t.Errorf("the %s wants to %s: %v", role, a.name, err)
			}
		}
	}
	expired := filepath.Join(t.TempDir(), "expired.pem")
	s.run(0, "operator", "--name", "late", "--life", "1ns", "-o", expired)
	if _, err := s.as(expired, url).Nodes(ctx, "", 0); err == nil {
		t.Error("an expired certificate is accepted")
	}
	foreign := newSite(t)
	foreign.history()
	if _, err := s.as(foreign.path("operator.pem"), url).Nodes(ctx, "", 0); err == nil {
		t.Error("another domain's operator is accepted")
	}
	a, err := s.as(s.path("operator.pem"), url).Audit(ctx, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range a.Entries {
		found = found || strings.Contains(string(e.Leaf), bundle.Subject("test.invalid", "operator/op-operator"))
	}
	if !found {
		t.Errorf("the %d entries do not name the operator who acted", len(a.Entries))
	}
}

// TestTwoApprovers: one operator can freeze the domain; lifting it takes two who
// are not one, however often that one asks.
func TestTwoApprovers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	raw, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.config, bytes.Replace(raw, []byte("approvals = 1"), []byte("approvals = 2"), 1))
	url := s.serve()
	second := filepath.Join(t.TempDir(), "second.pem")
	s.run(0, "operator", "--name", "second", "--role", "approver", "-o", second)
	one, two := s.as(s.path("operator.pem"), url), s.as(second, url)
	lift := protocol.GovernanceChange{Reason: "test"}
	if g, err := one.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "test"}); err != nil || !g.Frozen {
		t.Fatalf("freezing: %+v, %v", g, err)
	}
	for range 2 {
		if g, err := one.Freeze(t.Context(), lift); err != nil || !g.Frozen || g.Approvals != 1 || g.Needed != 2 {
			t.Fatalf("one operator lifts the freeze: %+v, %v", g, err)
		}
	}
	if g, err := two.Freeze(t.Context(), lift); err != nil || g.Frozen {
		t.Fatalf("the second operator agrees: %+v, %v", g, err)
	}
}

// TestUsage: mistakes in how a command is called exit with 2 and say what is
// expected.
func TestUsage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.history()
	unknown := filepath.Join(t.TempDir(), "unknown.toml")
	write(t, unknown, []byte("domain = \"a.invalid\"\nlistem = \"x\"\n"))
	for _, c := range []struct{ args, says string }{
		{"", "writd --help"},
		{"nonsense", "unknown command"},
		{"serve --nonsense", "unknown flag"},
		{"serve", "--config FILE is needed"},
		{"serve extra", "expected no argument"},
		{"serve --config /nonexistent.toml", "no such file"},
		{"serve --config " + unknown, "listem"},
		{"check-config", "writd example-config"},
		{"check-config --config " + unknown, "unknown key"},
		{"fsck --data " + s.data, "--domain"},
		{"fsck --config " + s.config + " --data " + s.data, "not both"},
		{"fsck --data /nonexistent --domain a.invalid", "keys are missing"},
		{"fsck --data " + s.data + " --domain other.invalid", "other.invalid"},
		{"backup --config " + s.config, "-o FILE is needed"},
		{"restore --config " + s.config, "--from FILE is needed"},
		{"operator --config " + s.config, "--name and -o are needed"},
		{"operator --config " + s.config + " --name x --role boss -o /dev/null", "viewer auditor operator approver"},
		{"operator --config " + s.config + " --name a/b -o /dev/null", "no name for an operator"},
		{"prune --config " + s.config, "--before DATE"},
		{"prune --config " + s.config + " --before soon", "2026-01-31"},
		{"prune --config " + s.config + " --before 2999-01-01", "in the future"},
		{"dev", "--data DIR is needed"},
		{"dev --data " + t.TempDir() + " --listen 0.0.0.0:0", "loopback only"},
		{"dev --data " + t.TempDir() + " --listen example.org:1", "loopback only"},
		{"dev --data " + t.TempDir() + " --token-life 1h", "2s to 300s"},
		{"dev --data " + t.TempDir() + " --reference-key /nonexistent", "no such file"},
		{"dev --data " + t.TempDir() + " --ek-root /nonexistent", "no such file"},
	} {
		if code, _, errs := writd(t, strings.Fields(c.args)...); code != 2 || !strings.Contains(errs, c.says) {
			t.Errorf("writd %s: exit code %d, expected 2 and %q:\n%s", c.args, code, c.says, errs)
		}
	}
}

// TestConfigCommands: what example-config prints, check-config accepts.
func TestConfigCommands(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "writd.toml")
	code, out, errs := writd(t, "example-config")
	if code != 0 {
		t.Fatalf("writd example-config: %d\n%s", code, errs)
	}
	write(t, file, []byte(out))
	code, out, errs = writd(t, "check-config", "--config", file)
	if code != 0 || !strings.Contains(out, "domain prod.example.org") || !strings.Contains(errs, "no reference_keys") {
		t.Errorf("writd check-config: %d\n%s%s", code, out, errs)
	}
	write(t, file, []byte("domain = \"a.invalid\"\nek_roots = [\"../../testdata/ek-roots\", \"/nonexistent.pem\"]\n"))
	if code, _, errs := writd(t, "check-config", "--config", file); code != 2 || !strings.Contains(errs, "/nonexistent.pem") {
		t.Errorf("roots that are not there: %d\n%s", code, errs)
	}
}

// TestHelp: every command says what it does, and shows how.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, cmd := range newRoot().Commands() {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("writd %s: needs one line without full stop that says what it does", cmd.Name())
		}
		if cmd.Example == "" {
			t.Errorf("writd %s: has no example", cmd.Name())
		}
	}
}
