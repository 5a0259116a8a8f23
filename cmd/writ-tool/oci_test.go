package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The states that runc 1.1 and crun 1.8 hand to a createRuntime hook.
const (
	runcState = `{"ociVersion":"1.0.2-dev","id":"3f4e1c","status":"creating","pid":4422,"bundle":"/run/containerd/io.containerd.runtime.v2.task/k8s.io/3f4e1c","annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"9a0b"}}`
	crunState = `{"ociVersion":"1.0","id":"web","pid":17,"root":"/var/lib/containers/storage/overlay/x/merged","bundle":"/var/lib/containers/storage/overlay-containers/web/userdata","status":"created","annotations":{}}`
)

// TestContainerOnIllegitimateNode: the hook lets a container start only if the agent
// says, now, that the node is legitimate.
func TestContainerOnIllegitimateNode(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "writ-oci-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	hook := func(socket, state string) (code int, says string) {
		var errs bytes.Buffer
		code = run(t.Context(), []string{"oci-hook", "--socket", socket}, strings.NewReader(state), &errs, &errs)
		return code, errs.String()
	}
	agent := func(name string, status int, body string) string {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		})}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		return l.Addr().String()
	}
	good := agent("good", 200, fmt.Sprintf(`{"node":"n","legitimate":true,"expires":%d}`, time.Now().Unix()+60))
	for name, c := range map[string]struct {
		socket, state string
		code          int
		says          string
	}{
		"runc":            {good, runcState, exitOK, ""},
		"crun":            {good, crunState, exitOK, ""},
		"denied":          {agent("denied", 200, `{"node":"n","legitimate":false,"problem":"verdict: PCR 4"}`), runcState, exitDenied, "PCR 4"},
		"expired":         {agent("expired", 200, `{"node":"n","legitimate":true,"expires":1}`), runcState, exitDenied, "not legitimate"},
		"no expiry":       {agent("forever", 200, `{"node":"n","legitimate":true}`), runcState, exitDenied, "not legitimate"},
		"nothing said":    {agent("mute", 200, `{}`), runcState, exitDenied, "not legitimate"},
		"agent refuses":   {agent("refuses", 403, `{"title":"not-legitimate","detail":"x"}`), runcState, exitDenied, "not-legitimate"},
		"agent fails":     {agent("fails", 500, `{"title":"broken"}`), runcState, exitUnreached, "broken"},
		"no agent":        {filepath.Join(dir, "none"), runcState, exitUnreached, "asking the agent"},
		"not an answer":   {agent("noise", 200, `legitimate`), runcState, exitFailed, ""},
		"no state":        {good, "", exitUsage, "state"},
		"not a state":     {good, `[1]`, exitUsage, "state"},
		"two states":      {good, runcState + runcState, exitUsage, "state"},
		"another object":  {good, `{"status":"creating"}`, exitUsage, "ociVersion"},
		"relative bundle": {good, strings.Replace(runcState, `"/run`, `"run`, 1), exitUsage, "absolute"},
		"too late":        {good, strings.Replace(runcState, "creating", "running", 1), exitUsage, "createRuntime"},
		"too long":        {good, runcState + strings.Repeat(" ", maxState), exitUsage, "more than"},
	} {
		if code, says := hook(c.socket, c.state); code != c.code || !strings.Contains(says, c.says) {
			t.Errorf("%s: exit code %d, expected %d and %q: %s", name, code, c.code, c.says, says)
		}
	}
}

func FuzzContainerState(f *testing.F) {
	f.Add([]byte(runcState))
	f.Add([]byte(crunState))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readState(bytes.NewReader(b))
		if err == nil && (s.ID == "" || (s.Status != "creating" && s.Status != "created")) {
			t.Errorf("%q is read as %+v", b, s)
		}
	})
}
