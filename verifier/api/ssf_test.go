package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/ssf"
	"github.com/writ-attestation/writ/verifier/token"
)

const soc = "https://soc.example.org"

// notice is a SET as a receiver reads it.
type notice struct {
	ID      string `json:"jti"`
	Subject struct {
		Format string `json:"format"`
		URI    string `json:"uri"`
		ID     string `json:"id"`
	} `json:"sub_id"`
	Events map[string]map[string]any `json:"events"`
}

func (n *notice) kind() string {
	for k := range n.Events {
		return k
	}
	return ""
}

// opened checks a SET as RFC 8417 and SSF 1.0 have it.
func (d *domain) opened(set string) *notice {
	d.t.Helper()
	tok, err := jwt.ParseSigned(set, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		d.t.Fatal(err)
	}
	key := d.svc.TokenKeys().Key(tok.Headers[0].KeyID)
	var claims jwt.Claims
	var n notice
	all := map[string]any{}
	if err := tok.Claims(key, &claims, &n, &all); err != nil {
		d.t.Fatal(err)
	}
	if tok.Headers[0].ExtraHeaders["typ"] != "secevent+jwt" || claims.Issuer != d.svc.Issuer() || !claims.Audience.Contains(soc) || claims.IssuedAt == nil || all["exp"] != nil || all["sub"] != nil || len(n.Events) != 1 {
		d.t.Fatalf("%v %v", tok.Headers[0].ExtraHeaders, all)
	}
	return &n
}

// receiver takes what is pushed.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	sets   []string
	answer func(n int) (status int, body string) // to the n-th delivery
	asked  int
}

func newReceiver(t *testing.T) *receiver {
	r := new(receiver)
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		status, body := http.StatusAccepted, ""
		if r.answer != nil {
			status, body = r.answer(r.asked)
		}
		r.asked++
		if req.Header.Get("Authorization") != "Bearer it is us" || req.Header.Get("Content-Type") != "application/secevent+jwt" || req.Header.Get("Accept") != "application/json" {
			status = http.StatusUnauthorized
		}
		if status == http.StatusAccepted {
			r.sets = append(r.sets, string(b))
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(r.Close)
	return r
}

// got waits for n deliveries.
func (r *receiver) got(t *testing.T, n int) []string {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		r.mu.Lock()
		sets := slices.Clone(r.sets)
		r.mu.Unlock()
		if len(sets) >= n {
			return sets
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d notices arrived within a minute", len(sets), n)
		}
	}
}

func (r *receiver) stream() option {
	return option{server: func(c *Config) {
		c.Streams = append(c.Streams, ssf.Stream{ID: "soc", Audience: soc, Push: r.URL + "/events", Header: "Bearer it is us", Client: ssf.Receiver(r.Client().Transport.(*http.Transport))})
	}}
}

// begun makes a stream begin here.
func (d *domain) begun() {
	d.t.Helper()
	if _, err := d.svc.Stream(d.t.Context(), "soc"); err != nil {
		d.t.Fatal(err)
	}
}

// TestSignalsPushed: a receiver that is away, and then chokes on one notice, gets all
// others, in order, each saying who did what to whom; what it is asked to confirm too.
func TestSignalsPushed(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.answer = func(n int) (int, string) {
		switch n {
		case 0, 1:
			return http.StatusServiceUnavailable, "later"
		case 3: // the session-revoked of the denial that follows
			return http.StatusBadRequest, `{"err":"invalid_request","description":"too much"}`
		}
		return http.StatusAccepted, ""
	}
	d := newDomain(t, r.stream())
	d.begun()
	n, _, _ := d.working()
	first := d.opened(r.got(t, 1)[0])
	if e := first.Events[token.ComplianceChange]; e["current_status"] != "compliant" || e["previous_status"] != "not-compliant" || e["initiating_entity"] != "policy" || first.Subject.URI != d.svc.NodeSubject(n.id) || first.Subject.Format != "uri" {
		t.Errorf("%+v", first)
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	second := d.opened(r.got(t, 2)[1])
	if e := second.Events[token.ComplianceChange]; e["current_status"] != "not-compliant" || e["initiating_entity"] != "admin" || e["event_timestamp"] == nil || e["reason_admin"].(map[string]any)["en"] != "stolen" {
		t.Errorf("after the one that was refused for ever: %+v", second)
	}
	c := d.http(d.identity(keys.Operator{Name: "soc", Roles: []keys.Role{keys.RelyingParty}}).Certificate)
	if got := d.ask(c, http.MethodPost, "/ssf/verify", mediaJSON, []byte(`{"stream_id":"soc","state":"are you there"}`)); got.status != http.StatusNoContent {
		t.Fatalf("%d %s", got.status, got.body)
	}
	third := d.opened(r.got(t, 3)[2])
	if third.Events[token.Verification]["state"] != "are you there" || third.Subject.Format != "opaque" || third.Subject.ID != "soc" {
		t.Errorf("%+v", third)
	}
	if _, err := d.first.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "ice"}); err != nil {
		t.Fatal(err)
	}
	fourth := d.opened(r.got(t, 4)[3])
	if e := fourth.Events[token.SessionRevoked]; e == nil || fourth.Subject.URI != "spiffe://"+domainName || e["writ"].(map[string]any)["cause"] != "frozen" {
		t.Errorf("%+v", fourth)
	}
}

