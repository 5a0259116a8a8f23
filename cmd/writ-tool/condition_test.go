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

// TestExecCondition: the unit as shipped is skipped (1 to 254) where a verifier has said
// no, and fails (255) where nobody could be asked: a unit that is skipped then would
// never start, though the node is legitimate a second later.
func TestExecCondition(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../../docs/systemd/writ-run@.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, found := strings.Cut(string(unit), "\nExecCondition=/usr/bin/writ ")
	if !found {
		t.Fatal("the unit has no condition")
	}
	line, _, _ = strings.Cut(line, "\n")
	dir, err := os.MkdirTemp("", "writ-cond-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	future := time.Now().Unix() + 60
	for i, c := range []struct {
		status int
		body   string
		code   int
	}{
		{200, fmt.Sprintf(`{"node":"n","legitimate":true,"expires":%d}`, future), 0},
		{200, fmt.Sprintf(`{"node":"n","legitimate":true,"expires":%d,"unheard":true,"problem":"no verifier"}`, future), 0},
		{200, `{"node":"n","legitimate":false,"problem":"policy-denied: PCR 4"}`, exitDenied},
		{200, `{"node":"n","legitimate":false,"problem":"suspended: a reason"}`, exitDenied},
		{200, `{"node":"n","legitimate":false,"unheard":true,"problem":"not attested yet"}`, exitNoCondition},
		{200, `{"node":"n","legitimate":false,"unheard":true,"problem":"the last token expired; no verifier"}`, exitNoCondition},
		{200, `legitimate`, exitNoCondition},
		{500, `{"title":"broken"}`, exitNoCondition},
		{0, ``, exitNoCondition}, // no agent
	} {
		socket := filepath.Join(dir, fmt.Sprint(i))
		if c.status != 0 {
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				_, _ = fmt.Fprint(w, c.body)
			})}
			go s.Serve(l)
			t.Cleanup(func() { s.Close() })
		}
		var errs bytes.Buffer
		code := run(t.Context(), append(strings.Fields(line), "--socket", socket), strings.NewReader(""), &errs, &errs)
		if code != c.code {
			t.Errorf("%d %s: exit code %d, expected %d: %s", c.status, c.body, code, c.code, &errs)
		}
	}
}
