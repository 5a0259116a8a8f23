package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

func (w *world) hostile() *hostile.World {
	return &hostile.World{Issuer: w.issuer, Holder: w.agent, Claims: w.claims(), At: time.Unix(w.now.Load(), 0)}
}

// send asks h for a path with these credentials.
func send(h http.Handler, path, authorization, proof string) *http.Response {
	r := httptest.NewRequest("GET", "http://127.0.0.1"+path, nil)
	if path == authz {
		r.Header.Set("X-Original-Method", "GET")
		r.Header.Set("X-Original-URI", "/things")
	}
	for name, value := range map[string]string{"Authorization": authorization, "DPoP": proof} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Result()
}

// TestHostileTokens: a gate refuses every bad token and proof, in the words of the
// standards, whether a proxy asks it or it is the handler before a service; of these
// requests none gets to the service.
func TestHostileTokens(t *testing.T) {
	t.Run("asked", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		h := w.gate().Handler()
		hostile.Challenged(t, w.hostile(), hostile.Call{Method: "GET", URL: origin + "/things", Send: func(authorization, proof string) *http.Response {
			return send(h, authz, authorization, proof)
		}})
	})
	t.Run("before a service", func(t *testing.T) {
		t.Parallel()
		w, reached := newWorld(t), 0
		srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
		defer srv.Close()
		var err error
		if w.cfg.Upstream, err = url.Parse(srv.URL); err != nil {
			t.Fatal(err)
		}
		h := w.gate().Handler()
		hostile.Challenged(t, w.hostile(), hostile.Call{Method: "GET", URL: origin + "/things", Send: func(authorization, proof string) *http.Response {
			return send(h, "/things", authorization, proof)
		}})
		if reached != 1 {
			t.Errorf("%d requests got to the service, expected that of the good token", reached)
		}
	})
}

// TestTokenAsEvent: no token ends anything, and nothing but an event does.
func TestTokenAsEvent(t *testing.T) {
	w := newWorld(t)
	hostile.Never(t, w.hostile(), w.gate().Event)
}

// TestTokenOfAnotherBoot: with the first token after a reboot those of before end,
// also for what is forwarded under them; a reboot that the gate has not seen yet is
// none of its business.
func TestTokenOfAnotherBoot(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	of := func(boot uint32, seq uint64) string {
		return w.token(func(c *token.Claims) { c.BootCount, c.Writ.Seq = boot, seq })
	}
	old := of(7, 5)
	w.expect(g, old, w.proof(w.agent, old, "GET", origin+"/things"), 204, "before the reboot")
	p, no := g.admit(old, g.now())
	if no != nil {
		t.Fatal(no)
	}
	lease, err := g.leased(p)
	if err != nil {
		t.Fatal(err)
	}
	next := of(8, 6)
	w.expect(g, next, w.proof(w.agent, next, "GET", origin+"/things"), 204, "after the reboot")
	w.expect(g, old, w.proof(w.agent, old, "GET", origin+"/things"), 401, "of before the reboot, seen")
	unseen := of(7, 4)
	w.expect(g, unseen, w.proof(w.agent, unseen, "GET", origin+"/things"), 401, "of before the reboot, unseen")
	if lease.Valid() {
		t.Error("what was forwarded under the old token goes on")
	}
}