func (d *domain) poll(c *client.Client, req protocol.PollRequest) map[string]*notice {
	d.t.Helper()
	out, err := c.Poll(d.t.Context(), "soc", req)
	if err != nil {
		d.t.Fatal(err)
	}
	got := map[string]*notice{}
	for id, set := range out.Sets {
		if got[id] = d.opened(set); got[id].ID != id {
			d.t.Errorf("%s under the name %s", got[id].ID, id)
		}
	}
	return got
}

// TestSignalsPolled: what a receiver did not acknowledge comes again under the same
// id, what it did never; others have no part in its stream.
func TestSignalsPolled(t *testing.T) {
	t.Parallel()
	d := newDomain(t, option{server: func(c *Config) { c.Streams = []ssf.Stream{{ID: "soc", Audience: soc}} }})
	n, agent, _ := d.working()
	d.begun()
	c := d.as(keys.Operator{Name: "soc", Roles: []keys.Role{keys.RelyingParty}})
	now := protocol.PollRequest{Immediately: true}
	if got := d.poll(c, now); len(got) != 0 {
		t.Fatalf("%+v of before the stream", got)
	}
	woken := make(chan *protocol.Polled, 1)
	go func() {
		out, _ := c.Poll(t.Context(), "soc", protocol.PollRequest{})
		woken <- out
	}()
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if out := <-woken; out == nil || len(out.Sets) == 0 {
		t.Errorf("who waited got %+v", out)
	}
	first := d.poll(c, now)
	if again := d.poll(c, now); len(again) != 2 || fmt.Sprint(ids(again)) != fmt.Sprint(ids(first)) {
		t.Fatalf("%v, then %v", ids(first), ids(again))
	}
	one := 1
	if got, err := c.Poll(t.Context(), "soc", protocol.PollRequest{Most: &one, Immediately: true}); err != nil || len(got.Sets) != 1 || !got.More {
		t.Errorf("%+v %v", got, err)
	}
	rest := d.poll(c, protocol.PollRequest{Immediately: true, Ack: ids(first)[:1]})
	if fmt.Sprint(ids(rest)) != fmt.Sprint(ids(first)[1:]) {
		t.Errorf("after one was acknowledged: %v of %v", ids(rest), ids(first))
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "active", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	n.mustGrant(agent)
	later := d.poll(c, protocol.PollRequest{Immediately: true, Errors: map[string]protocol.PollError{ids(rest)[0]: {Code: "invalid_request"}}})
	if len(later) != 1 || later[ids(later)[0]].Events[token.ComplianceChange]["current_status"] != "compliant" {
		t.Errorf("%+v", later)
	}
	zero := 0
	if got := d.poll(c, protocol.PollRequest{Most: &zero, Ack: ids(later)}); len(got) != 0 {
		t.Errorf("%+v though none was wanted", got)
	}
	if got := d.poll(c, now); len(got) != 0 {
		t.Errorf("%+v was acknowledged", got)
	}
	other := d.as(keys.Operator{Name: "other", Roles: []keys.Role{keys.RelyingParty}})
	if _, err := other.Poll(t.Context(), "soc", now); err == nil || !strings.Contains(err.Error(), protocol.NotFound) {
		t.Errorf("another receiver: %v", err)
	}
}

func ids(sets map[string]*notice) []string {
	out := []string{}
	for id := range sets {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// TestSignalsDiscovered: metadata and stream as SSF 1.0 has them; without streams there
// is no transmitter.
func TestSignalsDiscovered(t *testing.T) {
	t.Parallel()
	d := newDomain(t, option{server: func(c *Config) { c.Streams = []ssf.Stream{{ID: "soc", Audience: soc}} }})
	var meta map[string]any
	if err := json.Unmarshal(d.ask(d.http(), http.MethodGet, "/.well-known/ssf-configuration", "", nil).body, &meta); err != nil || meta["issuer"] != d.svc.Issuer() || meta["spec_version"] != "1_0" || meta["jwks_uri"] == nil {
		t.Errorf("%v %v", meta, err)
	}
	c := d.http(d.identity(keys.Operator{Name: "soc", Roles: []keys.Role{keys.RelyingParty}}).Certificate)
	var stream struct {
		ID       string `json:"stream_id"`
		Iss, Aud string
		Delivery struct{ Method, Endpoint_url string }
	}
	if err := json.Unmarshal(d.ask(c, http.MethodGet, "/ssf/streams?stream_id=soc", "", nil).body, &stream); err != nil || stream.ID != "soc" || stream.Aud != soc || stream.Delivery.Method != ssf.PollMethod || stream.Delivery.Endpoint_url != d.svc.Issuer()+"/ssf/poll/soc" {
		t.Errorf("%+v %v", stream, err)
	}
	if got := d.ask(c, http.MethodGet, "/ssf/status?stream_id=soc", "", nil); got.status != 200 || !strings.Contains(string(got.body), `"enabled"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := d.ask(d.http(), http.MethodGet, "/ssf/streams", "", nil); got.status != http.StatusUnauthorized {
		t.Errorf("a stranger: %d", got.status)
	}
	none := newDomain(t)
	if got := none.ask(none.http(), http.MethodGet, "/.well-known/ssf-configuration", "", nil); got.status != http.StatusNotFound {
		t.Errorf("without streams: %d", got.status)
	}
}
