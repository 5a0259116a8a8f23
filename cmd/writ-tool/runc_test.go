package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestContainerOfARealRuntime: runc starts nothing of a container whose node is not
// legitimate, or whose agent does not answer; and what it hands to the hook is a state
// that the hook reads. Without the hook, the naive twin, all of them start.
func TestContainerOfARealRuntime(t *testing.T) {
	t.Parallel()
	writ, err := exec.LookPath("writ") // this program, see TestMain
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		status string // of the node; "" is no agent
		hooked bool
		ran    bool
		says   string
	}{
		"legitimate": {fmt.Sprintf(`{"node":"n","legitimate":true,"expires":%d}`, time.Now().Unix()+600), true, true, ""},
		"denied":     {`{"node":"n","legitimate":false,"problem":"policy-denied: PCR 4"}`, true, false, "PCR 4"},
		"no agent":   {"", true, false, "asking the agent"},
		"naive":      {`{"node":"n","legitimate":false,"problem":"policy-denied: PCR 4"}`, false, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			socket := filepath.Join(dir, "agent.sock")
			if c.status != "" {
				l, err := net.Listen("unix", socket)
				if err != nil {
					t.Fatal(err)
				}
				s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, c.status) })}
				go s.Serve(l)
				t.Cleanup(func() { s.Close() })
			}
			var hooks map[string]any
			if c.hooked {
				hooks = map[string]any{"createRuntime": []map[string]any{{"path": writ, "args": []string{"writ", "oci-hook", "--socket", socket}, "timeout": 60}}}
			}
			out, err := runContainer(t, dir, hooks)
			if _, no := os.Stat(filepath.Join(dir, "out", "ran")); (no == nil) != c.ran || (err == nil) != c.ran || !strings.Contains(out, c.says) {
				t.Errorf("ran %v, expected %v, saying %q: %v\n%s", no == nil, c.ran, c.says, err, out)
			}
		})
	}
}

// runContainer has runc run a container of this machine's own files that leaves a file
// in dir/out.
func runContainer(t *testing.T, dir string, hooks map[string]any) (out string, err error) {
	t.Helper()
	for _, d := range []string{"rootfs", "out"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	id := fmt.Sprintf("writ-%d-%d", os.Getpid(), time.Now().UnixNano())
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/out", "type": "none", "source": filepath.Join(dir, "out"), "options": []string{"rbind"}},
	}
	for _, d := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		mounts = append(mounts, map[string]any{"destination": d, "type": "none", "source": d, "options": []string{"rbind", "ro"}})
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2", "root": map[string]any{"path": "rootfs"}, "mounts": mounts, "hooks": hooks,
		"process": map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "cwd": "/", "args": []string{"/bin/sh", "-c", "echo >/out/ran"}},
		"linux":   map[string]any{"cgroupsPath": "/" + id, "namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := exec.Command("runc", "--root", filepath.Join(dir, "runc"), "run", "--bundle", dir, id).CombinedOutput()
	return string(b), err
}
