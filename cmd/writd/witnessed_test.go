package main

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestCheckpointsAreCosigned runs a verifier that names a witness: what it serves
// carries the cosignature, also after a restart with the witness gone. While the
// witness refuses to cosign, it is not ready.
func TestCheckpointsAreCosigned(t *testing.T) {
	t.Parallel()
	w, err := ledger.NewWitness("w.invalid", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var vkeys []string
	var last ledger.Checkpoint
	var refuses atomic.Bool
	witness := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		s, err := ledger.ParseSubmission(body)
		if err != nil || len(vkeys) == 0 {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		next, err := s.Admit(last, vkeys...)
		if err != nil || refuses.Load() {
			rw.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		last = next
		line, _ := w.Cosign(s.Note, time.Now())
		_, _ = rw.Write(line)
	}))
	defer witness.Close()
	v := newReplica(t, "a", fmt.Sprintf("domain = \"cosigned.invalid\"\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\naddresses = [\"127.0.0.1\"]\nwitness_every = \"100ms\"\nwitness_max_age = \"4s\"\nwitnesses = \"\"\"\nwitness w %s %s\nquorum w\n\"\"\"\n", w.VerifierKey(), witness.URL))
	v.serve()
	c := operatorClient(t, v.url, filepath.Join(v.data, "operator.pem"))
	trust, err := c.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	policy, err := bundle.ParsePolicy(trust.WitnessPolicy)
	if err != nil || !policy.Demands() {
		t.Fatalf("policy of the trust file: %+v, %v", policy, err)
	}
	mu.Lock()
	vkeys = trust.Log
	mu.Unlock()
	cosigned := func() bool {
		t.Helper()
		c := operatorClient(t, v.url, filepath.Join(v.data, "operator.pem"))
		text, err := c.Proof(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ledger.ParseProof(text)
		if err != nil {
			t.Fatal(err)
		}
		_, ok := policy.Cosigned(p.Note, trust.Log...)
		return ok
	}
	for deadline := time.Now().Add(30 * time.Second); !cosigned(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no proof is cosigned")
		}
	}
	ready := func() string {
		t.Helper()
		resp, err := http.Get("http://" + v.admin + "/readyz?verbose")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	eventually(t, "readiness", func() bool { return !strings.Contains(ready(), protocol.Unwitnessed) })
	refuses.Store(true) // and shows nothing
	eventually(t, "the end of readiness", func() bool { return strings.Contains(ready(), protocol.Unwitnessed) })
	refuses.Store(false) // asked again, though the log has not grown
	eventually(t, "readiness once more", func() bool { return !strings.Contains(ready(), protocol.Unwitnessed) })
	witness.Close()
	v.end(syscall.SIGKILL)
	v.serve()
	if !cosigned() {
		t.Error("after a restart the cosignatures are lost")
	}
}
