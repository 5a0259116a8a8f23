package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// TestServerKilled kills the server under the load of two verifiers.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster(t, "fsync=off")
	defer c.Close()
	url := c.URL(t)
	s, a := verifierOn(t, url, 0)
	_, b := verifierOn(t, url, 1)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for range 3 {
			time.Sleep(300 * time.Millisecond)
			c.Kill(t)
			time.Sleep(200 * time.Millisecond)
			c.Wait(t)
		}
		time.Sleep(100 * time.Millisecond)
	}()
	indexes, receipts := load(t, stop, a, b)
	for _, l := range []*ledger.Log{a, b} {
		if _, _, err := insist(t.Context(), l, "last of "+l.VerifierKey()); err != nil {
			t.Fatal(err)
		}
	}
	wantOnce(t, s, b, indexes, receipts)
}

// cutter is a proxy before the server's socket that cuts a connection once.
type cutter struct {
	server string
	mark   atomic.Pointer[[]byte] // cut when this is about to pass, in either direction
}

func (c *cutter) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", c.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		var once sync.Once
		end := func() { once.Do(func() { _ = client.Close(); _ = server.Close() }) }
		go c.pass(server, client, end)
		go c.pass(client, server, end)
	}
}

func (c *cutter) pass(to io.Writer, from io.Reader, end func()) {
	defer end()
	buf := make([]byte, 1<<20)
	for {
		n, err := from.Read(buf)
		if m := c.mark.Load(); m != nil && bytes.Contains(buf[:n], *m) && c.mark.CompareAndSwap(m, nil) {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// TestConnectionCutInCommit cuts before the server has heard of the commit, and
// before its answer is back. Neither says which it was.
func TestConnectionCutInCommit(t *testing.T) {
	t.Parallel()
	c := storetest.Shared(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, filepath.Base(c.Socket())))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cut := &cutter{server: c.Socket()}
	go cut.serve(l)
	url := strings.ReplaceAll(c.URL(t), filepath.Dir(c.Socket()), dir)
	s, log := verifierOn(t, url, 0)
	indexes := map[string]string{}
	for id, test := range map[string]struct {
		mark  string
		there bool
	}{
		"question": {`"subject":"question"`, false},
		"answer":   {"COMMIT\x00", true},
	} {
		if _, err := log.Append(t.Context(), request("before "+id)); err != nil { // statements are prepared
			t.Fatal(err)
		}
		size := log.Size()
		mark := []byte(test.mark)
		cut.mark.Store(&mark)
		if rs, err := log.Append(t.Context(), request(id)); !errors.Is(err, ledger.ErrUnknown) {
			t.Fatalf("Append with the %s cut off = %v, %v, want ErrUnknown", id, rs, err)
		}
		if log.Size() != size {
			t.Errorf("readers see size %d, of which nobody has a receipt", log.Size())
		}
		index, receipt, err := insist(t.Context(), log, id)
		if err != nil || (receipt == nil) != test.there {
			t.Errorf("repeated with the %s cut off: receipt %v, %v", id, receipt, err)
		}
		indexes[id] = index
	}
	wantOnce(t, s, log, indexes, nil)
}

// TestStandbyMissing is about commits that wait for a standby that does not
// answer: PostgreSQL calls them done when somebody cancels the wait, and shows
// them to readers.
func TestStandbyMissing(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster(t, "fsync=off")
	defer c.Close()
	s, l := verifierOn(t, c.URL(t), 0)
	standby := func(name string) {
		c.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = '"+name+"'")
		c.Exec(t, "SELECT pg_reload_conf()")
		for c.Exec(t, "SHOW synchronous_standby_names") != name {
			time.Sleep(10 * time.Millisecond)
		}
	}
	const waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query NOT LIKE '%emit_message%'"
	waits := func() {
		for range 500 {
			if c.Exec(t, "SELECT count(*) "+waiting) != "0" {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error("no commit waits for the standby")
	}
	if _, err := l.Append(t.Context(), request("before")); err != nil {
		t.Fatal(err)
	}
	indexes := map[string]string{}
	for _, id := range []string{"deadline", "cancelled"} {
		size := l.Size()
		standby("missing")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if id == "deadline" {
			ctx, cancel = context.WithTimeout(ctx, time.Second)
		} else {
			go func() {
				waits()
				c.Exec(t, "SELECT pg_cancel_backend(pid) "+waiting)
			}()
		}
		if rs, err := l.Append(ctx, request(id)); !errors.Is(err, ledger.ErrUnknown) {
			t.Fatalf("%s: Append = %v, %v, want ErrUnknown", id, rs, err)
		}
		cancel()
		// Asked again, it is not told of an entry that one machine alone has.
		ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
		rs, err := l.Append(ctx, request(id))
		cancel()
		if err == nil || errors.As(err, new(errDone)) || l.Size() != size {
			t.Fatalf("%s: Append = %v, %v at size %d, before the standby is back", id, rs, err, l.Size())
		}
		standby("")
		if indexes[id], _, err = insist(t.Context(), l, id); err != nil {
			t.Fatal(err)
		}
	}
	wantOnce(t, s, l, indexes, nil)
}
