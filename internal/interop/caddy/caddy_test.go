package caddy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/forwardauth"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"

	"github.com/writ-attestation/writ/enclave/gate"
	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	domain = "example.org"
	origin = "https://api.example.org"
)

// TestCaddyAsksTheGate: the configuration of docs/operations.md, in a real Caddy,
// lets through what it must and nothing else, whatever the client says of its
// request. A gate that believes headers of another proxy is the naive twin.
func TestCaddyAsksTheGate(t *testing.T) {
	w := newWorld(t)
	var reached atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(service.Close)
	g, front := newGate(t, w, gate.Caddy)
	_, credulous := newGate(t, w, gate.Nginx)

	dir := t.TempDir()
	site := documented(t, "Caddy:")
	startCaddy(t, dir, map[string]string{
		"front": placed(t, site, front, service),
		"naive": placed(t, site, credulous, service),
	})
	f := hostile.Front{
		Socket: filepath.Join(dir, "naive"), Origin: origin, Reached: func() int { return int(reached.Load()) }, Event: g.Event, Down: front.Close,
	}
	hostile.Fooled(t, w, f)
	f.Socket = filepath.Join(dir, "front")
	hostile.Proxied(t, w, f)
}

func newWorld(t *testing.T) *hostile.World {
	holder, now := newKey(t), time.Now()
	jkt, err := token.Thumbprint(holder.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &hostile.World{Issuer: newKey(t), Holder: holder, At: now, Claims: token.Claims{
		Issuer: "https://" + domain, Subject: "spiffe://" + domain + "/node/0011", Audience: origin, ID: rand.Text(),
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: now.Unix() + 60,
		Nonce: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), Confirm: token.Confirm{JKT: jkt}, Status: "affirming",
		Verifier: token.Verifier{Developer: "test", Build: "test"},
		Submods:  map[string]token.Submod{"platform": {Status: "affirming", Policies: []string{"sha256:00"}}},
		Writ:     token.Writ{V: 1, State: "synchronized", Seq: 5, Epoch: 3, Level: "E3", Key: "software", Log: token.Log{Origin: domain + "/log"}},
	}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newGate(t *testing.T, w *hostile.World, proxy gate.Proxy) (*gate.Gate, *httptest.Server) {
	t.Helper()
	keys, err := token.NewKeys(w.Issuer.Public())
	if err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(gate.Config{
		Issuer: w.Claims.Issuer, Domain: domain, Audience: origin, Keys: keys, Origin: origin, Proxy: proxy,
		Now: time.Now, Log: slog.New(slog.DiscardHandler), Statuses: gate.Statuses{Ignored: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(g.Handler())
	t.Cleanup(s.Close)
	return g, s
}

// documented is the indented text after a line of docs/operations.md.
func documented(t *testing.T, after string) string {
	t.Helper()
	b, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + after + `\n\n((?:(?:    .*)?\n)+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("docs/operations.md has nothing after %q", after)
	}
	return string(m[1])
}

// placed is a documented site with the addresses of this test.
func placed(t *testing.T, site string, gate, service *httptest.Server) string {
	t.Helper()
	for from, to := range map[string]*httptest.Server{"127.0.0.1:8480": gate, "127.0.0.1:8080": service} {
		if !strings.Contains(site, from) {
			t.Fatalf("the documented configuration has no %s:\n%s", from, site)
		}
		site = strings.ReplaceAll(site, from, to.Listener.Addr().String())
	}
	return site
}

// startCaddy runs Caddy with one site for each name, on a socket of that name in
// dir, until the test ends.
func startCaddy(t *testing.T, dir string, sites map[string]string) {
	t.Helper()
	t.Setenv("HOME", dir)
	var file strings.Builder
	fmt.Fprintf(&file, "{\nadmin off\nauto_https off\npersist_config off\nstorage file_system %s\nlog {\noutput discard\n}\n}\n", dir)
	port := 80 // tells the sites apart; nothing listens there
	for name, site := range sites {
		fmt.Fprintf(&file, "http://:%d {\nbind unix/%s/%s\n%s}\n", port, dir, name, site)
		port++
	}
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(file.String()), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("reading the Caddyfile: %v\n%s", err, file.String())
	}
	for _, w := range warnings {
		t.Log(w.String())
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
}
