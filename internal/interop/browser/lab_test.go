package browser

import (
	"bufio"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/interop/domain"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/reference"
)

// lab is a verifier of its own: without a node until a test makes one, and a process
// that may be killed. Its page /demo is played by the `writ dev` of another domain.
type lab struct {
	URL string
	CA  *x509.Certificate

	writ, writd, dir string
	listen           string
	args             []string
	maker            *swtpm.CA
	signer           ed25519.PrivateKey // of reference sets
	process          *exec.Cmd
	operator         string // file
	api              *client.Client
}

// newLab starts a verifier. Each line is one of its configuration; the maker of its
// nodes' TPMs has a name.
func newLab(t *testing.T, d *domain.Domain, maker string, lines ...string) *lab {
	t.Helper()
	l := &lab{writ: d.Program("writ"), writd: d.Program("writd"), dir: t.TempDir(), listen: "127.0.0.1:0", signer: ed25519.NewKeyFromSeed(make([]byte, 32))}
	var err error
	if l.maker, err = swtpm.NewCA(maker, time.Now()); err != nil {
		t.Fatal(err)
	}
	root, key := filepath.Join(l.dir, "root.pem"), filepath.Join(l.dir, "reference.pem")
	for file, b := range map[string][]byte{root: l.maker.RootPEM(), key: []byte(reference.FormatKey(l.signer.Public().(ed25519.PublicKey)))} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.args = []string{"--ek-root", root, "--reference-key", key, "--token-life", "5m", "--demo", filepath.Join(d.Dir, "demo.sock")}
	iakRoots, _ := json.Marshal([]string{root}) // strings always marshal; TOML writes them so, too
	for _, line := range append(lines, "iak_roots = "+string(iakRoots)) {
		l.args = append(l.args, "--set", line)
	}
	l.start(t)
	t.Cleanup(l.kill)
	raw, err := os.ReadFile(l.operator)
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.ParseIdentity(raw)
	if err != nil {
		t.Fatal(err)
	}
	if l.api, err = client.New(client.Config{URL: l.URL, Operator: id}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.api.Close)
	pemCA, _ := os.ReadFile(filepath.Join(l.dir, "verifier", "keys", "tls-ca.pem"))
	for block, rest := pem.Decode(pemCA); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			if l.CA, err = x509.ParseCertificate(block.Bytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	if l.CA == nil {
		t.Fatal("the verifier made no authority for its certificate")
	}
	return l
}

// start runs the verifier, at its last address if it had one, until it serves.
func (l *lab) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(l.dir, "writd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(l.writd, append([]string{"dev", "--data", filepath.Join(l.dir, "verifier"), "--listen", l.listen}, l.args...)...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.process = cmd
	line, err := bufio.NewReader(out).ReadBytes('\n') // its end is an error
	var ready struct{ Verifier, Operator string }
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		l.kill()
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("writd dev: %v\n%s", err, said)
	}
	l.URL, l.operator, l.listen = ready.Verifier, ready.Operator, strings.TrimPrefix(ready.Verifier, "https://")
}

// kill ends the verifier as a power cut does.
func (l *lab) kill() {
	if l.process != nil {
		_ = l.process.Process.Kill() // it may have ended by itself
		_ = l.process.Wait()
		l.process = nil
	}
}

// run runs writ as an operator and returns what it prints.
func (l *lab) run(t *testing.T, operator string, args ...string) string {
	t.Helper()
	cmd := exec.Command(l.writ, append(args, "--operator", operator, "--verifier", l.URL)...)
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("writ %s: %v: %s", strings.Join(args, " "), err, messages.String())
	}
	return strings.TrimSpace(string(out))
}

// issue makes an operator of the domain, for a time.
func (l *lab) issue(t *testing.T, life time.Duration, name string, roles ...keys.Role) string {
	t.Helper()
	k, err := keys.Open(filepath.Join(l.dir, "verifier"), "dev.invalid", false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := k.IssueOperator(keys.Operator{Name: name, Roles: roles}, life, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.dir, name+".pem")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// until waits for what is no page's.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
	}
}
