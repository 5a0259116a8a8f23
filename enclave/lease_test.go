package enclave

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestZeroLeaseIsInvalid(t *testing.T) {
	var l Lease
	if l.Valid() || l.Fast() || l.Deadline() != 0 {
		t.Error("the zero lease is valid")
	}
	ctx, cancel := l.Context(context.Background())
	defer cancel()
	if !errors.Is(context.Cause(ctx), ErrLapsed) {
		t.Errorf("its context has the cause %v", context.Cause(ctx))
	}
	l.Revoke()
	if err := l.Renew(Now().Add(time.Hour)); !errors.Is(err, ErrLapsed) {
		t.Errorf("renewed after it was revoked: %v", err)
	}
}

func TestLeaseEndsByItself(t *testing.T) {
	var l Lease
	deadline := Now().Add(80 * time.Millisecond)
	if err := l.Renew(deadline); err != nil {
		t.Fatal(err)
	}
	if !l.Valid() || !l.Fast() {
		t.Error("a renewed lease is not valid")
	}
	ctx, cancel := l.Context(context.Background())
	defer cancel()
	<-ctx.Done()
	if now := Now(); now < deadline {
		t.Errorf("ended %v before its deadline", deadline.Sub(now))
	}
	if !errors.Is(context.Cause(ctx), ErrLapsed) || l.Valid() || l.Fast() {
		t.Errorf("after its deadline: cause %v, valid %v, fast %v", context.Cause(ctx), l.Valid(), l.Fast())
	}
	if err := l.Renew(Now().Add(time.Hour)); !errors.Is(err, ErrLapsed) {
		t.Errorf("revived: %v", err)
	}
	l.Revoke() // the alarm is closed; nothing else may be touched
}

func TestLeaseOnlyMovesForward(t *testing.T) {
	var l Lease
	far := Now().Add(time.Hour)
	if err := l.Renew(far); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Instant{far, far - 1, Now().Add(time.Second), 0, -1} {
		if err := l.Renew(d); err == nil || l.Deadline() != far {
			t.Errorf("moved to %v: %v", d, err)
		}
	}
	if err := l.Renew(far + 1); err != nil || l.Deadline() != far+1 {
		t.Errorf("not moved forward: %v", err)
	}
	l.Revoke()
}

func TestLeaseRevoked(t *testing.T) {
	var l Lease
	if err := l.Renew(Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := l.Context(context.Background())
	defer cancel()
	l.Revoke()
	if l.Valid() {
		t.Error("valid after it was revoked")
	}
	<-ctx.Done()
	if l.Fast() || !errors.Is(context.Cause(ctx), ErrLapsed) {
		t.Errorf("fast %v, cause %v", l.Fast(), context.Cause(ctx))
	}
}

func TestLeaseContextEndsWithParent(t *testing.T) {
	var l Lease
	if err := l.Renew(Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	defer l.Revoke()
	parent, stop := context.WithCancel(context.Background())
	ctx, cancel := l.Context(parent)
	defer cancel()
	stop()
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}

// Whoever wins the race, a revoked lease is never valid again.
func TestRevokeRacesRenew(t *testing.T) {
	for range 200 {
		var l Lease
		start := Now().Add(time.Hour)
		if err := l.Renew(start); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { _ = l.Renew(start + Instant(i+1)) })
		}
		wg.Go(l.Revoke)
		wg.Wait()
		if l.Valid() {
			t.Fatal("valid after it was revoked")
		}
	}
}

func TestNothingAllocates(t *testing.T) {
	var l Lease
	if err := l.Renew(Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	defer l.Revoke()
	if n := testing.AllocsPerRun(100, func() { _ = l.Valid() && l.Fast() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
