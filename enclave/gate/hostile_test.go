package gate

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
)

// TestHostileTokens: the gate refuses every bad token and proof, in the words of
// the standards.
func TestHostileTokens(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	world := &hostile.World{Issuer: w.issuer, Holder: w.agent, Claims: w.claims(), At: time.Unix(w.now.Load(), 0), Epoch: true}
	hostile.Challenged(t, world, hostile.Mutations, hostile.Call{Method: "GET", URL: origin + "/things", Send: func(authorization, proof string) *http.Response {
		r := httptest.NewRequest("GET", "http://127.0.0.1/v1/authz", nil)
		r.Header.Set("X-Original-Method", "GET")
		r.Header.Set("X-Original-URI", "/things")
		for name, value := range map[string]string{"Authorization": authorization, "DPoP": proof} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		rec := httptest.NewRecorder()
		g.Handler().ServeHTTP(rec, r)
		return rec.Result()
	}})
}
