package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/fleet"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Pages of the console's lists, and what a look costs its reader in public reads.
const (
	consolePage   = 50
	consoleAtMost = 200
	chainPage     = 40
	searchCost    = 20
	bootCost      = 50
	bootsAtOnce   = 2
	watchersAll   = 512
	watchersEach  = 16
	watchCalm     = time.Second
)

const consolePath = "/v1/public/console"

// consoleRoutes are what the page /console asks for. They are public where the page is
// open; a session of an operator adds what is for operators.
func (s *Server) consoleRoutes() []route {
	const get = http.MethodGet
	routes := []route{
		{path: consolePath, name: "console", about: "The domain at a glance.", gives: protocol.Console{}, handle: s.console},
		{path: consolePath + "/nodes", query: "q state status class judged after limit", name: "consoleNodes", about: "Search the nodes.", gives: protocol.ConsoleNodes{}, handle: s.consoleNodes, cost: searchCost},
		{path: consolePath + "/nodes/:id", query: "before", name: "consoleNode", about: "A node, by its pseudonym in the log, and the decisions on it.", gives: protocol.ConsoleDetail{}, handle: s.consoleNode, cost: searchCost},
		{path: consolePath + "/nodes/:id/boot", query: "index", name: "consoleBoot", about: "What a decision saw of a node's boot, where evidence is public.", gives: protocol.ConsoleBoot{}, handle: s.consoleBoot, cost: bootCost},
		{path: consolePath + "/events", name: "consoleEvents", about: "Be told when the console has something new.", stream: true, out: mediaEvents, handle: s.consoleEvents},
	}
	for i := range routes {
		r := &routes[i]
		r.method, r.auth, r.browser = get, public, true
		if r.out == "" {
			r.out = mediaJSON
		}
	}
	routes = append(routes,
		route{method: http.MethodPost, path: "/v1/sign-in-codes", auth: operator, roles: anyRole, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "inviteBrowser", about: "Make a code that signs one browser in, once.", takes: protocol.SignInRequest{}, gives: protocol.SignIn{}, handle: s.invite},
		route{method: http.MethodPost, path: "/v1/sessions", auth: public, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "signIn", about: "Sign a browser in with a code.", takes: protocol.SignInCode{}, gives: protocol.ConsoleSession{}, handle: s.signIn},
		route{method: http.MethodDelete, path: "/v1/sessions", auth: operator, roles: anyRole, browser: true, leaves: true, name: "signOut", about: "End the session that asks.", handle: s.signOut})
	for i := range routes {
		routes[i].page = "console"
	}
	return routes
}

// sees reports whether what evidence says may be shown to whoever asks.
func (s *Server) sees(q *call) bool { return s.cfg.PublicEvidence || q.session != nil }

