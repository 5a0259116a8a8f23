package spiffe

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-attestation/writ/internal/interop/domain"
)

const cloud = "https://db.example.org"

// serve runs writ-spiffe beside the first node's agent with a map, and returns how
// go-spiffe finds it.
func serve(t *testing.T, d *domain.Domain, entries string) workloadapi.ClientOption {
	t.Helper()
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "map.toml"), filepath.Join(dir, "w.sock")
	if err := os.WriteFile(file, []byte(entries), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(d.Program("writ-spiffe"), "--map", file, "--socket", socket, "--agent", filepath.Join(d.Dir, "node-1", "agent.sock"))
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "serving the Workload API") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return workloadapi.WithAddr("unix://" + socket)
		}
	}
	t.Fatalf("writ-spiffe ended: %s", lines.Text())
	return nil
}

// digest is that of the running test.
func digest(t *testing.T) string {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

// TestWorkloadAPI: nobody gets what is not listed. go-spiffe's client, which knows nothing of Writ, gets the identities
// that the map and the domain allow, renews them, and gets none once its node is not
// legitimate; by then the last ones have ended.
func TestWorkloadAPI(t *testing.T) {
	d := domain.Start(t, `x509_svids = true`, `exchange_audiences = ["`+cloud+`", "https://unmapped.example.org"]`,
		`workloads = [{path = "workload/api", classes = ["grub"]}]`)
	denies(t, d)
	at := serve(t, d, fmt.Sprintf("[[workload]]\nuid = %d\nexecutable = %q\nid = \"workload/api\"\naudiences = [%q]\n", os.Getuid(), digest(t), cloud))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(at))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(svid.Certificates[0].NotAfter); svid.ID.String() != "spiffe://dev.invalid/workload/api" || left > time.Minute+2*time.Second {
		t.Errorf("%s for %v", svid.ID, left)
	}
	if id, _, err := x509svid.Verify(svid.Certificates, source); err != nil || id != svid.ID {
		t.Errorf("%s %v", id, err)
	}
	first := svid.Certificates[0].SerialNumber
	for renewed := false; !renewed; {
		select {
		case <-source.Updated():
			svid, err := source.GetX509SVID()
			renewed = err == nil && svid.Certificates[0].SerialNumber.Cmp(first) != 0
		case <-ctx.Done():
			t.Fatal("the X509-SVID was not renewed")
		}
	}
	jwts, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(at))
	if err != nil {
		t.Fatal(err)
	}
	defer jwts.Close()
	jwt, err := jwts.FetchJWTSVID(ctx, jwtsvid.Params{Audience: cloud})
	if err != nil || jwt.ID != svid.ID {
		t.Fatalf("%+v %v", jwt, err)
	}
	if _, err := jwtsvid.ParseAndValidate(jwt.Marshal(), jwts, []string{cloud}); err != nil {
		t.Error(err)
	}
	if got, err := workloadapi.ValidateJWTSVID(ctx, jwt.Marshal(), cloud, at); err != nil || got.ID != svid.ID {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, jwt.Marshal(), "https://other.example.org", at); status.Code(err) != codes.InvalidArgument {
		t.Errorf("for another audience: %v", err)
	}
	for _, p := range []jwtsvid.Params{{Audience: "https://unmapped.example.org"}, {Audience: "https://unlisted.example.org"}} {
		if _, err := jwts.FetchJWTSVID(ctx, p); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", p.Audience, err)
		}
	}
	d.Writ(t, "node", "suspend", d.Node(t, 1), "--reason", "x")
	for {
		_, err := workloadapi.FetchX509SVID(ctx, at)
		if status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unavailable {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("a node that is suspended gets X509-SVIDs: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	if _, err := jwts.FetchJWTSVID(ctx, jwtsvid.Params{Audience: cloud}); err == nil {
		t.Error("a node that is suspended gets JWT-SVIDs")
	}
}

// denies: who is not in the map, and what the domain does not list, gets nothing.
func denies(t *testing.T, d *domain.Domain) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for name, entries := range map[string]string{
		"nobody":             "",
		"another user":       fmt.Sprintf("[[workload]]\nuid = %d\n", os.Getuid()+1),
		"another executable": fmt.Sprintf("[[workload]]\nuid = %d\nexecutable = \"sha256:%s\"\n", os.Getuid(), strings.Repeat("0", 64)),
		"another cgroup":     fmt.Sprintf("[[workload]]\nuid = %d\ncgroup = \"/nowhere/\"\n", os.Getuid()),
		"unlisted identity":  fmt.Sprintf("[[workload]]\nuid = %d\nid = \"workload/other\"\n", os.Getuid()),
	} {
		at := serve(t, d, entries)
		if _, err := workloadapi.FetchX509SVID(ctx, at); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: cloud}, at); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	at := serve(t, d, fmt.Sprintf("[[workload]]\nuid = %d\n", os.Getuid()))
	if svid, err := workloadapi.FetchX509SVID(ctx, at); err != nil || svid.ID.String() != "spiffe://dev.invalid/node/"+d.Node(t, 1) {
		t.Errorf("the node's own: %+v %v", svid, err)
	}
}
