package appraisal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/writ-attestation/writ/tpm"
)

// Authentic is evidence whose quote the enrolled AK signed for this challenge.
// Only such evidence may move a node's state: anybody can send the rest.
type Authentic struct {
	in    *Input
	quote *tpm.Quote
}

// Authenticate does the cheap half of an appraisal: key, signature, signer,
// purpose and binding. It parses no log. When it fails, the findings say why
// and nothing of the evidence may be believed, stored or answered in detail.
func Authenticate(in *Input) (*Authentic, []Finding) {
	var r report
	q := authenticate(in, &r)
	if len(r.findings) > 0 {
		return nil, r.findings
	}
	return &Authentic{in: in, quote: q}, nil
}

func authenticate(in *Input, r *report) *tpm.Quote {
	if in.Evidence == nil {
		r.say(evidenceMissing, "evidence", "none", "send evidence")
		return nil
	}
	k := in.attestationKey()
	r.did("key", 0, func() string { return in.keyWords(k) })
	if k.err != nil {
		r.say(evidenceKey, "an enrolled attestation key", k.err.Error(), "provision the node: writ provision")
		return nil
	}
	ak := k.public
	mark := r.mark()
	q, err := ak.VerifyQuote(in.Evidence.Quote.Attest, in.Evidence.Quote.Signature)
	if err != nil {
		r.say(quoteSignature, "a TPM quote signed by the enrolled AK", err.Error(), "provision the node again if its TPM was replaced or cleared")
	}
	r.did("signature", mark, func() string {
		return fmt.Sprintf("TPMS_ATTEST SHA-256 %s, signature SHA-256 %s, by %s", hexSum(in.Evidence.Quote.Attest), hexSum(in.Evidence.Quote.Signature), algorithm(ak))
	})
	if err != nil {
		return nil
	}
	mark = r.mark()
	defer func() {
		r.did("binding", mark, func() string { return in.Challenge.words() + ", over " + bound(in.Evidence) })
	}()
	c := in.Challenge
	if len(c.Nonce) != 32 {
		r.say(quoteChallenge, "a challenge nonce of 32 bytes", fmt.Sprintf("%d bytes", len(c.Nonce)), "ask for a new challenge")
		return nil
	}
	want := c.Nonce
	switch c.Binding {
	case BoundWrit:
		if k.unlike != nil {
			r.say(quoteKey, "an attestation key made by Writ's template for "+c.Domain, k.unlike.Error(), "provision the node again")
		}
		if err := ak.CheckSigner(q); err != nil {
			r.say(quoteSigner, "a key of the TPM's endorsement hierarchy", err.Error(), "provision the node again")
		}
		r.did("signer", mark, func() string { return fmt.Sprintf("qualifiedSigner %x", q.Signer) })
		mark = r.mark()
		b := in.Evidence.Binding(c.Purpose, c.Domain, c.Node, [32]byte(c.Nonce))
		want = b[:]
	case BoundRaw:
	default:
		r.say(quoteChallenge, "a known binding", fmt.Sprintf("%.40q", c.Binding), "use writ")
		return nil
	}
	if !bytes.Equal(q.ExtraData, want) {
		r.say(quoteBinding, "a quote over "+hex.EncodeToString(want), hex.EncodeToString(q.ExtraData),
			"quote anew: this one was made for another nonce, node, domain, purpose or for other items")
	}
	return q
}

// attestationKey is the fact of what an enrolled AK is.
type attestationKey struct {
	public *tpm.Public
	err    error // it is no key
	unlike error // it is none of the domain's template
}

func (in *Input) attestationKey() *attestationKey {
	key := "ak/" + in.Challenge.Domain + "/" + strconv.FormatUint(uint64(in.Prior.Generation), 10) + "/" + string(in.Prior.AK)
	if in.Memory != nil {
		if k, ok := in.Memory.Recall(key).(*attestationKey); ok {
			return k
		}
	}
	k := new(attestationKey)
	if k.public, k.err = tpm.ParsePublic(in.Prior.AK); k.err == nil {
		k.unlike = tpm.CheckAK(k.public, in.Challenge.Domain, in.Prior.Generation)
	}
	if in.Memory != nil {
		in.Memory.Keep(key, k)
	}
	return k
}

func (in *Input) keyWords(k *attestationKey) string {
	if k.err != nil {
		return "SHA-256 " + hexSum(in.Prior.AK)
	}
	return fmt.Sprintf("AK %x, generation %d of %s", k.public.Name(), in.Prior.Generation, in.Challenge.Domain)
}
