package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestOutsiderVerifiesToken: what a relying party's library does, discovery
// first.
func TestOutsiderVerifiesToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	_, _, base := d.working()
	c := d.http()
	var conf, oauth map[string]any
	for path, into := range map[string]*map[string]any{"/.well-known/openid-configuration": &conf, "/.well-known/oauth-authorization-server": &oauth} {
		if err := json.Unmarshal(d.ask(c, http.MethodGet, path, "", nil).body, into); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []map[string]any{conf, oauth} {
		for _, name := range []string{"issuer", "jwks_uri", "response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"} {
			if m[name] == nil {
				t.Errorf("discovery lacks %s", name)
			}
		}
	}
	if conf["issuer"] != d.svc.Issuer() || conf["jwks_uri"] != d.svc.Issuer()+"/.well-known/jwks.json" {
		t.Errorf("discovery says %v", conf)
	}
	d.namesOnlyWhatIsServed(conf)
	got := d.ask(c, http.MethodGet, "/.well-known/jwks.json", "", nil)
	if cc := got.header.Get("Cache-Control"); cc != "public, max-age=300" {
		t.Errorf("Cache-Control of the keys: %q", cc)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(got.body, &set); err != nil {
		t.Fatal(err)
	}
	tok, err := jwt.ParseSigned(base, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := tok.Claims(set.Key(tok.Headers[0].KeyID)[0].Key, &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Issuer != conf["issuer"] || !claims.Audience.Contains(d.svc.EnclaveAudience()) {
		t.Errorf("claims %+v", claims)
	}
}

// namesOnlyWhatIsServed: every endpoint that discovery names is a line of the table.
func (d *domain) namesOnlyWhatIsServed(conf map[string]any) {
	d.t.Helper()
	for name, value := range conf {
		if !strings.HasSuffix(name, "_endpoint") && !strings.HasSuffix(name, "_uri") {
			continue
		}
		path, ok := strings.CutPrefix(value.(string), d.svc.Issuer())
		if !ok || !slices.ContainsFunc(d.srv.publicRoutes(), func(r route) bool { return r.path == path }) {
			d.t.Errorf("discovery names %s %v, which is not served", name, value)
		}
	}
}

// TestHistoryIsPublicInHashes: checkpoint, proofs and tiles verify for anybody;
// entries are for auditors.
func TestHistoryIsPublicInHashes(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	trust, err := c.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	note, err := c.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cp, err := ledger.OpenCheckpoint(note, trust.Log...)
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(d.claims(base).Writ.Log.Index)
	proof, err := c.Proof(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	page, err := d.first.Audit(t.Context(), index, index+1)
	if err != nil || len(page.Entries) != 1 || page.Size != cp.Size {
		t.Fatalf("audit: %+v %v", page, err)
	}
	if got, _, err := ledger.CheckProof(proof, page.Entries[0].Leaf, trust.Log...); err != nil || got != index {
		t.Errorf("proof of entry %d: %d %v", index, got, err)
	}
	partial := ledger.TilePath{Level: 0, Index: 0, Width: int(cp.Size)}
	tile, err := c.Tile(t.Context(), partial.String())
	if err != nil || len(tile) != 32*int(cp.Size) {
		t.Errorf("tile: %d bytes, %v", len(tile), err)
	}
	partial.Level = ledger.Entries
	_, err = c.Tile(t.Context(), partial.String())
	refused(t, err, codeUnauthenticated)
	if b, err := d.first.Tile(t.Context(), partial.String()); err != nil || len(b) == 0 {
		t.Errorf("entries for an auditor: %v", err)
	}
	_, err = c.Proof(t.Context(), 1<<40)
	refused(t, err, protocol.NotFound)

	raw, err := d.first.Bundle(t.Context(), n.id, -1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r := bundle.Verify(b, trust); r.Result != bundle.ResultVerified {
		t.Errorf("bundle: %+v", r)
	}
}

func TestPublicEntries(t *testing.T) {
	t.Parallel()
	d := newDomain(t, option{server: func(c *Config) { c.PublicEntries = true }})
	if b, err := d.anybody().Tile(t.Context(), "tile/entries/000.p/1"); err != nil || len(b) < 3 {
		t.Errorf("entries: %d bytes, %v", len(b), err)
	}
}

// TestOperatorDay goes through what operators do.
func TestOperatorDay(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, _ := d.working()
	m := d.machine("c-grub-sb")
	d.enrol(m, "grub")
	var ids []string
	for after := ""; ; {
		page, err := d.first.Nodes(t.Context(), after, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range page.Nodes {
			ids = append(ids, x.ID)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(ids) != 2 || ids[0] >= ids[1] {
		t.Errorf("nodes by pages: %v", ids)
	}
	one, err := d.first.Node(t.Context(), n.id)
	if err != nil {
		t.Fatal(err)
	}
	if one.State != "synchronized" || one.Last == nil || one.Last.Decision != "grant" || len(one.EKs) != 1 || one.BootCount != 1 {
		t.Errorf("node: %+v", one)
	}
	sets, err := d.first.References(t.Context())
	if err != nil || len(sets) != 1 || sets[0].Name != "grub" {
		t.Errorf("references: %+v %v", sets, err)
	}
	join, err := d.first.MintJoinToken(t.Context(), protocol.NewJoinToken{Class: "grub", Life: 60})
	if err != nil {
		t.Fatal(err)
	}
	if pin := d.keys.Pin(); !strings.Contains(join.Token, hexOf(pin)) {
		t.Errorf("join token %s does not pin the verifiers' CA", join.ID)
	}
	if err := d.first.RevokeJoinToken(t.Context(), join.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, d.first.RevokeJoinToken(t.Context(), "0000000000000000"), protocol.NotFound)
	list, err := d.first.JoinTokens(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("join tokens: %+v %v", list, err)
	}
	for _, j := range list {
		if j.Token != "" || (j.ID == join.ID && !j.Revoked) {
			t.Errorf("join token %+v", j)
		}
	}
	_, err = d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "pending", Reason: "x"})
	refused(t, err, protocol.IllegalAct)
	_, err = d.first.Node(t.Context(), strings.Repeat("0", 32))
	refused(t, err, protocol.NotFound)
	_, err = d.first.Publish(t.Context(), []byte(`{}`))
	refused(t, err, protocol.ReferenceRefused)
}

func hexOf(p keys.Pin) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range p {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// TestReadyAndMetrics: what whoever runs the verifier sees.
func TestReadyAndMetrics(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, _ := d.working()
	if _, err := c.Attest(t.Context(), []byte(`{}`)); err == nil {
		t.Fatal("no evidence was taken")
	}
	_ = n
	get := func(path string) reply { return d.ask(http.DefaultClient, http.MethodGet, d.admin+path, "", nil) }
	if got := get("/readyz?verbose"); got.status != http.StatusOK || !strings.Contains(string(got.body), "[+]log ok\n") {
		t.Errorf("readyz: %d %s", got.status, got.body)
	}
	if got := get("/livez"); got.status != http.StatusOK || string(got.body) != "ok\n" {
		t.Errorf("livez: %d %s", got.status, got.body)
	}
	m := string(get("/metrics").body)
	for _, want := range []string{
		`writ_appraisals_total{result="affirming"} 1`, `writ_tokens_issued_total{kind="legitimacy"} 1`, `writ_tokens_denied_total{problem="evidence-malformed"} 1`,
		`writ_nodes{state="synchronized"} 1`, "writ_log_size_entries ", "writ_log_checkpoint_timestamp_seconds ", "writ_appraisal_duration_seconds_count 2", "writ_evidence_bytes_count 2",
		"writ_evidence_age_seconds_count 1", "writ_build_info{", `writ_ready{check="clock"} 1`, "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(m, "\n"+want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(m, n.id) {
		t.Error("metrics name a node")
	}
}

// TestSteppedClockIsNotReady: readyz says why no token is issued.
func TestSteppedClockIsNotReady(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	d.step.Store(int64(3600e9))
	got := d.ask(http.DefaultClient, http.MethodGet, d.admin+"/readyz", "", nil)
	if got.status != http.StatusServiceUnavailable || !strings.Contains(string(got.body), "[-]clock failed") {
		t.Errorf("readyz: %d %s", got.status, got.body)
	}
}
