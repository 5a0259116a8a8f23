package attestor

import (
	"context"
	"errors"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Lease gets a token for one execution. It rests on a base token younger than
// a third of its life, so that the execution gets nearly all of it.
func (a *Agent) Lease(ctx context.Context, req evidence.Request) (*protocol.Grant, error) {
	return further(ctx, a, func(v Verifier, base string) (*protocol.Grant, error) {
		key, _ := a.holder()
		g, err := v.Token(ctx, base, key, req)
		if err == nil {
			_, err = a.check(ctx, v, g.Token, req)
		}
		return g, err
	})
}

// Bearer gets a token that whoever has it may use, for an audience that the domain
// allows that for; workload is the path of a SPIFFE ID that the node may vouch for, ""
// its own. It ends with the base token.
func (a *Agent) Bearer(ctx context.Context, audience, workload string) (*protocol.Exchanged, error) {
	return further(ctx, a, func(v Verifier, base string) (*protocol.Exchanged, error) {
		key, _ := a.holder()
		return v.Exchange(ctx, base, key, audience, workload)
	})
}

// SVID gets an X509-SVID, which ends with the base token.
func (a *Agent) SVID(ctx context.Context, req protocol.SVIDRequest) (*protocol.SVID, error) {
	return further(ctx, a, func(v Verifier, base string) (*protocol.SVID, error) {
		key, _ := a.holder()
		return v.SVID(ctx, base, key, req)
	})
}

// SPIFFEBundle gets the SPIFFE bundle of the domain.
func (a *Agent) SPIFFEBundle(ctx context.Context) ([]byte, error) {
	var lost []error
	for i := range a.cfg.Verifiers {
		b, err := a.cfg.Verifiers[(a.preferred()+i)%len(a.cfg.Verifiers)].SPIFFEBundle(ctx)
		if err == nil {
			return b, nil
		}
		lost = append(lost, err)
	}
	return nil, errors.Join(lost...)
}

// further asks the verifiers in turn for something on the strength of a base token
// younger than a third of its life.
func further[T any](ctx context.Context, a *Agent, ask func(v Verifier, base string) (*T, error)) (*T, error) {
	if a.stale() {
		if err := a.attest(ctx, true); err != nil && a.current() == "" {
			return nil, err
		}
	}
	base := a.current()
	if base == "" {
		return nil, protocol.Refuse(protocol.TokenRevoked, "the node has no token: %s", a.Status().Problem)
	}
	out, err := inTurn(a, func(v Verifier) (*T, error) { return ask(v, base) })
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Code == protocol.TokenRevoked {
		if next := a.successor(base); next != "" {
			return inTurn(a, func(v Verifier) (*T, error) { return ask(v, next) })
		}
	}
	return out, err
}

// successor is the base token that has come in place of one, which was refused since a
// renewal was under way: the verifier knows of that before the agent does. It is "" if
// there is none.
func (a *Agent) successor(base string) string {
	a.attesting.Lock() // when the renewal has ended
	defer a.attesting.Unlock()
	if next := a.current(); next != base {
		return next
	}
	return ""
}

// inTurn asks the verifiers until one answers. A refusal is an answer.
func inTurn[T any](a *Agent, ask func(v Verifier) (*T, error)) (*T, error) {
	var lost []error
	for i := range a.cfg.Verifiers {
		v := a.cfg.Verifiers[(a.preferred()+i)%len(a.cfg.Verifiers)]
		g, err := ask(v)
		if r := (*protocol.Refusal)(nil); err == nil || errors.As(err, &r) {
			return g, err
		}
		lost = append(lost, err)
	}
	return nil, errors.Join(lost...)
}
