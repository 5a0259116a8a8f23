package gate

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
)

// TestNginxAsksTheGate: the configuration of docs/operations.md, in a real nginx,
// lets through what it must and nothing else, whatever the client says of its
// request. Without the headers it sets, the client's are believed: that is the
// naive twin.
func TestNginxAsksTheGate(t *testing.T) {
	w := newWorld(t)
	w.cfg.Now = time.Now
	var reached atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(service.Close)
	g := w.gate()
	front := httptest.NewServer(g.Handler())
	t.Cleanup(front.Close)

	locations := documented(t, "nginx:")
	for from, to := range map[string]string{"127.0.0.1:8480": front.Listener.Addr().String(), "127.0.0.1:8080": service.Listener.Addr().String()} {
		if !strings.Contains(locations, from) {
			t.Fatalf("the documented configuration has no %s:\n%s", from, locations)
		}
		locations = strings.ReplaceAll(locations, from, to)
	}
	credulous := regexp.MustCompile(`(?m)^.*X-Original-.*\n`).ReplaceAllString(locations, "")
	dir := t.TempDir()
	startNginx(t, dir, map[string]string{"front": locations, "naive": credulous})

	world := &hostile.World{Issuer: w.issuer, Holder: w.agent, Claims: w.claims(), At: time.Now()}
	f := hostile.Front{
		Socket: filepath.Join(dir, "naive"), Origin: origin, Reached: func() int { return int(reached.Load()) }, Event: g.Event, Down: front.Close,
	}
	hostile.Fooled(t, world, f)
	f.Socket = filepath.Join(dir, "front")
	hostile.Proxied(t, world, f)
}

// documented is the indented text after a line of docs/operations.md.
func documented(t *testing.T, after string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + after + `\n\n((?:(?:    .*)?\n)+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("docs/operations.md has nothing after %q", after)
	}
	return string(m[1])
}

// startNginx runs nginx with one server for each name, on a socket of that name in
// dir, until the test ends.
func startNginx(t *testing.T, dir string, servers map[string]string) {
	t.Helper()
	var conf strings.Builder
	// One process, which does not change its user and which the test can end.
	fmt.Fprintf(&conf, "daemon off;\nmaster_process off;\npid %[1]s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&conf, "%s_temp_path %s/%[1]s;\n", kind, dir)
	}
	for name, locations := range servers {
		fmt.Fprintf(&conf, "server {\nlisten unix:%s/%s;\n%s}\n", dir, name, locations)
	}
	conf.WriteString("}\n")
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("nginx", "-e", "stderr", "-p", dir, "-c", path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting nginx: %v; make tools installs it", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for name := range servers {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			c, err := net.Dial("unix", filepath.Join(dir, name))
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(end) {
				said, _ := os.ReadFile(log.Name())
				t.Fatalf("nginx does not listen: %v\n%s", err, said)
			}
		}
	}
}
