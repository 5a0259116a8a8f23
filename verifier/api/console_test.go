package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/fleet"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// opened opens pages, and evidence on them.
func opened(evidence bool, pages ...string) option {
	return option{server: func(c *Config) { c.Pages, c.PublicEvidence = pages, evidence }}
}

// browser is a person's browser: what it sends of its own accord, and its cookies.
type browser struct {
	d      *domain
	c      *http.Client
	cookie string
	csrf   string
}

func (d *domain) browser() *browser { return &browser{d: d, c: d.http()} }

// send sends what a page of this verifier would.
func (b *browser) send(method, path string, body any, change ...func(*http.Request)) reply {
	b.d.t.Helper()
	var raw []byte
	media := ""
	if body != nil {
		raw, media = mustJSON(b.d.t, body), mediaJSON
	}
	return b.d.ask(b.c, method, path, media, raw, append([]func(*http.Request){func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		if method != http.MethodGet {
			r.Header.Set("Origin", b.d.url)
		}
		if b.cookie != "" {
			r.Header.Set("Cookie", sessionCookie+"="+b.cookie)
		}
		if b.csrf != "" {
			r.Header.Set(csrfHeader, b.csrf)
		}
	}}, change...)...)
}

// signIn signs an operator in.
func (b *browser) signIn(c *client.Client) protocol.ConsoleSession {
	b.d.t.Helper()
	code, err := c.SignIn(b.d.t.Context())
	if err != nil {
		b.d.t.Fatal(err)
	}
	got := b.send(http.MethodPost, "/v1/sessions", protocol.SignInCode{Code: code.Code})
	if got.status != http.StatusOK {
		b.d.t.Fatalf("signing in: %d %s", got.status, got.body)
	}
	out := parse[protocol.ConsoleSession](b.d.t, got)
	b.csrf = out.CSRF
	set := got.header.Get("Set-Cookie")
	for _, want := range []string{sessionCookie + "=", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Strict"} {
		if !strings.Contains(set, want) {
			b.d.t.Fatalf("the cookie is %q, without %q", set, want)
		}
	}
	b.cookie, _, _ = strings.Cut(strings.TrimPrefix(set, sessionCookie+"="), ";")
	return out
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse[T any](t testing.TB, r reply) (v T) {
	t.Helper()
	if r.status != http.StatusOK || !strings.HasPrefix(r.header.Get("Content-Type"), mediaJSON) {
		t.Fatalf("%d %s: %s", r.status, r.header.Get("Content-Type"), r.body)
	}
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// until asks again until the console says what is awaited.
func (b *browser) until(what string, ok func(protocol.Console) bool) protocol.Console {
	b.d.t.Helper()
	var last protocol.Console
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = parse[protocol.Console](b.d.t, b.send(http.MethodGet, consolePath, nil)); last.Ready && ok(last) {
			return last
		}
	}
	b.d.t.Fatalf("waiting for %s; the console says %+v", what, last)
	return last
}

func tally(all []protocol.Tally, name string) int {
	i := slices.IndexFunc(all, func(t protocol.Tally) bool { return t.Name == name })
	return all[i].Count
}

// TestConsoleIsClosedByDefault: without the page, none of what it asks for is there,
// neither for anybody nor for operators.
func TestConsoleIsClosedByDefault(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]option{"no page": nil, "another page": {opened(true, "proof")}} {
		d := newDomain(t, opts...)
		n, _, _ := d.working()
		subject := d.svc.Subject(n.id)
		for _, path := range []string{"", "/nodes", "/nodes/" + subject, "/nodes/" + subject + "/boot", "/events"} {
			if got := d.ask(d.http(), http.MethodGet, consolePath+path, "", nil); got.status != http.StatusNotFound {
				t.Errorf("%s: %s answered %d %s", name, path, got.status, got.body)
			}
		}
		_, err := d.first.SignIn(t.Context())
		refused(t, err, protocol.NotFound)
	}
}

