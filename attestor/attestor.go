// Package attestor is the node agent: it enrols the TPM, takes evidence, keeps
// one base token fresh and serves it, and tokens derived from it, to the local
// keepers that run work.
//
// The agent holds no kill switch. If it dies, hangs or is replaced, keepers run
// to their deadlines; what it says without a verifier's signature stops nothing
// and starts nothing.
package attestor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// Verifier is what the agent asks of a verifier. Refusals are
// *protocol.Refusal; any other error means no answer was had, and the next
// verifier is tried. Key signs the proofs of possession.
type Verifier interface {
	Challenge(ctx context.Context, req protocol.ChallengeRequest) (*protocol.Challenge, error)
	Attest(ctx context.Context, evidence []byte) (*protocol.Outcome, error)
	Token(ctx context.Context, base string, key crypto.Signer, req evidence.Request) (*protocol.Grant, error)
	// Bound is Token, bound to a client certificate.
	Bound(ctx context.Context, base string, key crypto.Signer, req evidence.Request, cert tls.Certificate) (*protocol.Grant, error)
	Exchange(ctx context.Context, base string, key crypto.Signer, audience, workload string) (*protocol.Exchanged, error)
	SVID(ctx context.Context, base string, key crypto.Signer, req protocol.SVIDRequest) (*protocol.SVID, error)
	SPIFFEBundle(ctx context.Context) ([]byte, error)
	Stopped(ctx context.Context, base string, key crypto.Signer, stop bundle.Stop) (*protocol.Stopped, error)
	// Events calls f with each signed event (kind "revocation") and with what the log
	// proves of token keys (kind "keys") until the stream ends.
	Events(ctx context.Context, base string, key crypto.Signer, node string, f func(kind, data string)) error
	TokenKeys(ctx context.Context) (*protocol.TokenKeys, error)
}

// Config is everything an Agent needs.
type Config struct {
	Enrolment Enrolment
	Trust     *bundle.Trust
	Dir       string // state directory
	TPM       *device.TPM
	Logs      Logs
	Verifiers []Verifier    // in order of preference
	Absence   time.Duration // after which a keeper that stopped watching counts as killed; 0 is 10 s, longer than a live one takes to return
	Level     string        // the highest enforcement level of this node, as the base token states it
	KeyInTPM  bool          // the key that tokens are bound to lives in the TPM
	Beat      func()        // called by the loop that attests at each turn and every 5 s between; nil: nobody listens
	Log       *slog.Logger
}

// Agent keeps a node legitimate. It is safe for concurrent use.
type Agent struct {
	cfg Config
	q   quoter

	stopping sync.Mutex    // one stop record is written at a time
	stops    chan struct{} // one waits
	keepers  keepers
	keys     tokenKeys
	renew    chan struct{} // the base token is gone: do not wait

	attesting sync.Mutex // one quote at a time; guards the fields up to mu, and q
	resident  resident   // with KeyInTPM
	next      *protocol.Challenge
	heldLog   []byte            // digest of the boot log the verifier holds
	seen      ledger.Checkpoint // the largest one this node was given

	mu    sync.Mutex // guards the fields below
	state Status
	key   crypto.Signer // that tokens are bound to, of this start of the agent; the quote binds it
	jwk   []byte        // of it
	base  string        // the base token; "" when there is none
	last  string        // the last one, also when it was ended: a stop is reported with it
	since time.Time
	epoch uint64 // the latest of a token that was granted
	boot  uint32 // of the last quote
	first int    // verifier that answered last
	watch map[chan Push]bool
}

// Status is the agent's view of its node, for `writ status`.
type Status struct {
	Node       string          `json:"node"`
	Domain     string          `json:"domain"`
	Legitimate bool            `json:"legitimate"`
	Expires    int64           `json:"expires,omitempty"` // of the base token, Unix seconds
	Seq        uint64          `json:"seq,omitempty"`
	Verdict    json.RawMessage `json:"verdict,omitempty"` // the last one
	Problem    string          `json:"problem,omitempty"` // why there is no token
	Unheard    bool            `json:"unheard,omitempty"` // no verifier answered when it was last asked, or none was asked yet
	Since      time.Time       `json:"since"`             // of the last answer
}

