package bundle

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

const noTrust = "no trust file: whose keys signed was not checked, and anybody can make a file that holds in itself"

// Inspect checks what needs no key of a trust file: that the input gives the
// verdict, and that the log's entry records it. All else is skipped, so that the
// result is partial, or invalid; what the verdict says counts for nothing as long
// as nobody vouches for it.
func Inspect(b *Bundle) *Report {
	r := new(Report)
	v := appraisal.Appraise(b.Input)
	r.summarize(&v)
	r.skip("signer", noTrust)
	r.verdict(b, &v)
	if len(b.Entry) == 0 {
		r.skip("history", "the bundle holds no log entry: it was collected offline, not decided by a verifier")
	} else {
		r.entry(b, &v, r.decided(b, b.Input.Challenge.Domain, new(proven)))
	}
	r.conclude(true)
	return r
}

// InspectToken checks a token by itself, as of at: with the trust file's keys, for
// the audience that it names, once at the second it was issued and once at at. A
// token that held and has ended is denied, not invalid. Whether its holder has
// its key is not seen here. t may be nil: see [Inspect].
func InspectToken(tok string, t *Trust, at time.Time) *Report {
	r := new(Report)
	if t == nil {
		r.skip("signer", noTrust)
		r.conclude(true)
		return r
	}
	issued, audience, err := claimed(tok)
	if err != nil {
		r.check("issued", err, "")
		r.conclude(false)
		return r
	}
	want := token.Expect{Issuer: t.IssuerURL(), Audience: audience, Domain: t.Domain}
	keys, err := t.keysAt(issued.Unix())
	var c *token.Claims
	if err == nil {
		c, err = token.Verify(tok, keys, want, issued)
	}
	if err != nil {
		r.check("issued", err, "")
		r.conclude(false)
		return r
	}
	r.check("issued", nil, "%s for %s, signed by a key of the trust file, good from %s to %s", c.Subject, c.Audience, issued.Format(time.RFC3339), time.Unix(c.Expires, 0).UTC().Format(time.RFC3339))
	_, err = token.Verify(tok, t.TokenKeys, want, at)
	if err != nil {
		r.skip("now", err.Error())
	} else {
		r.check("now", nil, "good at %s", at.UTC().Format(time.RFC3339))
		r.skip("revocation", "whether it was revoked since is not in the token: ask the verifier")
	}
	r.conclude(err == nil)
	return r
}

// claimed is what a token says of itself, of which nothing is believed.
func claimed(tok string) (issued time.Time, audience string, err error) {
	var c struct {
		Issued   int64  `json:"iat"`
		Audience string `json:"aud"`
	}
	if len(tok) > token.MaxSize {
		return issued, "", fmt.Errorf("reading the token: %d bytes, at most %d are allowed", len(tok), token.MaxSize)
	}
	parts := strings.Split(tok, ".")
	if len(parts) != 3 {
		return issued, "", fmt.Errorf("reading the token: expected three parts with dots between, found %d", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if err != nil {
		return issued, "", fmt.Errorf("reading the token: %w", err)
	}
	return time.Unix(c.Issued, 0).UTC(), c.Audience, nil
}

// InspectReceipt checks that entry (a leaf's bytes) stands in the trust file's
// log, as a receipt says. t may be nil: see [Inspect].
func InspectReceipt(receipt string, entry []byte, t *Trust) *Report {
	r := new(Report)
	leaf, err := ledger.ParseLeaf(entry)
	r.check("entry", err, "%s at %s, about %s", leaf.Kind, time.Unix(leaf.At, 0).UTC().Format(time.RFC3339), leaf.Subject)
	p, err := ledger.ParseProof(receipt)
	switch {
	case err != nil:
		r.check("receipt", err, "")
	case t == nil:
		r.skip("signer", noTrust)
	default:
		index, cp, err := t.CheckProof(receipt, entry)
		r.check("receipt", err, "entry %d of %s, under a checkpoint of %d entries signed by the log's key", index, cp.Origin, cp.Size)
		r.cosigned(t, p.Note)
	}
	r.conclude(true)
	return r
}
