package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// ran is a domain with runs on a node: job-1, which started job-2, which started
// job-3; job-1 has ended.
func ran(t *testing.T) (*domain, *node) {
	t.Helper()
	d := newDomain(t, showing("lineage"))
	n, c, base := d.working()
	for _, run := range [][2]string{{"job-1", ""}, {"job-2", "job-1"}, {"job-3", "job-2"}, {"job-2", "job-1"}} {
		req := n.request(run[0])
		req.Parent = run[1]
		if run[0] == "job-3" {
			req.Workload = "sha256:" + strings.Repeat("ab", 32)
		}
		if _, err := c.Token(t.Context(), base, n.key, req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Stopped(t.Context(), base, n.key, stopOf("job-1")); err != nil {
		t.Fatal(err)
	}
	d.followed()
	return d, n
}

// followed waits until the index has seen the log.
func (d *domain) followed() {
	d.t.Helper()
	for end := time.Now().Add(time.Minute); d.srv.runs.next() < d.svc.Log().Size(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("%d of %d entries were read", d.srv.runs.next(), d.svc.Log().Size())
		}
	}
}

func (d *domain) find(query url.Values) string {
	d.t.Helper()
	var out protocol.Executions
	d.public("/v1/public/executions?"+query.Encode(), &out)
	if out.Size != d.svc.Log().Size() || out.Read != out.Size {
		d.t.Errorf("%d of %d entries were read", out.Read, out.Size)
	}
	var ids []string
	for _, e := range out.Executions {
		ids = append(ids, e.Exec)
	}
	return strings.Join(ids, " ")
}

func TestFindExecutions(t *testing.T) {
	t.Parallel()
	d, n := ran(t)
	soon := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
	for _, c := range []struct{ name, value, want string }{
		{"q", "", "job-3 job-2 job-1"}, {"q", "b-2", "job-2"}, {"q", "<script>", ""}, {"node", n.id, "job-3 job-2 job-1"},
		{"node", subjectOf(d.name, n.id), "job-3 job-2 job-1"}, {"node", "node/" + n.id, ""}, {"from", soon, ""}, {"to", soon, "job-3 job-2 job-1"}, {"to", "1", ""},
	} {
		if got := d.find(url.Values{c.name: {c.value}}); got != c.want {
			t.Errorf("%s=%s: found %q, want %q", c.name, c.value, got, c.want)
		}
	}
	for _, bad := range []string{"from=-1", "to=x", "before=01", "q=" + strings.Repeat("a", 65), "x=1"} {
		if got := d.ask(d.http(), http.MethodGet, "/v1/public/executions?"+bad, "", nil); got.status != http.StatusBadRequest {
			t.Errorf("%.20s: %d %s", bad, got.status, got.body)
		}
	}
}

// TestLineageIsTheLogs: the page is told what anybody with the whole log would tell.
func TestLineageIsTheLogs(t *testing.T) {
	t.Parallel()
	d, _ := ran(t)
	var log lineage.Log
	for i := range d.svc.Log().Size() {
		raw, err := d.svc.Log().Entry(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := ledger.ParseLeaf(raw)
		if err == nil {
			err = log.Add(i, leaf)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	exports := map[string]func(*lineage.Lineage) ([]byte, error){
		"native": (*lineage.Lineage).Native, "in-toto": (*lineage.Lineage).Statement, "rfc-eg-0010": (*lineage.Lineage).EG0010,
	}
	for _, exec := range []string{"job-1", "job-2", "job-3"} {
		whole, err := log.Of(d.name, exec)
		if err != nil {
			t.Fatal(err)
		}
		native, err := whole.Native()
		if err != nil {
			t.Fatal(err)
		}
		var told protocol.Told
		d.public("/v1/public/lineage?exec="+exec, &told)
		if !bytes.Equal(told.Lineage, native) || told.Omitted != 0 || told.Gone != 0 || len(told.Children) != len(whole.Execution.Children) {
			t.Errorf("%s is told as\n%s\nthe log tells\n%s", exec, told.Lineage, native)
		}
		for format, export := range exports {
			want, wantErr := export(whole)
			got := d.ask(d.http(), http.MethodGet, "/v1/public/lineage/export?exec="+exec+"&format="+format, "", nil)
			if wantErr != nil {
				if exec == "job-3" || format != "in-toto" || got.status != http.StatusConflict || got.code(t) != protocol.IllegalAct {
					t.Errorf("%s, %s: %d %s; expected %v", exec, format, got.status, got.body, wantErr)
				}
				continue
			}
			if got.status != http.StatusOK || !bytes.Equal(got.body, want) || got.header.Get("Content-Disposition") != `attachment; filename="`+exec+"."+format+`.json"` {
				t.Errorf("%s, %s: %d %v %s", exec, format, got.status, got.header, got.body)
			}
		}
	}
}

// TestHostileQueries: whatever is asked for comes back as the text of a problem.
func TestHostileQueries(t *testing.T) {
	t.Parallel()
	d, _ := ran(t)
	hostile := `</script><img src=x onerror=alert(1)>"` + "\u2028"
	for _, path := range []string{"/v1/public/lineage?exec=", "/v1/public/lineage/export?format=native&exec=", "/v1/public/lineage/export?exec=job-1&format=", "/v1/public/executions?from="} {
		got := d.ask(d.http(), http.MethodGet, path+url.QueryEscape(hostile), "", nil)
		if !slices.Contains([]int{http.StatusNotFound, http.StatusBadRequest}, got.status) || got.code(t) == "" || bytes.ContainsAny(got.body, "<>\u2028") || !json.Valid(got.body) {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	if got := d.ask(d.http(), http.MethodGet, "/v1/public/lineage", "", nil); got.status != http.StatusNotFound {
		t.Errorf("without an id: %d %s", got.status, got.body)
	}
}
