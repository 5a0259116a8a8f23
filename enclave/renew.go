package enclave

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/verifier/rotation"
)

// ask gets one more token. Each call is a request of its own: what it drew and
// when is never used for another.
func (k *keeper) ask(ctx context.Context) (Grant, error) {
	self, err := k.self()
	if err != nil {
		return Grant{}, err
	}
	g := newGrant(k.admission.here)
	a, err := k.agent.lease(ctx, request{
		Audience: k.admission.audience, Workload: k.admission.workload, Execution: k.admission.execution,
		Key: k.jkt, Parent: k.cfg.Parent, Image: k.cfg.Image, Argv: k.argv, Level: k.level.String(), R: g.R, ID: newID(),
	}, self)
	if err != nil {
		return g, noAgent(err)
	}
	k.learn(a.Keys)
	switch a.status {
	case 200:
		g.Token = a.Token
		return g, nil
	case 403:
		for _, e := range a.Events {
			k.consider(e, CauseDenied)
		}
		return g, refused(a)
	}
	return g, &Refusal{Code: "run/no-token", Err: fmt.Errorf("asking for a token: %s", a.why())}
}

// newID names an execution or a request.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// pace renews until ctx ends: at a third of the token's life, and after a failure
// with scattered pauses. renew returns the life of the new token. A failure
// changes nothing else; the deadline does. What comes through now is a reason to
// renew at once.
func pace(ctx context.Context, life time.Duration, now <-chan struct{}, renew func(context.Context) (time.Duration, error), told func(error)) {
	for pause := third(life); sleep(ctx, pause, now); {
		next, err := renew(ctx)
		told(err)
		if err != nil {
			pause = retry(pause, life)
			continue
		}
		life, pause = next, third(next)
	}
}

// renew renews once and returns the life of the new token.
func (k *keeper) renew(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	g, err := k.ask(ctx)
	if err != nil {
		return 0, err
	}
	deadline, err := k.admission.admit(g, time.Now())
	if err != nil {
		return 0, err
	}
	return deadline.Sub(g.T0), k.extend(g.T0, deadline)
}

// renewed follows how renewing goes, and tells people when that changes.
func (k *keeper) renewed(err error) {
	switch failed := k.failing.Swap(err != nil); {
	case err != nil && !failed:
		k.warn("renewing: %v", err)
	case err == nil && failed:
		k.warn("renewing: works again")
	}
	if deadline := Instant(k.deadline.Load()); err != nil && k.drain.fd >= 0 && Now() >= deadline.Add(-k.cfg.DrainBefore) {
		_ = k.drain.set(0) // it rang before this was known
	}
	if err == nil {
		runtime.GC() // now, when the deadline is farthest away; see tune
	}
}

// third is a third of the life, +-10 %, so that keepers started together do not
// ask together.
func third(life time.Duration) time.Duration {
	return time.Duration(float64(life) / 3 * (0.9 + 0.2*mathrand.Float64()))
}

// retry is the pause after a failure: anything from a sixtieth of the life to
// three times the last pause, at most a sixth of the life (decorrelated jitter).
func retry(last, life time.Duration) time.Duration {
	least, most := life/60, life/6
	return min(most, least+time.Duration(mathrand.Int64N(int64(max(3*last-least, 1)))))
}

// sleep pauses unless ctx ends first, or now says that it is enough. It paces only: no legitimacy hangs on it.
func sleep(ctx context.Context, d time.Duration, now <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-now:
		return true
	case <-t.C:
		return true
	}
}

// wallSteps tells, until ctx ends, when the wall clock was set: by somebody, by
// the first synchronization after the machine was paused, or at resume. It
// decides nothing; but whoever else holds the token may see it end at another
// moment now, so a new one is asked for.
func wallSteps(ctx context.Context, stepped chan struct{}) <-chan struct{} {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return stepped // then this is no reason to renew
	}
	timer := os.NewFile(uintptr(fd), "wall clock")
	far := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 33}}
	arm := func() bool {
		return unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &far, nil) == nil
	}
	context.AfterFunc(ctx, func() { _ = timer.Close() })
	go func() {
		var b [8]byte
		for arm() {
			if _, err := timer.Read(b[:]); !errors.Is(err, unix.ECANCELED) {
				return
			}
			select {
			case stepped <- struct{}{}:
			default:
			}
		}
	}()
	return stepped
}

// listen follows the agent's pushes until ctx ends. Losing them is no reason to
// stop: the deadline comes anyway. It calls ready when it has begun to listen or
// could not, each time.
func (k *keeper) listen(ctx context.Context, ready func()) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		_ = k.agent.watch(ctx, k.execution, k.level, func() {
			pause = 100 * time.Millisecond
			ready()
		}, func(kind, data string) {
			switch kind {
			case "revocation":
				k.consider(data, CauseRevoked)
			case "keys":
				var entries []rotation.Entry
				if err := json.Unmarshal([]byte(data), &entries); err == nil {
					k.learn(entries)
				}
			}
		})
		ready()
		if !sleep(ctx, pause, nil) {
			return
		}
	}
}

// withdrawnGrace is how long work goes on that rests on a key withdrawn meanwhile: long
// enough to get a token by another one, of which it is asked for at once.
const withdrawnGrace = 5 * time.Second

// learn takes what the log proves of token keys.
func (k *keeper) learn(entries []rotation.Entry) {
	if len(entries) == 0 {
		return
	}
	withdrawn, err := k.admission.learn(entries)
	if err != nil {
		k.warn("ignoring what was said of token keys: %v", err)
	}
	if !withdrawn {
		return
	}
	select {
	case k.again <- struct{}{}:
	default:
	}
	time.AfterFunc(withdrawnGrace, func() {
		if k.admission.withdrawn() {
			k.revoke(CauseRevoked)
		}
	})
}

// consider stops the work if an event says so and proves it.
func (k *keeper) consider(event, cause string) {
	over, err := k.admission.ends(event, time.Now())
	if err != nil {
		k.warn("ignoring an event: %v", err)
	}
	if over {
		k.revoke(cause)
	}
}