// TestConsoleShowsNobodyWhatIsForOperators: ids, findings and boots are not public
// because the page is.
func TestConsoleShowsNobodyWhatIsForOperators(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(false, "console"))
	n, c, _ := d.working()
	denied(t, d, n, c)
	b := d.browser()
	o := b.until("the denial", func(o protocol.Console) bool { return len(o.Findings) == 1 })
	if o.Evidence || o.Findings[0].Findings != nil || o.Session != nil {
		t.Errorf("anybody is shown %+v", o)
	}
	subject := d.svc.Subject(n.id)
	for _, path := range []string{consolePath, consolePath + "/nodes", consolePath + "/nodes/" + subject} {
		if got := b.send(http.MethodGet, path, nil); got.status != http.StatusOK || bytes.Contains(got.body, []byte(n.id)) || bytes.Contains(got.body, []byte(`"findings":[{"code`)) || bytes.Contains(got.body, []byte("csrf")) {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	if got := b.send(http.MethodGet, consolePath+"/nodes/"+subject+"/boot", nil); got.status != http.StatusForbidden {
		t.Errorf("the boot: %d %s", got.status, got.body)
	}
	for _, q := range []string{n.id[:8], "ima/", "pcr"} { // no part of what is not shown is found
		if got := parse[protocol.ConsoleNodes](t, b.send(http.MethodGet, consolePath+"/nodes?q="+q, nil)); got.Total != 0 && !strings.Contains(subject, q) {
			t.Errorf("searching for %q finds %+v", q, got)
		}
	}
	if got := parse[protocol.ConsoleNodes](t, b.send(http.MethodGet, consolePath+"/nodes?q="+n.id, nil)); got.Total != 1 || got.Nodes[0].Subject != subject {
		t.Errorf("who knows the id finds %+v", got)
	}
	b.signIn(d.first)
	if got := parse[protocol.ConsoleNodes](t, b.send(http.MethodGet, consolePath+"/nodes?q="+n.id[:8], nil)); got.Total != 1 || got.Nodes[0].ID != n.id || len(got.Nodes[0].Findings) < 10 {
		t.Errorf("an operator finds %+v", got)
	}
	boot := parse[protocol.ConsoleBoot](t, b.send(http.MethodGet, consolePath+"/nodes/"+subject+"/boot", nil))
	if boot.Decision != "deny" || len(boot.Components) < 20 || len(boot.Steps) < 10 {
		t.Errorf("an operator is shown %d components and %d steps, %s", len(boot.Components), len(boot.Steps), boot.Decision)
	}
}

// denied makes the node's next boot one that is denied.
func denied(t *testing.T, d *domain, n *node, c *client.Client) {
	t.Helper()
	n.resets++
	n.log = read(t, "d-uki-sb/eventlog.bin")
	n.boot()
	_, err := n.attest(c)
	refused(t, err, protocol.PolicyDenied)
}

// TestConsoleFollowsTheDomain: what happens is seen, each figure with its entry.
func TestConsoleFollowsTheDomain(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	b := d.browser()
	if o := b.until("an empty domain", func(protocol.Console) bool { return true }); o.Nodes != 0 || o.Tokens != 0 || len(o.States) != 7 {
		t.Errorf("empty: %+v", o)
	}
	n, c, _ := d.working()
	o := b.until("a legitimate node", func(o protocol.Console) bool { return tally(o.States, verifier.Synchronized) == 1 && o.Tokens == 1 })
	if k := o.Coverage; len(k) != 1 || k[0].Class != "grub" || k[0].Current != 1 || k[0].Legitimate != 1 || k[0].Reference == nil || k[0].Reference.Generation != 1 {
		t.Errorf("coverage %+v", k)
	}
	entry := func(index uint64) ledger.Leaf {
		raw, err := d.svc.Log().Entry(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.ParseLeaf(raw)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if got := entry(o.Coverage[0].Reference.Entry).Kind; got != "reference.activated" {
		t.Errorf("the reference's entry is %s", got)
	}
	if len(o.Peers) != 1 || !o.Peers[0].Self || o.Peers[0].Entry == nil || entry(*o.Peers[0].Entry).Kind != "verifier.started" {
		t.Errorf("peers %+v", o.Peers)
	}
	if o.Signed.Size == 0 || o.Signed.Signatures != 1 || len(o.Keys) != 1 || o.Policy.Rules == 0 {
		t.Errorf("checkpoint %+v, keys %+v, policy %+v", o.Signed, o.Keys, o.Policy)
	}
	denied(t, d, n, c)
	o = b.until("the denial", func(o protocol.Console) bool { return tally(o.States, verifier.FailClosed) == 1 })
	if len(o.Findings) != 1 || o.Tokens != 0 || entry(o.Findings[0].Index).Kind != "appraisal.decided" || !bytes.Contains(o.Findings[0].Findings, []byte(`"event":`)) {
		t.Errorf("findings %+v, %d tokens", o.Findings, o.Tokens)
	}
	subject := d.svc.Subject(n.id)
	detail := parse[protocol.ConsoleDetail](t, b.send(http.MethodGet, consolePath+"/nodes/"+subject, nil))
	if len(detail.Chain) != 2 || detail.Chain[0].Decision != "deny" || detail.Chain[1].Seq != 1 || !detail.Chain[1].Ended || entry(detail.Chain[1].Index).Kind != "legitimacy.issued" {
		t.Errorf("chain %+v", detail.Chain)
	}
	boot := parse[protocol.ConsoleBoot](t, b.send(http.MethodGet, fmt.Sprintf("%s/nodes/%s/boot?index=%d", consolePath, subject, detail.Chain[0].Index), nil))
	if boot.Before == nil || boot.Before.Index != detail.Chain[1].Index || len(boot.Before.Boot) == 0 {
		t.Errorf("the boot before is %+v (%s)", boot.Before, boot.Missing)
	}
	count := map[string]int{}
	for _, x := range boot.Components {
		count[x.Judgement]++
	}
	if count["allowed"] == 0 || count["unknown"] == 0 {
		t.Errorf("components are %v", count)
	}
	first := parse[protocol.ConsoleBoot](t, b.send(http.MethodGet, fmt.Sprintf("%s/nodes/%s/boot?index=%d", consolePath, subject, detail.Chain[1].Index), nil))
	if first.Before != nil || first.Missing == "" || first.Decision != "grant" {
		t.Errorf("the first boot has %+v before it", first.Before)
	}
	for _, x := range first.Components {
		if x.Judgement != "allowed" && x.Judgement != "unjudged" || x.Why == "" {
			t.Errorf("of a granted boot: %+v", x)
		}
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	o = b.until("the suspension", func(o protocol.Console) bool { return tally(o.Statuses, verifier.Suspended) == 1 })
	if o.Acts[0].Kind != "legitimacy.revoked" || entry(o.Acts[0].Index).Subject != subject {
		t.Errorf("acts %+v", o.Acts)
	}
}

// TestConsoleAfterARestart: what was there before this process is counted too.
func TestConsoleAfterARestart(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, _ := d.working()
	f := fleet.New(fleet.Config{Service: d.svc, Slog: d.srv.cfg.Log, Now: d.srv.cfg.Now})
	go f.Run(t.Context())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if o := f.Overview(); o.Ready && o.Tokens == 1 && o.States[verifier.Synchronized] == 1 && len(o.Coverage) == 1 && o.Coverage[0].Current == 1 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%+v", o)
		}
	}
	denied(t, d, n, c)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if o := f.Overview(); len(o.Denials) == 1 && len(o.Denials[0].Findings) > 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%+v", o)
		}
	}
}

