package enclave

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
)

// ErrLapsed is the cause of every context a lease ends, and what Renew says of
// a lease that has ended: it cannot be revived, ask for a new one.
var ErrLapsed = errors.New("legitimacy lapsed")

var errNotLater = errors.New("moving the deadline: the new one is not later")

// word is the state of a lease in one machine word, so that it can lie in a
// page another process reads: 0 never valid, > 0 the Instant it is valid until,
// < 0 revoked for good.
type word struct{ v atomic.Int64 }

func (w *word) valid() bool       { return int64(Now()) < w.v.Load() }
func (w *word) deadline() Instant { return Instant(w.v.Load()) }
func (w *word) revoke()           { w.v.Store(-1) }

// renew moves the deadline forward. It never moves back, and never at all once
// it has passed or was revoked.
func (w *word) renew(deadline Instant) error {
	for {
		old, now := w.v.Load(), int64(Now())
		switch {
		case old < 0, old > 0 && now >= old, now >= int64(deadline):
			return ErrLapsed
		case int64(deadline) <= old:
			return errNotLater
		case w.v.CompareAndSwap(old, int64(deadline)):
			return nil
		}
	}
}

// A Lease says whether this process may go on. The zero Lease says no until it
// is renewed for the first time. It is safe for concurrent use.
//
// Valid is exact and costs one clock read: ask it before every side effect, that
// is before committing, sending or signing. Fast is one atomic load and as late
// as the scheduler is: ask it in inner loops. Neither helps against a program
// that does not ask; that is what the keeper is for.
type Lease struct {
	word word
	fast atomic.Bool

	mu    sync.Mutex // guards what follows
	bell  alarm      // rings at the deadline
	alarm *os.File   // the same descriptor, for a goroutine to wait on; nil before the first Renew
	ended bool
	after map[*func()]struct{} // what to do when the lease ends
}

// Valid reads the boot clock and compares.
func (l *Lease) Valid() bool { return l.word.valid() }

// Fast is Valid as of the last time the watcher ran.
func (l *Lease) Fast() bool { return l.fast.Load() }

// Deadline is the instant until which the lease is valid, or one in the past.
func (l *Lease) Deadline() Instant { return l.word.deadline() }

// Renew moves the deadline to a later instant. It returns ErrLapsed once the
// lease has ended; a deadline that is not later is refused and changes nothing.
func (l *Lease) Renew(deadline Instant) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alarm == nil {
		bell, err := newAlarm()
		if err != nil {
			return err
		}
		if err := l.word.renew(deadline); err != nil {
			return errors.Join(err, os.NewFile(uintptr(bell.fd), "alarm").Close())
		}
		l.bell, l.alarm = bell, os.NewFile(uintptr(bell.fd), "alarm")
		l.fast.Store(true)
		go l.watch()
		return l.bell.set(deadline)
	}
	if err := l.word.renew(deadline); err != nil {
		return err
	}
	return l.bell.set(deadline)
}

// Revoke ends the lease now and for ever.
func (l *Lease) Revoke() {
	l.word.revoke()
	l.fast.Store(false)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alarm != nil {
		_ = l.bell.set(0) // if it could not be set, the watcher comes at the old deadline
	}
}

// watch ends the lease when its alarm rings and the clock agrees.
func (l *Lease) watch() {
	var b [8]byte
	for l.Valid() {
		if _, err := l.alarm.Read(b[:]); err != nil {
			break // an alarm that cannot be heard is a lapse
		}
	}
	l.fast.Store(false)
	l.word.revoke()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for f := range l.after {
		go (*f)()
	}
	l.after = nil
	l.bell = alarm{-1} // the number may soon be another file's
	_ = l.alarm.Close()
}

// atEnd calls f in its own goroutine when the lease ends, at once if it is not
// valid. forget takes that back; it may come too late.
func (l *Lease) atEnd(f func()) (forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alarm == nil || l.ended || !l.Valid() {
		go f()
		return func() {}
	}
	if l.after == nil {
		l.after = make(map[*func()]struct{})
	}
	l.after[&f] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.after, &f)
	}
}

// Context returns a context that ends when parent does or when the lease does,
// then with the cause ErrLapsed. A lease that is not valid gives one that has
// already ended.
func (l *Lease) Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	if !l.Valid() {
		cancel(ErrLapsed)
		return ctx, func() {}
	}
	forget := l.atEnd(func() { cancel(ErrLapsed) })
	return ctx, func() { forget(); cancel(context.Canceled) }
}
