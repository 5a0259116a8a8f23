// Package ssf tells parties outside of the domain what ends and begins legitimacy, as
// a transmitter of the Shared Signals Framework 1.0: CAEP events in signed security
// event tokens, pushed (RFC 8935) or polled (RFC 8936).
//
// What is due follows from the log alone and is never queued: a stream is a place in
// the log. So a receiver gets the acts of every verifier of the domain, and what
// happened while nobody could reach it. It may get a notice twice, with the same jti;
// it gets none out of order. A notice only ever shortens the time to a stop: no
// safety rests on it.
package ssf

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// Events are the types of events that streams have.
var events = []string{token.SessionRevoked, token.ComplianceChange}

// Delivery methods.
const (
	PushMethod = "urn:ietf:rfc:8935"
	PollMethod = "urn:ietf:rfc:8936"
)

// Stream is a receiver and how it gets its notices.
type Stream struct {
	ID       string // and the name of the operator's certificate that the receiver shows
	Audience string
	Push     string       // URL; "": it polls
	Header   string       // Authorization of pushes
	Client   *http.Client // for pushes
}

// Config is what a Transmitter needs.
type Config struct {
	Service *verifier.Service
	Streams []Stream
	Slog    *slog.Logger
	Now     func() time.Time
}

// Transmitter serves the streams of a domain. Its methods may be called by many
// goroutines.
type Transmitter struct{ cfg Config }

// New returns a transmitter. Nothing is pushed before Run.
func New(cfg Config) *Transmitter { return &Transmitter{cfg} }

// ErrNoStream: there is no such stream for whoever asks.
var ErrNoStream = errors.New("no such stream")

// Stream returns a receiver's stream by its id; ErrNoStream if it has none.
func (t *Transmitter) Stream(id, receiver string) (*Stream, error) {
	for i := range t.cfg.Streams {
		if s := &t.cfg.Streams[i]; s.ID == receiver && (id == "" || id == s.ID) {
			return s, nil
		}
	}
	return nil, ErrNoStream
}

// Any reports whether there are streams at all.
func (t *Transmitter) Any() bool { return len(t.cfg.Streams) > 0 }

// Run pushes until ctx is done.
func (t *Transmitter) Run(ctx context.Context) {
	var pushing sync.WaitGroup
	for i := range t.cfg.Streams {
		if s := &t.cfg.Streams[i]; s.Push != "" {
			pushing.Go(func() { t.push(ctx, s) })
		}
	}
	pushing.Wait()
}

// most bounds how many notices are looked at, and held in memory, at a time.
const most = 64

// due is a notice that a receiver is to get, and the entry it is of.
type due struct {
	index  uint64
	notice token.Notice
}

// due returns notices that a stream's state says are due, in order, at most `most` and
// a few; next is where to look on when there are none.
func (t *Transmitter) due(ctx context.Context, s *Stream, st verifier.StreamState) (out []due, next uint64, err error) {
	if st.Asked > st.Verified {
		n := token.Notice{Audience: s.Audience, ID: s.id(st.Asked, token.Verification), Subject: s.ID, Type: token.Verification, State: st.State}
		out = append(out, due{st.Next, n})
	}
	next = st.Next
	for len(out) < most && next < t.cfg.Service.Log().Size() {
		found, to, err := t.cfg.Service.Occurrences(ctx, next)
		if err != nil {
			return nil, st.Next, err
		}
		for _, o := range found {
			for _, n := range s.notices(&o) {
				if !slices.Contains(st.Acked, n.ID) {
					out = append(out, due{o.Index, n})
				}
			}
		}
		next = to
	}
	return out, next, nil
}

// id is the same whenever a notice is made again, and no other's.
func (s *Stream) id(index uint64, kind string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "writ-notice-v1\x00%s\x00%s\x00%d\x00%s", s.ID, s.Audience, index, kind))
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// notices are what a receiver is told of an occurrence.
func (s *Stream) notices(o *verifier.Occurrence) (out []token.Notice) {
	add := func(kind string, compliant bool) {
		out = append(out, token.Notice{Audience: s.Audience, ID: s.id(o.Index, kind), Subject: o.Subject, Type: kind, At: o.At, By: o.By, Reason: o.Reason,
			Seq: o.Seq, Epoch: o.Epoch, Cause: o.Cause, Compliant: compliant})
	}
	switch o.Kind {
	case bundle.Issued:
		add(token.ComplianceChange, true)
	case bundle.Lapsed:
		add(token.ComplianceChange, false)
	case bundle.Revoked, bundle.Decided:
		add(token.SessionRevoked, false)
		add(token.ComplianceChange, false)
	default:
		add(token.SessionRevoked, false)
	}
	return out
}

// Verify asks for a verification event on a stream (SSF 1.0 section 8.1.4.2).
func (t *Transmitter) Verify(ctx context.Context, s *Stream, state string) error {
	_, err := t.cfg.Service.MoveStream(ctx, s.ID, func(st *verifier.StreamState) bool {
		st.Asked++
		st.State = state
		return true
	})
	return err
}

// Metadata is the transmitter's configuration (SSF 1.0 section 7.1) for an issuer.
func Metadata(issuer string) map[string]any {
	return map[string]any{
		"spec_version":               "1_0",
		"issuer":                     issuer,
		"jwks_uri":                   issuer + "/.well-known/jwks.json",
		"delivery_methods_supported": []string{PushMethod, PollMethod},
		"configuration_endpoint":     issuer + "/ssf/streams",
		"status_endpoint":            issuer + "/ssf/status",
		"verification_endpoint":      issuer + "/ssf/verify",
		"authorization_schemes":      []map[string]string{{"spec_urn": "urn:ietf:rfc:8705"}}, // a client certificate
		"default_subjects":           "ALL",
	}
}

// Describe is a stream's configuration (SSF 1.0 section 8.1.1) for an issuer.
func (s *Stream) Describe(issuer string) map[string]any {
	delivery := map[string]string{"method": PollMethod, "endpoint_url": issuer + "/ssf/poll/" + s.ID}
	if s.Push != "" {
		delivery = map[string]string{"method": PushMethod, "endpoint_url": s.Push}
	}
	return map[string]any{"stream_id": s.ID, "iss": issuer, "aud": s.Audience, "delivery": delivery,
		"events_supported": events, "events_requested": events, "events_delivered": events}
}
