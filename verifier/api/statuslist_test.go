package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestStatusListEndsAToken: what any relying party does that knows the standard: find
// the list in the token, fetch it, check it, look the token up.
func TestStatusListEndsAToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, base := d.working()
	c := d.http()
	place := d.claims(base).Listed.List
	path, ok := strings.CutPrefix(place.URI, d.svc.Issuer())
	if !ok {
		t.Fatalf("place %+v", place)
	}
	status := func() token.Status {
		got := d.ask(c, http.MethodGet, path, "", nil, func(r *http.Request) { r.Header.Set("Accept", mediaStatusList) })
		if got.status != http.StatusOK || got.header.Get("Content-Type") != mediaStatusList || got.header.Get("Cache-Control") != "public, max-age=10" || len(got.body) > 4096 {
			t.Fatalf("%d %v, %d bytes", got.status, got.header, len(got.body))
		}
		l, err := token.ParseStatusList(string(got.body), d.svc.TokenKeys(), place.URI, time.Now().Add(time.Duration(d.ahead.Load())))
		if err != nil {
			t.Fatal(err)
		}
		return l.Status(place.Index)
	}
	if s := status(); s != token.Valid {
		t.Errorf("a good token has status %d", s)
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "revoked", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	d.ahead.Add(int64(time.Second)) // a list is handed out again for that long
	if s := status(); s != token.Invalid {
		t.Errorf("a revoked token has status %d", s)
	}
	var all protocol.StatusLists
	if err := json.Unmarshal(d.ask(c, http.MethodGet, "/v1/status-lists", "", nil).body, &all); err != nil || len(all.StatusLists) != 1 || all.StatusLists[0] != place.URI {
		t.Errorf("%+v %v", all, err)
	}
	for _, bad := range []string{"/v1/status-lists/2", "/v1/status-lists/00", "/v1/status-lists/-1", "/v1/status-lists/99999999999999999999"} {
		if got := d.ask(c, http.MethodGet, bad, "", nil); got.status != http.StatusNotFound && got.status != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, got.status)
		}
	}
}