// Push is what a local watcher is told: a signed event, or that the base token
// was renewed.
type Push struct {
	Event   string
	Renewed bool
	Keys    []rotation.Entry
}

// New loads the attestation key and makes the agent's own key.
func New(cfg Config) (*Agent, error) {
	if len(cfg.Verifiers) == 0 || cfg.TPM == nil || cfg.Trust == nil || cfg.Log == nil {
		return nil, errors.New("starting the agent: a TPM, a trust file, a logger and a verifier are needed")
	}
	if cfg.Absence == 0 {
		cfg.Absence = 10 * time.Second
	}
	a := &Agent{cfg: cfg, q: quoter{tpm: cfg.TPM, domain: cfg.Enrolment.Domain, generation: cfg.Enrolment.Generation, logs: cfg.Logs}, watch: map[chan Push]bool{}, stops: make(chan struct{}, 1), renew: make(chan struct{}, 1),
		state: Status{Node: cfg.Enrolment.Node, Domain: cfg.Enrolment.Domain, Problem: "not attested yet", Unheard: true}}
	var err error
	if err := a.keys.open(cfg); err != nil {
		return nil, fmt.Errorf("starting the agent: %w", err)
	}
	if note := a.checkpoint(); note != "" {
		if a.seen, err = cfg.Trust.OpenCheckpoint([]byte(note)); err != nil {
			cfg.Log.Warn("the checkpoint kept is not of this domain's log and counts for nothing", "file", filepath.Join(cfg.Dir, checkpointFile), "error", err)
		}
	}
	if err := a.q.load(); err != nil {
		return nil, err
	}
	if err := a.makeKey(); err != nil {
		return nil, errors.Join(fmt.Errorf("making the agent's key: %w", err), a.q.ak.Close())
	}
	return a, nil
}

// Close unloads the agent's keys.
func (a *Agent) Close() error {
	a.attesting.Lock()
	defer a.attesting.Unlock()
	return errors.Join(a.resident.close(), a.q.ak.Close())
}

// Run renews the base token at a third of its life until ctx is done, and
// listens for events meanwhile. It gives up only when the connection to the TPM
// is lost (*device.NoTPMError): then the agent is to be started anew.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		a.listen(ctx)
	}()
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		a.deliver(ctx)
	}()
	defer func() {
		cancel()
		<-listened
		<-delivered
	}()
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval, retry.RandomizationFactor = 200*time.Millisecond, 20*time.Second, 0.5
	for {
		wait := time.Duration(0)
		err := a.attest(ctx, false)
		if no := (*device.NoTPMError)(nil); errors.As(err, &no) {
			return fmt.Errorf("attesting: %w", err)
		}
		if err != nil {
			wait = retry.NextBackOff()
			a.cfg.Log.WarnContext(ctx, "attestation failed", "error", err, "retry_in", wait.Round(time.Millisecond))
		} else {
			retry.Reset()
			wait = a.renewIn()
		}
		if !a.pause(ctx, wait) {
			return nil
		}
	}
}

// beatEvery is how often a loop that waits says that it lives.
const beatEvery = 5 * time.Second

// pause waits, and reports whether to go on.
func (a *Agent) pause(ctx context.Context, wait time.Duration) bool {
	beat := a.cfg.Beat
	if beat == nil {
		beat = func() {}
	}
	end := time.After(wait)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		beat()
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return true
		case <-a.renew:
			return true
		case <-tick.C:
		}
	}
}

// renewIn is a third of the base token's life with ten percent of jitter.
func (a *Agent) renewIn() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	third := time.Until(time.Unix(a.state.Expires, 0)) / 3
	return max(third+time.Duration((mathrand.Float64()-0.5)*0.2*float64(third)), 100*time.Millisecond)
}