func (s *Server) console(q *call) error {
	o := s.fleet.Overview()
	epoch, frozen, act, err := s.svc.Epoch(q.Request().Context())
	if err != nil {
		return err
	}
	peers, err := s.svc.PeerDomains(q.Request().Context())
	if err != nil {
		return err
	}
	out := protocol.Console{Domain: s.svc.Domain(), Now: s.cfg.Now().Unix(), Ready: o.Ready, Size: o.Size, At: o.At, Epoch: epoch, Frozen: frozen, Act: entryOf(act, act > 0),
		Nodes: o.Nodes, Tokens: o.Tokens, Coverage: []protocol.Coverage{}, Findings: []protocol.Denial{}, Acts: []protocol.Act{}, Minutes: []protocol.Minute{}, Samples: []protocol.Sample{},
		Peers: []protocol.Peer{}, Domains: domainsOf(peers), Keys: []protocol.ConsoleKey{}, Policy: policyOf(s.svc.Policy()), Evidence: s.sees(q), Signed: checkpointOf(s.svc.Log().Checkpoint())}
	for _, name := range fleet.States {
		out.States = append(out.States, protocol.Tally{Name: name, Count: o.States[name]})
	}
	for _, name := range []string{verifier.Pending, verifier.Active, verifier.Suspended, verifier.Revoked, verifier.Retired} {
		out.Statuses = append(out.Statuses, protocol.Tally{Name: name, Count: o.Statuses[name]})
	}
	for _, c := range o.Coverage {
		out.Coverage = append(out.Coverage, protocol.Coverage{Class: c.Class, Reference: inForce(c.Reference), Nodes: c.Nodes, Current: c.Current, Earlier: c.Earlier, Never: c.Never, Legitimate: c.Let})
	}
	for _, d := range o.Denials {
		x := protocol.Denial{Index: d.Index, At: d.At, Subject: d.Subject, Class: d.Class, Tier: d.Tier, Times: d.Times}
		if out.Evidence {
			x.Findings = findingsOf(d.Findings)
		}
		out.Findings = append(out.Findings, x)
	}
	for _, a := range o.Acts {
		out.Acts = append(out.Acts, protocol.Act(a))
	}
	for _, m := range o.Minutes {
		out.Minutes = append(out.Minutes, protocol.Minute(m))
	}
	for _, x := range o.Samples {
		out.Samples = append(out.Samples, protocol.Sample(x))
	}
	for _, p := range o.Peers {
		out.Peers = append(out.Peers, protocol.Peer{LogKey: p.LogKey, Self: p.Self, First: p.First, Retired: p.Retired, Entry: entryOf(p.Entry, p.Known)})
	}
	for _, k := range s.svc.Keys() {
		out.Keys = append(out.Keys, protocol.ConsoleKey{KID: k.KID, State: k.State, From: k.From, Until: k.Until, Entry: entryOf(k.Entry, k.Entry > 0)})
	}
	if q.session != nil {
		out.Session = q.session.shown()
	}
	return q.answer(out)
}

// domainsOf is what anybody may know of the domains that are recognised: the log names
// them, too.
func domainsOf(peers []protocol.PeerDomain) []protocol.ConsoleDomain {
	out := make([]protocol.ConsoleDomain, len(peers))
	for i, p := range peers {
		out[i] = protocol.ConsoleDomain{Domain: p.Domain, State: p.State, Why: p.Why, Seen: p.Seen, MaxAge: p.MaxAge}
		if p.Checkpoint != "" {
			out[i].Size = checkpointOf([]byte(p.Checkpoint)).Size
		}
	}
	return out
}

// entryOf is an index, if there is one.
func entryOf(index uint64, ok bool) *uint64 {
	if !ok {
		return nil
	}
	return &index
}

func policyOf(p verifier.Policy) protocol.Policy {
	return protocol.Policy{Rules: p.Rules, TokenLife: int64(p.TokenLife.Seconds()), MinLevel: p.MinLevel, Approvals: p.Approvals, ReferenceThreshold: p.ReferenceThreshold,
		ReferenceKeys: p.ReferenceKeys, ProveHaltEvery: int64(p.ProveHaltEvery.Seconds()), EKVendors: p.EKVendors, EKRoots: p.EKRoots}
}

func inForce(r *verifier.Reference) *protocol.InForce {
	if r == nil {
		return nil
	}
	return &protocol.InForce{Generation: r.Generation, Digest: r.Digest, NotAfter: r.NotAfter, Base: nonNil(r.Base), Whole: r.Whole != "", Entry: r.Entry}
}

// findingsOf writes findings; none are an empty list.
func findingsOf(f []appraisal.Finding) json.RawMessage {
	b, err := json.Marshal(nonNil(f))
	if err != nil {
		panic("api: findings of plain values do not marshal: " + err.Error())
	}
	return b
}

