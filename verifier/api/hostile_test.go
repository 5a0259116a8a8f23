package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
)

// patient is a recorder that takes the deadlines of streams.
type patient struct{ *httptest.ResponseRecorder }

func (patient) SetWriteDeadline(time.Time) error { return nil }
func (patient) SetReadDeadline(time.Time) error  { return nil }

// address is where the domain listens.
func (d *domain) address() net.Addr {
	d.t.Helper()
	a, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(d.url, "https://"))
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// TestHostileTokens: every path that takes a node's token refuses every bad token
// and proof. Each comes from another address, or most would only be held back as
// too many.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	d := newDomain(t, exchanges)
	n, _, base := d.working()
	stop, err := json.Marshal(stopOf("job"))
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string][]byte{"/v1/tokens": n.request("job").Marshal(), "/v1/stops": stop, "/oauth2/revoke": []byte("token=unknown"),
		"/oauth2/token": exchangeForm(base, cloud)}
	local, tried := d.address(), 0
	for _, r := range d.srv.publicRoutes() {
		if r.auth != nodeKey && r.auth != endedKey && r.auth != holder {
			continue
		}
		path := strings.Replace(r.path, ":id", n.id, 1)
		t.Run(r.name, func(t *testing.T) {
			w := &hostile.World{Issuer: tokenKey(d), Holder: n.key, Claims: *d.claims(base), At: time.Now(), Epoch: r.auth == nodeKey && d.claims(base).Writ.Epoch > 0}
			hostile.Challenged(t, w, hostile.Mutations/4, hostile.Call{Method: r.method, URL: d.url + path, Body: bodies[path], Send: func(authorization, proof string) *http.Response {
				tried++
				ctx := context.WithValue(context.WithValue(t.Context(), http.LocalAddrContextKey, local), peerKey{}, &peer{remote: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(tried >> 16), byte(tried >> 8), byte(tried)}), 32)})
				if r.stream {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				req := httptest.NewRequestWithContext(ctx, r.method, d.url+path, bytes.NewReader(bodies[path]))
				req.TLS = nil // no client certificate
				if r.in != "" {
					req.Header.Set("Content-Type", r.in)
				}
				for name, value := range map[string]string{"Authorization": authorization, "DPoP": proof} {
					if value != "" {
						req.Header.Set(name, value)
					}
				}
				rec := httptest.NewRecorder()
				d.srv.public.Handler.ServeHTTP(patient{rec}, req)
				return rec.Result()
			}})
		})
	}
	if tried < 5000 {
		t.Errorf("%d requests", tried)
	}
}
