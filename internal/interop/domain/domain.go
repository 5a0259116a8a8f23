// Package domain runs a whole Writ domain, as `writ dev` does, for tests of others'
// clients against it.
package domain

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Domain is dev.invalid with three legitimate nodes.
type Domain struct {
	Issuer   string            // https://dev.invalid
	Audience string            // what Token is for
	URL      string            // https://127.0.0.1:PORT, the verifier's own address
	Admin    string            // http://127.0.0.1:PORT, its admin address
	CA       *x509.Certificate // behind the verifier's certificate
	Dir      string
	bin      string
	client   *http.Client
	stop     func()
}

// Start builds the programs and starts a domain, which ends with the test. Each line is
// one of its verifier's configuration.
func Start(t *testing.T, lines ...string) *Domain {
	t.Helper()
	d := &Domain{Issuer: "https://dev.invalid", Audience: "spiffe://dev.invalid/enclave", Dir: t.TempDir(), bin: t.TempDir()}
	build := exec.Command("go", "build", "-o", d.bin+"/", "./cmd/...")
	build.Dir = "../../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	cmd := exec.Command(filepath.Join(d.bin, "writ"), "dev", "--dir", d.Dir)
	for _, line := range lines {
		cmd.Args = append(cmd.Args, "--set", line)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	t.Cleanup(d.stop)
	ready := make(chan bool, 1)
	var said []string
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			said = append(said, lines.Text())
			if strings.HasPrefix(lines.Text(), "Ctrl-C ends the domain") {
				ready <- true
			}
		}
		ready <- false
	}()
	select {
	case ok := <-ready:
		if !ok {
			t.Fatalf("writ dev ended:\n%s", strings.Join(said, "\n"))
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("writ dev did not become ready in two minutes")
	}
	d.Admin = admin.FindString(strings.Join(said, "\n"))
	d.connect(t)
	return d
}

// admin is the admin address among what `writ dev` says.
var admin = regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+`)

// connect makes a client for which dev.invalid is the verifier's address.
func (d *Domain) connect(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(d.Dir, "node-1", "state", "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var node struct {
		Verifiers []string `json:"verifiers"`
		CA        string   `json:"ca"`
	}
	if err := json.Unmarshal(raw, &node); err != nil || len(node.Verifiers) == 0 {
		t.Fatalf("%v: %s", err, raw)
	}
	d.URL = node.Verifiers[0]
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(node.CA))
	if block == nil {
		t.Fatal("no CA certificate")
	}
	if d.CA, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(d.CA)
	d.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, u.Host)
		},
	}}
	t.Cleanup(d.client.CloseIdleConnections)
}

// Client is an HTTP client that reaches the issuer.
func (d *Domain) Client() *http.Client { return d.client }

// Stop ends the domain, its verifier first of all, before the test ends.
func (d *Domain) Stop() { d.stop() }

// Token is a fresh token of the first node.
func (d *Domain) Token(t *testing.T) string {
	t.Helper()
	return d.Writ(t, "token")
}

// Writ runs the command as the operator, on the first node, and returns what it
// prints.
func (d *Domain) Writ(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(d.bin, "writ"), args...)
	cmd.Env = append(os.Environ(), "WRIT_VERIFIER="+d.URL, "WRIT_OPERATOR="+filepath.Join(d.Dir, "verifier", "operator.pem"), "WRIT_SOCKET="+filepath.Join(d.Dir, "node-1", "agent.sock"), "WRIT_STATE="+filepath.Join(d.Dir, "node-1", "state"))
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("writ %s: %v: %s", strings.Join(args, " "), err, messages.String())
	}
	return strings.TrimSpace(string(out))
}

// Node is a machine of the domain, from 1.
func (d *Domain) Node(t *testing.T, n int) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(d.Dir, fmt.Sprintf("node-%d", n), "state", "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var node struct{ Node string }
	if err := json.Unmarshal(raw, &node); err != nil {
		t.Fatal(err)
	}
	return node.Node
}

// Program is the path of one of the programs.
func (d *Domain) Program(name string) string { return filepath.Join(d.bin, name) }