// attest takes one quote and gets a new base token for it. With ifStale, it does
// nothing when somebody else's attestation has just made the token fresh.
func (a *Agent) attest(ctx context.Context, ifStale bool) error {
	a.attesting.Lock()
	defer a.attesting.Unlock()
	if ifStale && !a.stale() {
		return nil
	}
	asked := time.Now()
	out, err := a.ask(ctx)
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
		a.refused(r, asked)
		return err
	}
	if err != nil {
		a.mu.Lock()
		a.state.Problem, a.state.Unheard = err.Error(), true
		a.mu.Unlock()
		return err
	}
	a.granted(ctx, out, asked)
	return nil
}

// granted is an answer that is yes, and the claims of its token.
type granted struct {
	*protocol.Outcome
	claims *token.Claims
}

// ask sends evidence to the verifiers in turn until one answers. A refusal is
// an answer, except that a challenge may have lapsed or a log be unknown there:
// then once more, from the start.
func (a *Agent) ask(ctx context.Context) (*granted, error) {
	var lost []error
	for i := range a.cfg.Verifiers {
		n := (a.preferred() + i) % len(a.cfg.Verifiers)
		out, err := a.exchange(ctx, a.cfg.Verifiers[n])
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) && (r.Code == protocol.NonceExpired || r.Code == protocol.LogNotHeld) {
			a.next, a.heldLog, a.q.sent = nil, nil, 0
			out, err = a.exchange(ctx, a.cfg.Verifiers[n])
		}
		if r := (*protocol.Refusal)(nil); err == nil || errors.As(err, &r) {
			a.mu.Lock()
			a.first = n
			a.mu.Unlock()
			return out, err
		}
		lost = append(lost, err)
		a.next = nil
	}
	return nil, errors.Join(lost...)
}

func (a *Agent) preferred() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.first
}

// exchange gets a challenge, unless the last answer brought one, and sends
// evidence. An answer that is not of this domain's issuer, for this node, key and
// request, counts as none.
func (a *Agent) exchange(ctx context.Context, v Verifier) (*granted, error) {
	e := &a.cfg.Enrolment
	if a.next == nil || time.Now().After(a.next.Expires.Add(-time.Second)) {
		c, err := v.Challenge(ctx, protocol.ChallengeRequest{Node: e.Node, Checkpoint: a.checkpoint()})
		if err != nil {
			return nil, fmt.Errorf("asking for a challenge: %w", err)
		}
		a.next = c
	}
	if len(a.next.Nonce) != 32 {
		return nil, fmt.Errorf("asking for a challenge: expected a nonce of 32 bytes, found %d", len(a.next.Nonce))
	}
	nonce := [32]byte(a.next.Nonce)
	a.next = nil // each is good once
	ev := evidence.New(evidence.Quote{})
	if err := a.bindKey(ev, nonce); err != nil {
		return nil, err
	}
	req := evidence.Request{Audience: "spiffe://" + e.Domain + "/enclave", Level: a.cfg.Level, R: random(32), ID: random(16)}
	ev.Set(evidence.Ask, evidence.Item{Content: req.Marshal()})
	if err := a.q.bootLog(ev, a.heldLog); err != nil {
		return nil, err
	}
	if err := a.q.take(ev, evidence.Attestation, e.Node, nonce); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.boot = a.q.boot
	a.mu.Unlock()
	a.q.shorten(ev)
	body, err := ev.Marshal()
	if err != nil {
		return nil, err
	}
	out, err := v.Attest(ctx, body)
	if err != nil {
		return nil, err
	}
	c, err := a.check(ctx, v, out.Token, req)
	if err != nil {
		return nil, err
	}
	return &granted{out, c}, nil
}