// TestConsolePages: every node is on one page, and on one alone.
func TestConsolePages(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(false, "console"))
	populate(t, d.svc, 130)
	restarted := fleet.New(fleet.Config{Service: d.svc, Slog: d.srv.cfg.Log, Now: d.srv.cfg.Now})
	go restarted.Run(t.Context())
	waitFor(t, "130 nodes", func() bool { return restarted.Ready() && restarted.Overview().Nodes == 130 })
	d.srv.fleet = restarted
	b := d.browser()
	seen := map[string]bool{}
	pages := 0
	for after := ""; ; pages++ {
		p := parse[protocol.ConsoleNodes](t, b.send(http.MethodGet, consolePath+"/nodes?limit=50&after="+after, nil))
		if p.Total != 130 || len(p.Nodes) > 50 {
			t.Fatalf("page %d: %d of %d", pages, len(p.Nodes), p.Total)
		}
		for _, n := range p.Nodes {
			if seen[n.Subject] {
				t.Errorf("%s is on two pages", n.Subject)
			}
			seen[n.Subject] = true
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if len(seen) != 130 || pages != 2 {
		t.Errorf("%d nodes on %d pages", len(seen), pages+1)
	}
	count := func(query string) int {
		return parse[protocol.ConsoleNodes](t, b.send(http.MethodGet, consolePath+"/nodes?"+query, nil)).Total
	}
	for query, want := range map[string]int{"status=suspended": 13, "state=fail-closed-restricted&status=suspended": 13, "class=web": 65, "class=web&q=we": 65, "q=%00": 0, "state=nothing": 0, "judged=never": 130} {
		if got := count(query); got != want {
			t.Errorf("%s: %d nodes, want %d", query, got, want)
		}
	}
	if got := b.send(http.MethodGet, consolePath+"/nodes?limit=-1", nil); got.status != http.StatusBadRequest {
		t.Errorf("limit=-1: %d", got.status)
	}
	if got := b.send(http.MethodGet, consolePath+"/nodes?x=1", nil); got.status != http.StatusBadRequest {
		t.Errorf("an unknown parameter: %d", got.status)
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

// populate writes rows of nodes that nobody has enrolled.
func populate(t testing.TB, svc *verifier.Service, n int) {
	t.Helper()
	now := time.Now().Unix()
	for at := 0; at < n; {
		var puts []ledger.Put
		for ; at < n && len(puts) < 1000; at++ {
			row := verifier.Node{ID: fmt.Sprintf("%032x", at), Class: []string{"web", "db"}[at%2], Status: verifier.Active, State: verifier.Synchronized, Deadline: now + 3600, Seq: 1, Enrolled: now}
			if at%10 == 0 {
				row.Status = verifier.Suspended
			}
			puts = append(puts, ledger.Put{Key: ledger.Key{Kind: "node", ID: row.ID}, Value: mustJSON(t, row)})
		}
		if _, err := svc.Log().Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{Puts: puts}, nil }}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNodeStringsStayText: what a node puts into its log reaches the page as a JSON
// string, whatever it is.
func TestNodeStringsStayText(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	n, c, _ := d.working()
	n.resets++
	n.log = bytes.Replace(n.log, []byte("grub_cmd"), []byte("<script>"), 1)
	n.boot()
	n.mustGrant(c) // the label of an event is in no digest: it may say anything
	b := d.browser()
	b.until("the node", func(o protocol.Console) bool { return o.Nodes == 1 })
	got := b.send(http.MethodGet, consolePath+"/nodes/"+d.svc.Subject(n.id)+"/boot", nil)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != mediaJSON || got.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Fatalf("%d %v", got.status, got.header)
	}
	if bytes.Contains(got.body, []byte("<script")) || !json.Valid(got.body) {
		t.Error("a node's markup is in the answer as it was sent")
	}
	if !bytes.Contains(got.body, []byte(`\u003cscript`)) {
		t.Error("the event is not shown")
	}
}

// TestConsoleEvents: a page hears that something is new, and streams are bounded.
func TestConsoleEvents(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	next := d.follow(consolePath + "/events")
	next() // the first one says that the page is connected
	d.working()
	next()
}

func (d *domain) follow(path string) (next func() string) {
	d.t.Helper()
	c := d.http()
	c.Timeout = 0
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.url+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { resp.Body.Close() })
	lines := make(chan string)
	go func() {
		defer close(lines)
		var buf bytes.Buffer
		b := make([]byte, 4096)
		for {
			n, err := resp.Body.Read(b)
			buf.Write(b[:n])
			for {
				i := bytes.Index(buf.Bytes(), []byte("\n\n"))
				if i < 0 {
					break
				}
				if msg := string(buf.Next(i + 2)); strings.HasPrefix(msg, "event: ") {
					select {
					case lines <- msg:
					case <-d.t.Context().Done():
						return
					}
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return func() string {
		d.t.Helper()
		select {
		case l, ok := <-lines:
			if !ok {
				d.t.Fatal("the stream ended")
			}
			return l
		case <-time.After(30 * time.Second):
			d.t.Fatal("nothing was heard")
		}
		return ""
	}
}

// TestRolesHoldInABrowser: a session may what its operator may, and no more.
func TestRolesHoldInABrowser(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	n, _, _ := d.working()
	change := protocol.StatusChange{Status: "suspended", Reason: "x"}
	viewer := d.browser()
	viewer.signIn(d.as(keys.Operator{Name: "v", Roles: []keys.Role{keys.Viewer}}))
	if got := viewer.send(http.MethodPost, "/v1/nodes/"+n.id+"/status", change); got.status != http.StatusForbidden || got.code(t) != codeRole {
		t.Errorf("a viewer: %d %s", got.status, got.body)
	}
	actor := d.browser()
	session := actor.signIn(d.as(keys.Operator{Name: "a", Roles: []keys.Role{keys.Actor}}))
	if session.Operator != "a" || !slices.Equal(session.Roles, []string{"operator"}) {
		t.Errorf("session %+v", session)
	}
	if got := actor.send(http.MethodPost, "/v1/freeze", protocol.GovernanceChange{Reason: "x"}); got.status != http.StatusForbidden {
		t.Errorf("an actor lifts a freeze: %d %s", got.status, got.body)
	}
	if got := actor.send(http.MethodPost, "/v1/nodes/"+n.id+"/status", change); got.status != http.StatusOK {
		t.Fatalf("an actor: %d %s", got.status, got.body)
	}
	for _, path := range []string{"/v1/nodes", "/v1/join-tokens", "/v1/audit", "/v1/references", "/v1/nodes/" + n.id + "/bundle"} { // a session is no certificate
		if got := actor.send(http.MethodGet, path, nil); got.status != http.StatusUnauthorized || got.code(t) != codeUnauthenticated {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	if got := actor.send(http.MethodPost, "/v1/sign-in-codes", protocol.SignInRequest{}); got.status != http.StatusUnauthorized {
		t.Errorf("a session makes sessions: %d", got.status)
	}
	_, err := d.as(keys.Operator{Name: "g", Roles: []keys.Role{keys.RelyingParty}}).SignIn(t.Context())
	refused(t, err, codeRole)
}

// TestTwoOperatorsInBrowsers: what takes two operators takes two in browsers, too,
// however often one of them signs in.
func TestTwoOperatorsInBrowsers(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"), option{service: func(c *verifier.Config) { c.Approvals = 2 }})
	signed := func(name string) *browser {
		b := d.browser()
		b.signIn(d.as(keys.Operator{Name: name, Roles: []keys.Role{keys.Actor, keys.Approver}}))
		return b
	}
	a, again, b := signed("a"), signed("a"), signed("b")
	lift := protocol.GovernanceChange{Reason: "x"}
	if g := parse[protocol.Governance](t, a.send(http.MethodPost, "/v1/freeze", protocol.GovernanceChange{Frozen: true, Reason: "x"})); !g.Frozen {
		t.Fatal(g)
	}
	for _, same := range []*browser{a, again} {
		if g := parse[protocol.Governance](t, same.send(http.MethodPost, "/v1/freeze", lift)); !g.Frozen || g.Approvals != 1 {
			t.Errorf("one operator lifts it alone: %+v", g)
		}
	}
	if g := parse[protocol.Governance](t, b.send(http.MethodPost, "/v1/freeze", lift)); g.Frozen {
		t.Errorf("two operators: %+v", g)
	}
}

// TestBootsOfANode: its row names the last few boots, each with the decisions on it.
func TestBootsOfANode(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, _ := d.working()
	for range 5 {
		n.resets++
		n.mustGrant(c)
		n.mustGrant(c)
	}
	row, err := d.svc.Node(t.Context(), n.id)
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Boots) != 4 || row.Boots[3].ResetCount != n.resets || row.Boots[3].Last != 0 || row.Boots[3].First+1 != row.Last.Index {
		t.Fatalf("%+v", row.Boots)
	}
	for i, b := range row.Boots[:3] {
		if b.Last != b.First+1 || row.Boots[i+1].First != b.Last+1 || row.Boots[i+1].ResetCount != b.ResetCount+1 {
			t.Errorf("boot %d is %+v, followed by %+v", i, b, row.Boots[i+1])
		}
	}
}

// BenchmarkConsole is what a reader's first look at a large domain takes: the page and
// the data that it first asks for, over HTTPS. first-ms is the very first one.
func BenchmarkConsole(b *testing.B) {
	b.Run("100k", func(b *testing.B) {
		d := newDomain(b, opened(false, "console"))
		populate(b, d.svc, 100_000)
		f := fleet.New(fleet.Config{Service: d.svc, Slog: d.srv.cfg.Log, Now: d.srv.cfg.Now})
		began := time.Now()
		go f.Run(b.Context())
		waitFor(b, "the nodes", f.Ready)
		read := time.Since(began)
		d.srv.fleet = f
		c := d.http()
		d.ask(c, http.MethodGet, "/v1/domain", "", nil) // the handshake
		look := func(query string) time.Duration {
			began := time.Now()
			for _, path := range []string{"/console", consolePath, consolePath + "/nodes?limit=50" + query} {
				if got := d.ask(c, http.MethodGet, path, "", nil); got.status != http.StatusOK {
					b.Fatalf("%s: %d %s", path, got.status, got.body)
				}
			}
			return time.Since(began)
		}
		first := look("")
		var all time.Duration
		for i := 0; b.Loop(); i++ {
			d.srv.queue = newQueue() // the limit is not what is measured
			all += look(fmt.Sprintf("&q=%03x", i%4096))
		}
		b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
		b.ReportMetric(float64(all.Microseconds())/1000/float64(b.N), "look-ms")
		b.ReportMetric(read.Seconds(), "start-s")
	})
}
