package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// page is what the verifier answers anybody on a path of its pages.
func (p *party) page(t *testing.T, path string, query url.Values) (int, []byte) {
	t.Helper()
	raw, err := os.ReadFile(p.file("operator.pem"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.ParseIdentity(raw)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: keys.ClientTLS(id.Pin, id.Domain, time.Now)}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(p.url + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// told waits until what the page lineage tells of an execution is as it should be.
func (p *party) told(t *testing.T, exec, what string, ok func(protocol.Told, lineage.Lineage) bool) (lineage.Lineage, protocol.Told) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		status, body := p.page(t, "/v1/public/lineage", url.Values{"exec": {exec}})
		var told protocol.Told
		var l lineage.Lineage
		if status == http.StatusOK {
			if err := json.Unmarshal(body, &told); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(told.Lineage, &l); err != nil {
				t.Fatal(err)
			}
			if len(told.Peers) > 0 && ok(told, l) {
				return l, told
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %d %s", what, status, body)
		}
	}
}

// lineageOverDomains: the page lineage of a tells of an execution whose parent and
// whose child are in the log of b, with proofs that b's own keys verify, and writes it
// into each kind of file.
func lineageOverDomains(t *testing.T, a, b *party) {
	t.Helper()
	b.executes("grandchild", "child")
	l, told := a.told(t, "child", "the parent and the child in b.invalid", func(told protocol.Told, l lineage.Lineage) bool {
		return told.Peers[0].Parent && len(told.Peers[0].Children) == 1 && len(l.Parents) == 1
	})
	peer, parent := told.Peers[0], l.Parents[0]
	if peer.Domain != "b.invalid" || peer.Why != "" || peer.Size == 0 || peer.Seen == 0 || peer.Children[0].Exec != "grandchild" || l.Unresolved != "" {
		t.Errorf("told of b.invalid: %+v, unresolved %q", peer, l.Unresolved)
	}
	if parent.ID != "root" || parent.Domain != "b.invalid" || len(parent.Events) != 2 || parent.Events[0].Event != lineage.Authorized || parent.Events[1].Event != lineage.Admitted {
		t.Errorf("the parent is %+v", parent)
	}
	for _, index := range []uint64{parent.Events[0].Index, parent.Events[1].Index, peer.Children[0].Base, peer.Children[0].Entry} {
		provenAbroad(t, a, b, index)
	}
	if status, body := a.page(t, "/v1/public/lineage/entry", url.Values{"domain": {"b.invalid"}, "index": {"999999"}}); status != http.StatusNotFound {
		t.Errorf("an entry that there is not: %d %s", status, body)
	}
	if status, body := a.page(t, "/v1/public/lineage/entry", url.Values{"domain": {"c.invalid"}, "index": {"1"}}); status != http.StatusNotFound {
		t.Errorf("an entry of a stranger: %d %s", status, body)
	}
	filesOverDomains(t, a)
}

// provenAbroad: an entry of b as a gives it is b's, by b's keys.
func provenAbroad(t *testing.T, a, b *party, index uint64) {
	t.Helper()
	status, body := a.page(t, "/v1/public/lineage/entry", url.Values{"domain": {"b.invalid"}, "index": {fmt.Sprint(index)}})
	var e protocol.PeerEntry
	if err := json.Unmarshal(body, &e); err != nil || status != http.StatusOK {
		t.Fatalf("entry %d of b.invalid: %d %s", index, status, body)
	}
	own, err := b.operator.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	given, err := bundle.ParseTrust(e.Trust)
	if err != nil || given.Domain != own.Domain || !slices.Equal(given.Log, own.Log) {
		t.Errorf("the trust file is %s, %v", e.Trust, err)
	}
	if at, _, err := ledger.CheckProof(e.Receipt, []byte(e.Entry), own.Log...); err != nil || at != index {
		t.Errorf("entry %d of b.invalid: proven at %d, %v", index, at, err)
	}
}

// filesOverDomains: each file that the page writes tells of the other domain.
func filesOverDomains(t *testing.T, a *party) {
	t.Helper()
	file := func(format string) string {
		status, body := a.page(t, "/v1/public/lineage/export", url.Values{"exec": {"child"}, "format": {format}})
		if status != http.StatusOK {
			t.Errorf("%s: %d %s", format, status, body)
		}
		return string(body)
	}
	const abroad = `"parents":[{"id":"root","children":[`
	native := file("native")
	if !strings.Contains(native, abroad) || !strings.Contains(native, `"domain":"b.invalid"}]}`) {
		t.Errorf("native: %s", native)
	}
	if statement := file("in-toto"); !strings.Contains(statement, `"urn:writ:lineage:v1":`+native) {
		t.Errorf("in-toto: %s", statement)
	}
	var doc struct {
		Operation string `json:"operation_id"`
		Events    []struct {
			Evt     string
			Payload struct{ Parent string }
		}
	}
	if err := json.Unmarshal([]byte(file("rfc-eg-0010")), &doc); err != nil || doc.Operation != "child" || len(doc.Events) != 2 || doc.Events[1].Payload.Parent != "root" {
		t.Errorf("rfc-eg-0010: %+v, %v", doc, err)
	}
}

// nothingAbroad: once b's log has contradicted itself, a tells nothing of it.
func nothingAbroad(t *testing.T, a *party) {
	t.Helper()
	l, _ := a.told(t, "child", "nothing of b.invalid to be told", func(told protocol.Told, l lineage.Lineage) bool {
		p := told.Peers[0]
		return strings.Contains(p.Why, "diverged") && !p.Parent && len(p.Children) == 0 && p.Read == 0
	})
	if len(l.Parents) != 0 || l.Unresolved != "root" {
		t.Errorf("the parents are %+v, unresolved %q", l.Parents, l.Unresolved)
	}
	if status, body := a.page(t, "/v1/public/lineage/entry", url.Values{"domain": {"b.invalid"}, "index": {"0"}}); status != http.StatusNotFound || !strings.Contains(string(body), "diverged") {
		t.Errorf("an entry of it: %d %s", status, body)
	}
}