// check is verify, with a look at whether the verifier has keys that are new here.
func (a *Agent) check(ctx context.Context, v Verifier, tok string, req evidence.Request) (*token.Claims, error) {
	c, err := a.verify(tok, req)
	if token.Code(err) == token.UnknownKey {
		if err = a.fetchKeys(ctx, v); err == nil {
			c, err = a.verify(tok, req)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("checking the token the verifier gave: %w", err)
	}
	return c, nil
}

// verify takes a token only if it answers a request of this agent, in this boot, and
// is of no epoch before the one that the last was of.
func (a *Agent) verify(tok string, req evidence.Request) (*token.Claims, error) {
	_, jwk := a.holder()
	jkt, err := token.ThumbprintJWK(jwk)
	if err != nil {
		return nil, err
	}
	e := &a.cfg.Enrolment
	want := token.Expect{Issuer: a.cfg.Trust.IssuerURL(), Domain: e.Domain, Audience: req.Audience, Nonce: req.R, JKT: jkt}
	a.mu.Lock()
	boot := a.boot
	want.Epoch, want.Boot = a.epoch, &boot
	a.mu.Unlock()
	c, err := token.Verify(tok, a.keys.now(), want, time.Now())
	if err == nil && c.Subject != a.subject() {
		err = fmt.Errorf("it is for %s", c.Subject)
	}
	return c, err
}

// subject names this node in tokens and events.
func (a *Agent) subject() string {
	return "spiffe://" + a.cfg.Enrolment.Domain + "/node/" + a.cfg.Enrolment.Node
}

// random returns n random bytes as base64url.
func random(n int) string {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic("attestor: no randomness: " + err.Error()) // crypto/rand.Read never fails since Go 1.24
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// proven is the part of a verdict that tells what the verifier now holds.
type proven struct {
	Boot *struct {
		BootLog string `json:"boot_log"`
		Key     *struct {
			Name []byte `json:"name"`
		} `json:"key"`
		IMA *struct {
			Offset int64 `json:"offset"`
		} `json:"ima"`
	} `json:"boot"`
}

// learned notes what need not be sent again, and the next challenge.
func (a *Agent) learned(o *protocol.Outcome) {
	a.next = &o.Challenge
	var p proven
	held := json.Unmarshal(o.Verdict, &p) == nil && p.Boot != nil && p.Boot.Key != nil
	a.resident.learned(held && bytes.Equal(p.Boot.Key.Name, a.resident.name()))
	if p.Boot == nil {
		a.heldLog, a.q.sent = nil, 0
		return
	}
	a.heldLog, a.q.sent = nil, 0
	if b, err := hex.DecodeString(p.Boot.BootLog); err == nil && len(b) == 32 {
		a.heldLog = b
	}
	if p.Boot.IMA != nil && p.Boot.IMA.Offset == a.q.proven.offset {
		a.q.sent = a.q.proven.last
	}
}

func (a *Agent) granted(ctx context.Context, o *granted, asked time.Time) {
	e := &a.cfg.Enrolment
	a.learned(o.Outcome)
	a.keepCheckpoint(ctx, o.Receipt)
	a.mu.Lock()
	if !a.state.Legitimate {
		a.cfg.Log.InfoContext(ctx, "the node is legitimate", "node", e.Node, "domain", e.Domain, "seq", o.claims.Writ.Seq, "until", time.Unix(o.claims.Expires, 0).UTC().Format(time.RFC3339))
	}
	a.base, a.last, a.since, a.epoch = o.Token, o.Token, asked, o.claims.Writ.Epoch
	a.state.Legitimate, a.state.Expires, a.state.Seq, a.state.Verdict, a.state.Problem, a.state.Since = true, o.claims.Expires, o.claims.Writ.Seq, o.Verdict, "", time.Now()
	a.state.Unheard = false
	a.mu.Unlock()
	a.tell(Push{Renewed: true})
}

func (a *Agent) refused(r *protocol.Refusal, at time.Time) {
	a.mu.Lock()
	a.state.Problem, a.state.Unheard, a.state.Since = r.Error(), false, at
	if r.Denied != nil {
		a.state.Verdict, a.state.Legitimate, a.base = r.Denied.Verdict, false, ""
	}
	a.mu.Unlock()
	if r.Denied == nil {
		return
	}
	a.learned(r.Denied)
	for _, e := range r.Denied.Events {
		a.tell(Push{Event: e})
	}
}

// listen follows the verifier's events while there is a token to listen with.
// Losing the stream stops nothing; it makes the agent connect again.
func (a *Agent) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if base := a.current(); base != "" {
			v := a.cfg.Verifiers[a.preferred()]
			key, _ := a.holder()
			err := v.Events(ctx, base, key, a.cfg.Enrolment.Node, a.heard)
			if ctx.Err() == nil && err != nil {
				a.cfg.Log.DebugContext(ctx, "event stream ended", "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(300+mathrand.IntN(400)) * time.Millisecond):
		}
	}
}

// heard passes what a verifier says on to the keepers, who check it themselves.
func (a *Agent) heard(kind, data string) {
	switch kind {
	case "revocation":
		a.ended(data)
	case "keys":
		var entries []rotation.Entry
		err := json.Unmarshal([]byte(data), &entries)
		if err == nil {
			err = a.learnKeys(entries)
		}
		if err != nil {
			a.cfg.Log.Warn("what was said of token keys does not prove itself and was ignored", "error", err)
		}
	}
}

// ended takes an event that ends tokens.
func (a *Agent) ended(event string) {
	want := token.Expect{Issuer: a.cfg.Trust.IssuerURL(), Domain: a.cfg.Enrolment.Domain, Audience: "spiffe://" + a.cfg.Enrolment.Domain + "/enclave"}
	e, err := token.VerifyEvent(event, a.keys.now(), want, time.Now())
	if err != nil {
		a.cfg.Log.Warn("an event that does not verify was ignored", "error", err)
		return
	}
	if e.Subject != a.subject() {
		return
	}
	a.mu.Lock()
	if e.Seq >= a.state.Seq {
		a.base, a.state.Legitimate, a.state.Problem = "", false, e.Cause+": "+e.Reason
	}
	a.mu.Unlock()
	a.tell(Push{Event: event})
}

// current is the base token while it lives.
func (a *Agent) current() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().Unix() >= a.state.Expires {
		return ""
	}
	return a.base
}

// Status returns what the agent knows of its node now.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state
	if s.Legitimate && time.Now().Unix() >= s.Expires {
		s.Legitimate = false
		s.Problem = strings.TrimPrefix("the last token expired; "+s.Problem, "; ")
	}
	return s
}

