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
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
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

// lasting lets tokens live for as long as a slow machine takes for the table.
var lasting = option{service: func(c *verifier.Config) { c.TokenLife = token.MaxLife }}

// seasoned is a node with a token of a domain that has been frozen once, so that
// there are an epoch and a boot before its own.
func (d *domain) seasoned() (n *node, base string) {
	d.t.Helper()
	n, c, _ := d.working()
	for _, frozen := range []bool{true, false} {
		if _, err := d.first.Freeze(d.t.Context(), protocol.GovernanceChange{Frozen: frozen, Reason: "x"}); err != nil {
			d.t.Fatal(err)
		}
	}
	return n, n.mustGrant(c)
}

func (d *domain) hostile(n *node, base string) *hostile.World {
	return &hostile.World{Issuer: tokenKey(d), Holder: n.key, Claims: *d.claims(base), At: time.Now()}
}

// TestHostileTokens: every path that takes a node's token refuses every bad token
// and proof. Each comes from another address, or most would only be held back as
// too many.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	d := newDomain(t, exchanges, lasting, svids)
	n, _ := d.seasoned()
	stop, err := json.Marshal(stopOf("job"))
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string][]byte{"/v1/tokens": n.request("job").Marshal(), "/v1/stops": stop, "/oauth2/revoke": []byte("token=unknown"), "/v1/svids": svidRequest(t, "")}
	local, tried := d.address(), 0
	for _, r := range d.srv.publicRoutes() {
		if r.auth != nodeKey && r.auth != endedKey && r.auth != holder {
			continue
		}
		path := strings.Replace(r.path, ":id", n.id, 1)
		t.Run(r.name, func(t *testing.T) {
			base := n.mustGrant(d.anybody())
			bodies["/oauth2/token"] = exchangeForm(base, cloud)
			w := d.hostile(n, base)
			w.Timeless = r.auth != nodeKey // to a holder of an ended token these say that it was ended
			hostile.Challenged(t, w, hostile.Call{Method: r.method, URL: d.url + path, Body: bodies[path], OAuth: strings.HasPrefix(path, oauthPath), Send: func(authorization, proof string) *http.Response {
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
	if tried < 6*hostile.Mutations {
		t.Errorf("%d requests", tried)
	}
}