// checkpointOf reads our own note (c2sp.org/tlog-checkpoint).
func checkpointOf(note []byte) protocol.ConsoleCheckpoint {
	text := string(note)
	lines := strings.Split(text, "\n")
	if len(lines) < 3 {
		return protocol.ConsoleCheckpoint{}
	}
	size, err := number(lines[1])
	if _, bad := base64.StdEncoding.DecodeString(lines[2]); err != nil || bad != nil {
		return protocol.ConsoleCheckpoint{}
	}
	return protocol.ConsoleCheckpoint{Size: size, Root: lines[2], Signatures: strings.Count(text, "\n\u2014 ")}
}

func (s *Server) consoleNodes(q *call) error {
	limit, err := q.param("limit", consolePage)
	if err != nil {
		return err
	}
	page := s.fleet.List(fleet.Query{Text: q.QueryParam("q"), Operator: q.session != nil, State: q.QueryParam("state"), Status: q.QueryParam("status"), Class: q.QueryParam("class"),
		Judged: q.QueryParam("judged"), After: q.QueryParam("after"), Limit: int(min(max(limit, 1), consoleAtMost))})
	out := protocol.ConsoleNodes{Nodes: make([]protocol.ConsoleNode, len(page.Nodes)), Total: page.Total, Next: page.Next}
	for i := range page.Nodes {
		out.Nodes[i] = s.listed(q, &page.Nodes[i])
	}
	return q.answer(out)
}

// listed is a node as whoever asks may see it.
func (s *Server) listed(q *call, n *fleet.Node) protocol.ConsoleNode {
	out := protocol.ConsoleNode{Subject: n.Subject, Class: n.Class, Status: n.Status, State: n.State, Deadline: n.Deadline, Seq: n.Seq, Enrolled: n.Enrolled, Entry: n.Entry, Judged: n.Judged}
	if n.Decision != "" {
		out.Decided, out.DecidedAt, out.Decision, out.Tier = &n.Decided, n.DecidedAt, n.Decision, n.Tier
		if s.sees(q) {
			out.Findings = findingsOf(n.Findings)
		}
	}
	if q.session != nil {
		out.ID, out.Device = n.ID, n.Device
	}
	return out
}

// pseudonym is the node that a path names.
func (s *Server) pseudonym(q *call) (fleet.Node, error) {
	n, ok := s.fleet.Node(q.Param("id"))
	if !ok {
		return n, protocol.Refuse(protocol.NotFound, "the log knows no node by the pseudonym %.64q", q.Param("id"))
	}
	return n, nil
}

func (s *Server) consoleNode(q *call) error {
	n, err := s.pseudonym(q)
	if err != nil {
		return err
	}
	below, err := q.param("before", s.svc.Log().Size())
	if err != nil {
		return err
	}
	ctx := q.Request().Context()
	row, err := s.svc.Node(ctx, n.ID)
	if err != nil {
		return missing(err)
	}
	links, err := s.fleet.Chain(ctx, n.ID, below, chainPage+1)
	if err != nil {
		return err
	}
	out := protocol.ConsoleDetail{Node: s.listed(q, &n), Now: s.cfg.Now().Unix(), More: len(links) > chainPage, Chain: []protocol.ConsoleLink{}}
	for i := range links[:min(len(links), chainPage)] {
		out.Chain = append(out.Chain, linkOf(&links[i], row))
	}
	if ref, ok := s.fleet.Reference(n.Class); ok {
		out.Reference = inForce(&ref)
	}
	return q.answer(out)
}

func linkOf(l *fleet.Link, row *verifier.Node) protocol.ConsoleLink {
	out := protocol.ConsoleLink{Index: l.Index, At: l.At, Kind: l.Kind, Gone: l.Gone, Decision: l.Decision.Decision, Tier: l.Decision.Tier, From: l.Decision.From, To: l.Decision.To}
	if t := l.Token; t != nil {
		out.Seq, out.Prev, out.Issued, out.Expires, out.Level, out.Exec = t.Seq, t.Prev, t.Issued, t.Expires, t.Level, t.Exec
		out.Ended = t.Seq <= row.Ended
	}
	return out
}