// stale reports that the base token has lived more than a third of its life.
func (a *Agent) stale() bool {
	if a.current() == "" {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	life := time.Unix(a.state.Expires, 0).Sub(a.since)
	return time.Since(a.since) > life/3
}

// Watch subscribes to pushes until the returned function is called.
func (a *Agent) Watch() (<-chan Push, func()) {
	c := make(chan Push, 16)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watch[c] = true
	return c, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watch, c)
	}
}

// tell never waits: a watcher that lags misses a hint, not its deadline.
func (a *Agent) tell(p Push) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.watch {
		select {
		case c <- p:
		default:
		}
	}
}

func (a *Agent) checkpoint() string {
	b, err := os.ReadFile(filepath.Join(a.cfg.Dir, checkpointFile))
	if err != nil {
		return "" // none yet: the verifier is then not held to anything
	}
	return string(b)
}

// keepCheckpoint stores the signed checkpoint of a receipt, so that a verifier
// restored to an earlier state is confronted with it. A smaller one than the last
// shows such a verifier: the last one is kept, and sent with the next challenge.
func (a *Agent) keepCheckpoint(ctx context.Context, receipt string) {
	_, note, _ := strings.Cut(receipt, "\n\n")
	c, err := a.cfg.Trust.OpenCheckpoint([]byte(note))
	if err == nil && (c.Size < a.seen.Size || c.Size == a.seen.Size && c.Root != a.seen.Root) {
		err = fmt.Errorf("it is of size %d, but one of size %d was signed before; the verifier's history was set back", c.Size, a.seen.Size)
		a.next = nil
	}
	if err == nil {
		err = durable.WriteFile(filepath.Join(a.cfg.Dir, checkpointFile), []byte(note), 0o644)
	}
	if err != nil {
		a.cfg.Log.ErrorContext(ctx, "keeping the checkpoint of a receipt failed", "error", err)
		return
	}
	a.seen = c
}
