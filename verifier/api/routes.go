package api

import (
	"net/http"
	"slices"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// route is one line of the table: a path, who may call it, and what it takes and
// gives. The zero route admits nobody.
type route struct {
	method, path string // path as echo writes it
	auth         credential
	roles        []keys.Role // operator, holder: any of these; none contains another
	proves       bool        // its success shows that the connection is a node's
	stream       bool
	binds        bool   // its token can be bound to a client certificate that is nobody's credential
	browser      bool   // an operator's session counts, too: as a credential, or where anybody may read, for what more to show
	leaves       bool   // it only ends the session
	cost         int    // public: of one call, in reads; 0: one
	page         string // of [console.Names]: the route is there only while this page is open
	query        string // the parameters it takes, separated by spaces; "*": any
	in           string // media type of the body; "": it takes none
	max          int64  // bytes of the body
	out          string // media type of the answer
	name         string // operationId
	about        string // one sentence
	takes, gives any    // messages, for the API's description
	handle       func(*call) error
}

// Sizes of bodies (bytes).
const (
	maxMessage   = smallBody
	maxEnrol     = 256 << 10 // EK certificates and their chains
	maxReference = 32 << 20
	maxPeer      = 2 << 20 // its trust file
)

var (
	parties = []keys.Role{keys.RelyingParty, keys.Viewer}
	anyRole = []keys.Role{keys.Viewer, keys.Auditor, keys.Actor, keys.Approver}
	seers   = []keys.Role{keys.Auditor, keys.Actor}
	actors  = []keys.Role{keys.Actor}
)

// publicRoutes is the table of the TLS listener.
func (s *Server) publicRoutes() []route {
	entries := route{method: http.MethodGet, path: "/log/tile/entries/*", auth: operator, roles: []keys.Role{keys.Auditor}, out: mediaBytes, name: "entries", about: "A bundle of the log's entries (c2sp.org/tlog-tiles).", handle: s.tile}
	if s.cfg.PublicEntries {
		entries.auth, entries.roles = public, nil
	}
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	return append(slices.Concat(s.pageRoutes(), s.consoleRoutes(), s.ssfRoutes(), s.demoRoutes()), []route{
		// Provisioning.
		{method: post, path: "/v1/enrollments", auth: joinToken, in: mediaJSON, max: maxEnrol, out: mediaJSON, name: "enroll", about: "Ask to enrol a TPM with a join token.", takes: protocol.EnrollRequest{}, gives: protocol.EnrollChallenge{}, handle: s.enroll},
		{method: post, path: "/v1/enrollments/:id/activation", auth: joinToken, proves: true, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "activate", about: "Prove that the keys are of one TPM.", takes: protocol.Activation{}, gives: protocol.Enrolled{}, handle: s.activate},

		// Nodes.
		{method: post, path: "/v1/challenges", auth: evidential, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "challenge", about: "Ask for a nonce to attest with.", takes: protocol.ChallengeRequest{}, gives: protocol.Challenge{}, handle: s.challenge},
		{method: post, path: "/v1/attestations", auth: evidential, proves: true, in: mediaEvidence, max: evidence.MaxSize, out: mediaJSON, name: "attest", about: "Send evidence; the answer is a token, or a denial with its verdict.", gives: protocol.Outcome{}, handle: s.attest},
		{method: post, path: "/v1/tokens", auth: nodeKey, proves: true, binds: true, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "token", about: "Get a further token on the strength of a base token.", takes: evidence.Request{}, gives: protocol.Grant{}, handle: s.token},
		{method: post, path: "/v1/stops", auth: endedKey, proves: true, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "stopped", about: "Record the end of an execution.", takes: bundle.Stop{}, gives: protocol.Stopped{}, handle: s.stopped},
		{method: get, path: "/v1/nodes/:id/events", auth: endedKey, proves: true, stream: true, out: mediaEvents, name: "events", about: "Follow the signed events that end the node's tokens.", handle: s.events},

		// Relying parties.
		{method: get, path: "/.well-known/openid-configuration", auth: public, out: mediaJSON, name: "openidConfiguration", about: "OpenID Connect discovery.", handle: s.discovery},
		{method: get, path: "/.well-known/oauth-authorization-server", auth: public, out: mediaJSON, name: "authorizationServer", about: "OAuth server metadata (RFC 8414).", handle: s.discovery},
		{method: get, path: "/.well-known/jwks.json", auth: public, out: mediaJSON, name: "jwks", about: "The keys that tokens are signed with.", handle: s.jwks},
		{method: get, path: "/v1/public/keys", auth: public, out: mediaJSON, name: "publicKeys", about: "The token keys, and the log entries that prove them.", gives: protocol.TokenKeys{}, handle: s.publicKeys},
		{method: get, path: "/v1/domain", auth: public, out: mediaJSON, name: "domain", about: "The domain's trust file.", handle: s.domain},
		{method: get, path: "/log/checkpoint", auth: public, out: mediaText, name: "checkpoint", about: "The log's signed checkpoint (c2sp.org/tlog-checkpoint).", handle: s.checkpoint},
		{method: get, path: "/log/tile/*", auth: public, out: mediaBytes, name: "tile", about: "A tile of hashes (c2sp.org/tlog-tiles).", handle: s.tile},
		entries,
		{method: get, path: "/v1/public/health", auth: public, page: "health", cost: healthCost, out: mediaJSON, name: "health", about: "The figures of /health, where that page is open.", gives: protocol.Health{}, handle: s.health},
		{method: get, path: "/v1/public/executions", auth: public, page: "lineage", cost: searchCost, query: "q node from to before", out: mediaJSON, name: "executions", about: "Find executions, where the page /lineage is open.", gives: protocol.Executions{}, handle: s.executions},
		{method: get, path: "/v1/public/lineage", auth: public, page: "lineage", cost: lineageCost, query: "exec", out: mediaJSON, name: "lineage", about: "The life of an execution.", gives: protocol.Told{}, handle: s.lineage},
		{method: get, path: "/v1/public/lineage/export", auth: public, page: "lineage", cost: lineageCost, query: "exec format", out: mediaJSON, name: "lineageExport", about: "The life of an execution as a file: native, in-toto (unsigned) or rfc-eg-0010.", handle: s.lineageExport},
		{method: get, path: "/v1/public/lineage/entry", auth: public, page: "lineage", cost: lineageCost, query: "domain index", out: mediaJSON, name: "peerEntry", about: "An entry of a recognised domain's log, with its proof.", gives: protocol.PeerEntry{}, handle: s.peerEntry},
		{method: get, path: "/log/proof/:index", auth: public, out: mediaText, name: "proof", about: "The proof of one entry (c2sp.org/tlog-proof).", handle: s.proof},

		{method: get, path: "/v1/events", auth: operator, roles: parties, stream: true, out: mediaEvents, name: "feed", about: "Follow the signed events that end any node's tokens.", handle: s.feed},
		{method: get, path: "/v1/status-lists", auth: public, out: mediaJSON, name: "statusLists", about: "Where the status lists are (Token Status List).", gives: protocol.StatusLists{}, handle: s.statusLists},
		{method: get, path: "/v1/status-lists/:index", auth: public, out: mediaStatusList, name: "statusList", about: "A signed list of which tokens were ended (Token Status List).", handle: s.statusList},
		{method: post, path: "/oauth2/introspect", auth: operator, roles: parties, in: mediaForm, max: maxMessage, out: mediaJSON, name: "introspect", about: "Ask whether a token counts now (RFC 7662).", takes: protocol.TokenForm{}, gives: protocol.Introspection{}, handle: s.introspect},
		{method: post, path: "/oauth2/token", auth: nodeKey, proves: true, in: mediaForm, max: maxMessage, out: mediaJSON, name: "exchange", about: "Exchange a base token for a bearer token (RFC 8693), where the domain allows it.", takes: protocol.ExchangeForm{}, gives: protocol.Exchanged{}, handle: s.exchange},
		{method: post, path: "/v1/svids", auth: nodeKey, proves: true, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "svid", about: "Get an X509-SVID that ends with a base token, where the domain allows it.", takes: protocol.SVIDRequest{}, gives: protocol.SVID{}, handle: s.svid},
		{method: get, path: "/spiffe/bundle.json", auth: public, out: mediaJSON, name: "spiffeBundle", about: "The SPIFFE bundle: the keys of JWT-SVIDs.", handle: s.spiffe},
		{method: post, path: "/oauth2/revoke", auth: holder, roles: actors, in: mediaForm, max: maxMessage, out: mediaJSON, name: "revoke", about: "End a token and with it all of its node (RFC 7009).", takes: protocol.TokenForm{}, handle: s.revoke},

		// Operators.
		{method: get, path: "/v1/nodes", auth: operator, roles: anyRole, query: "after limit", out: mediaJSON, name: "nodes", about: "List nodes by id.", gives: protocol.Nodes{}, handle: s.nodes},
		{method: get, path: "/v1/nodes/:id", auth: operator, roles: anyRole, out: mediaJSON, name: "node", about: "Show a node.", gives: protocol.Node{}, handle: s.node},
		{method: post, path: "/v1/nodes/:id/status", auth: operator, roles: actors, browser: true, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "setStatus", about: "Approve, suspend, revoke or retire a node.", takes: protocol.StatusChange{}, gives: protocol.Node{}, handle: s.setStatus},
		{method: get, path: "/v1/nodes/:id/bundle", auth: operator, roles: seers, query: "index", out: mediaJSON, name: "bundle", about: "A decision with everything it rested on.", handle: s.bundle},
		{method: get, path: "/v1/executions", auth: operator, roles: anyRole, query: "node", out: mediaJSON, name: "alive", about: "List the executions that have a token now.", gives: protocol.Alive{}, handle: s.alive},
		{method: get, path: "/v1/operators", auth: operator, roles: anyRole, out: mediaJSON, name: "operators", about: "List the operators whose certificates are revoked.", gives: protocol.RevokedOperators{}, handle: s.operators},
		{method: post, path: "/v1/operators", auth: operator, roles: keys.AllRoles(), in: mediaJSON, max: maxMessage, out: mediaJSON, name: "revokeOperator", about: "Agree to revoke an operator's certificates (approver), or revoke one's own.", takes: protocol.OperatorRevocation{}, gives: protocol.OperatorChange{}, handle: s.revokeOperator},
		{method: get, path: "/v1/references", auth: operator, roles: anyRole, out: mediaJSON, name: "references", about: "List the reference sets in force.", gives: protocol.References{}, handle: s.references},
		{method: post, path: "/v1/references", auth: operator, roles: []keys.Role{keys.Approver}, browser: true, in: mediaJSON, max: maxReference, out: mediaJSON, name: "publish", about: "Agree to a signed reference set.", gives: protocol.Published{}, handle: s.publish},
		{method: get, path: "/v1/join-tokens", auth: operator, roles: actors, out: mediaJSON, name: "joinTokens", about: "List join tokens, without their secrets.", gives: protocol.JoinTokens{}, handle: s.joinTokens},
		{method: post, path: "/v1/join-tokens", auth: operator, roles: actors, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "mintJoinToken", about: "Make a join token.", takes: protocol.NewJoinToken{}, gives: protocol.JoinToken{}, handle: s.mintJoinToken},
		{method: del, path: "/v1/join-tokens/:id", auth: operator, roles: actors, name: "revokeJoinToken", about: "End a join token.", handle: s.revokeJoinToken},
		{method: get, path: "/v1/freeze", auth: operator, roles: anyRole, out: mediaJSON, name: "governance", about: "Whether the domain is frozen.", gives: protocol.Governance{}, handle: s.governance},
		{method: post, path: "/v1/freeze", auth: operator, roles: []keys.Role{keys.Actor, keys.Approver}, browser: true, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "freeze", about: "Freeze the domain (operator), or agree to lift the freeze (approver).", takes: protocol.GovernanceChange{}, gives: protocol.Governance{}, handle: s.freeze},
		{method: post, path: "/v1/verifiers", auth: operator, roles: []keys.Role{keys.Approver}, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "admitVerifier", about: "Agree to a further verifier of the domain.", takes: protocol.NewVerifier{}, gives: protocol.Admission{}, handle: s.admitVerifier},
		{method: get, path: "/v1/peers", auth: operator, roles: anyRole, out: mediaJSON, name: "peers", about: "List the other domains that are recognised.", gives: protocol.PeerDomains{}, handle: s.peers},
		{method: post, path: "/v1/peers", auth: operator, roles: []keys.Role{keys.Approver}, in: mediaJSON, max: maxPeer, out: mediaJSON, name: "recognize", about: "Agree to recognise another domain.", takes: protocol.NewPeer{}, gives: protocol.PeerChange{}, handle: s.recognize},
		{method: del, path: "/v1/peers/:id", auth: operator, roles: actors, name: "forget", about: "End the recognition of another domain.", handle: s.forget},
		{method: post, path: "/v1/keys", auth: operator, roles: []keys.Role{keys.Actor, keys.Approver}, in: mediaJSON, max: maxMessage, out: mediaJSON, name: "changeKeys", about: "Agree to another token key (approver), or withdraw one (operator).", takes: protocol.KeyAct{}, gives: protocol.KeyChange{}, handle: s.changeKeys},
		{method: get, path: "/v1/audit", auth: operator, roles: []keys.Role{keys.Auditor}, query: "from to", out: mediaJSON, name: "audit", about: "Read entries of the log.", gives: protocol.Audit{}, handle: s.audit},
	}...)
}

// adminRoutes is the table of the admin listener.
func (s *Server) adminRoutes() []route {
	const get = http.MethodGet
	return []route{
		{method: get, path: "/livez", auth: local, query: "verbose", out: mediaText, name: "livez", about: "Whether the process lives.", handle: s.livez},
		{method: get, path: "/healthz", auth: local, query: "verbose", out: mediaText, name: "healthz", about: "As livez, for old tools.", handle: s.livez},
		{method: get, path: "/readyz", auth: local, query: "verbose", out: mediaText, name: "readyz", about: "Whether tokens can be issued.", handle: s.readyz},
		{method: get, path: "/metrics", auth: local, query: "*", out: mediaText, name: "metrics", about: "Prometheus metrics.", handle: s.scrape},
		{method: get, path: "/version", auth: local, out: mediaJSON, name: "version", about: "What runs here.", handle: s.version},
		{method: get, path: "/openapi.json", auth: local, out: mediaJSON, name: "openapi", about: "This description.", handle: s.describe},
	}
}
