package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// doorkeeper is a `writ gate` of a domain that lets tokens of another one pass.
type doorkeeper struct {
	t   *testing.T
	url string
}

// newDoorkeeper runs a gate of p's domain, in front of the service that both know.
func newDoorkeeper(t *testing.T, writ string, p *party, peer string) *doorkeeper {
	t.Helper()
	trust, err := p.operator.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trust.json")
	write(t, file, trust.Marshal())
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, writ, "gate", "--trust", file, "--audience", service, "--origin", service, "--proxy", "nginx", "--listen", "127.0.0.1:0", "--log-format", "text",
		"--peer", peer, "--verifier", p.url, "--operator", p.file("operator.pem"))
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, address, ok := strings.Cut(lines.Text(), "address="); ok && len(said) == 0 {
				said <- strings.Fields(address)[0]
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended; _ = cmd.Wait() })
	select {
	case address := <-said:
		return &doorkeeper{t, "http://" + address}
	case <-ended:
	case <-time.After(time.Minute):
	}
	t.Fatal("the gate does not begin")
	return nil
}

// asks is the status that a token of n has at the gate, with a proof by n's key.
func (d *doorkeeper) asks(n *node, tok string) int {
	d.t.Helper()
	proof, err := token.NewProof(token.Call{Method: http.MethodGet, URL: service + "/things", Token: tok}, n.key, time.Now(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.url+"/v1/authz", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	for name, value := range map[string]string{"X-Original-Method": http.MethodGet, "X-Original-URI": "/things", "Authorization": "DPoP " + tok, "DPoP": proof} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// until waits for a status.
func (d *doorkeeper) until(what string, n *node, tok string, status int) {
	d.t.Helper()
	eventually(d.t, what, func() bool { return d.asks(n, tok) == status })
}