func (s *Server) consoleBoot(q *call) error {
	if !s.sees(q) {
		return &httpError{status: http.StatusForbidden, code: codeRole, detail: "evidence is not public here; an operator signs in to see it"}
	}
	n, err := s.pseudonym(q)
	if err != nil {
		return err
	}
	ctx := q.Request().Context()
	row, err := s.svc.Node(ctx, n.ID)
	if err != nil {
		return missing(err)
	}
	if row.Last == nil {
		return protocol.Refuse(protocol.NotFound, "there is no decision on this node yet")
	}
	index, err := q.param("index", row.Last.Index)
	if err != nil {
		return err
	}
	leave, ok := s.boots.enter(ctx)
	if !ok {
		return &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "too many boots are being looked at", retry: 2}
	}
	defer leave()
	b, err := s.fleet.Boot(ctx, row, index)
	if err != nil {
		return err
	}
	return q.answer(bootOf(b))
}

func bootOf(b *fleet.Boot) protocol.ConsoleBoot {
	v := &b.Verdict
	out := protocol.ConsoleBoot{Index: b.Index, Decision: v.Decision, Tier: v.Tier, At: v.At, Until: v.Until, Steps: []protocol.ConsoleStep{}, Components: []protocol.ConsoleComponent{},
		Findings: findingsOf(v.Findings), Entries: b.IMA.Entries, Files: b.IMA.Files, Violations: b.IMA.Violations, Missing: b.Missing}
	for _, name := range appraisal.Names() {
		value := v.Vector.Claim(name)
		out.Claims = append(out.Claims, protocol.ConsoleClaim{Name: name, Value: int(value), Tier: appraisal.TierOf(value)})
	}
	for _, x := range b.Steps {
		out.Steps = append(out.Steps, protocol.ConsoleStep(x))
	}
	for _, c := range b.Components {
		out.Components = append(out.Components, protocol.ConsoleComponent(c))
	}
	if b.Set != nil {
		out.Set, out.Generation = b.Set.Name, b.Set.Generation
	}
	if b.Before != nil {
		out.Before = &protocol.ConsoleBefore{Index: b.Before.Index, Boot: changesOf(b.Before.Boot), Files: changesOf(b.Before.Files), More: b.Before.More}
	}
	return out
}

func changesOf(all []fleet.Change) []protocol.ConsoleChange {
	out := make([]protocol.ConsoleChange, len(all))
	for i, c := range all {
		out[i] = protocol.ConsoleChange(c)
	}
	return out
}

// consoleEvents tells a page that there is something new, at most a few times a
// second; the page asks for what it shows.
func (s *Server) consoleEvents(q *call) error {
	leave, ok := s.watchers.enter(q.peer.remote)
	if !ok {
		return &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "too many pages are watching", retry: 30}
	}
	defer leave()
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	st := stream{w: q.Response(), control: http.NewResponseController(q.Response())}
	if err := st.begin(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(q.Request().Context())
	defer stop()
	news := make(chan verifier.Message)
	go s.announceFleet(ctx, news)
	s.follow(ctx, st, news, func(verifier.Message) bool { return false })
	return nil
}

// announceFleet sends a message for what changed, until ctx is done.
func (s *Server) announceFleet(ctx context.Context, news chan<- verifier.Message) {
	for {
		changed := s.fleet.Changed()
		select {
		case <-ctx.Done():
			return
		case news <- verifier.Message{Kind: "changed", Data: fmt.Sprintf(`{"size":%d}`, s.svc.Log().Size())}:
		}
		pause := time.NewTimer(watchCalm)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// watchers bounds the pages that watch.
type watchers struct {
	mu  sync.Mutex
	all int
	by  map[netip.Prefix]int
}

func (w *watchers) enter(from netip.Prefix) (leave func(), ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[netip.Prefix]int{}
	}
	if w.all >= watchersAll || w.by[from] >= watchersEach {
		return nil, false
	}
	w.all++
	w.by[from]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all--
		if w.by[from]--; w.by[from] == 0 {
			delete(w.by, from)
		}
	}, true
}
