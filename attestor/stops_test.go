package attestor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// keeper is one that got a token for execution e1 and signs how it ended.
type keeper struct {
	key *ecdsa.PrivateKey
	at  uint64 // index of its token's entry
}

func newKeeper(t *testing.T, b *box, a *Agent) keeper {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	req := lease(b)
	if req.Key, err = token.Thumbprint(key.Public()); err != nil {
		t.Fatal(err)
	}
	k := keeper{key: key, at: uint64(b.d.Log().Size())}
	if _, err := a.Lease(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k keeper) stop(t *testing.T) bundle.Stop {
	t.Helper()
	return k.sign(t, bundle.Stop{Exec: "e1", Cause: "deadline", Deadline: 5, Stopped: 6, LatencyUS: 1, Confirmed: true, Level: "E2", Admitted: k.at})
}

func (k keeper) sign(t *testing.T, s bundle.Stop) bundle.Stop {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if s.Statement, err = token.SignStatement(b, k.key, rand.Reader); err != nil {
		t.Fatal(err)
	}
	return s
}

// cut takes the line down, or up again.
func (l *line) cut(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

func (b *box) waiting(t *testing.T) (names []string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(b.dir, stopsDir))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// lastStop is the latest entry of the history, a stop.
func (b *box) lastStop(t *testing.T) bundle.Stop {
	t.Helper()
	leaf, err := b.d.Log().Entry(t.Context(), b.d.Log().Size()-1)
	var entry struct {
		Kind string
		Data bundle.Stop
	}
	if err == nil {
		err = json.Unmarshal(leaf, &entry)
	}
	if err != nil || entry.Kind != bundle.Terminated {
		t.Fatalf("the history says %s, %v", leaf, err)
	}
	return entry.Data
}

// The verifier is away when the work stops, and the agent is restarted before it
// comes back: the record is there in the end, once, in the keeper's words.
func TestStopWhileVerifierAway(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	stop := newKeeper(t, b, a).stop(t)
	l.cut(true)
	if err := a.Stopped(stop); err != nil {
		t.Fatal(err)
	}
	if err := a.deliverAll(t.Context()); err == nil || len(b.waiting(t)) != 1 {
		t.Errorf("nobody answers and %v waits: %v", b.waiting(t), err)
	}
	next := b.agent(l)
	if err := next.deliverAll(t.Context()); err == nil || len(b.waiting(t)) != 1 {
		t.Errorf("an agent without a token: %v wait, %v", b.waiting(t), err)
	}
	l.cut(false)
	b.mustAttest(next)
	if err := next.deliverAll(t.Context()); err != nil || len(b.waiting(t)) != 0 {
		t.Errorf("%v wait: %v", b.waiting(t), err)
	}
	if got := b.lastStop(t); got != stop {
		t.Errorf("recorded %+v, expected %+v", got, stop)
	}
}

// The node was suspended, which stopped the work: its token still proves who
// reports it.
func TestStopOfSuspendedNode(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	stop := newKeeper(t, b, a).stop(t)
	if _, err := b.d.SetStatus(context.Background(), "operator/test", b.enrol.Node, "suspended", "test"); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.base = ""
	a.mu.Unlock()
	if err := a.Stopped(stop); err != nil {
		t.Fatal(err)
	}
	if err := a.deliverAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.lastStop(t)
}

// Only the keeper that asked for the token can say how its work ended; the agent
// can say that it does not know.
func TestForgedStop(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	k, other := newKeeper(t, b, a), newKeeper(t, b, a)
	good := k.stop(t)
	changed, elsewhere, another := good, good, good
	changed.Cause = "exited"
	elsewhere.Admitted = other.at
	another.Exec = "e2"
	base := k.sign(t, bundle.Stop{Exec: "e1", Cause: "deadline", Confirmed: true, Level: "E2", Admitted: 1 << 40})
	for name, forged := range map[string]bundle.Stop{
		"other words":            changed,
		"another's token":        elsewhere,
		"another's, signed":      keeper{k.key, other.at}.stop(t),
		"another's key":          keeper{other.key, k.at}.stop(t),
		"another execution":      k.sign(t, bundle.Stop{Exec: "e2", Cause: "deadline", Confirmed: true, Level: "E2", Admitted: k.at}),
		"no such entry":          base,
		"unsigned and confirmed": {Exec: "e1", Cause: "deadline", Confirmed: true, Level: "E2"},
		"no execution":           {Cause: "keeper-killed", Level: "E2"},
		"a path":                 {Exec: "../../x", Cause: "keeper-killed", Level: "E2"},
		"unsigned name":          another,
	} {
		size := b.d.Log().Size()
		if err := a.report(t.Context(), forged); err == nil || b.d.Log().Size() != size {
			t.Errorf("%s: recorded (%v)", name, err)
		}
	}
	// What is refused does not stand before what follows.
	if err := a.Stopped(changed); err != nil {
		t.Fatal(err)
	}
	if err := a.Stopped(good); err != nil {
		t.Fatal(err)
	}
	if err := a.deliverAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := b.waiting(t); len(w) != 1 || !strings.HasSuffix(w[0], ".refused") {
		t.Errorf("%v wait", w)
	}
	if got := b.lastStop(t); got != good {
		t.Errorf("recorded %+v", got)
	}
}

// A keeper that is killed says nothing any more; the agent does, and claims no
// more than it knows. One that lives and comes back speaks for itself.
func TestKeeperVanishes(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	a.cfg.Absence = 100 * time.Millisecond
	s := Socket{Path: filepath.Join(b.dir, "agent.sock")}
	serve(t, a, s)
	watch := func(exec string) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/watch?exec="+exec+"&level=E3", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := over(t, s.Path).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return cancel
	}
	killed, ended, back := watch("killed"), watch("e1"), watch("back")
	stop := newKeeper(t, b, a).stop(t)
	if code, body := ask(t, over(t, s.Path), "POST", "/v1/stops", map[string]string{"statement": stop.Statement}); code != http.StatusNoContent {
		t.Fatalf("%d %s", code, body)
	}
	for name, statement := range map[string]string{"nothing": "", "no JWS": "x", "a token": a.current()} {
		if code, _ := ask(t, over(t, s.Path), "POST", "/v1/stops", map[string]string{"statement": statement}); code != http.StatusBadRequest {
			t.Errorf("%s was taken: %d", name, code)
		}
	}
	killed()
	ended()
	back()
	defer watch("back")()
	for range 200 {
		if len(b.waiting(t)) > 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(3 * a.cfg.Absence)
	if w := b.waiting(t); len(w) != 2 || !strings.Contains(w[0], "-e1.json") || !strings.Contains(w[1], "-killed.json") {
		t.Fatalf("%v wait", w)
	}
	if err := a.deliverAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.lastStop(t); got != (bundle.Stop{Exec: "killed", Cause: causeKilled, Level: "E3"}) {
		t.Errorf("recorded %+v", got)
	}
}
