package verifier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ekroots"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Limits of provisioning.
const (
	activationTime = 60 * time.Second
	joinTokenLife  = 24 * time.Hour
	maxEKs         = 8
)

// joinToken is a stored join token: only its hash.
type joinToken struct {
	ID      string `json:"id"`
	Hash    string `json:"hash"`
	Class   string `json:"class"`
	EK      string `json:"ek,omitempty"` // hexadecimal SHA-256 of the one TPMT_PUBLIC it is for
	Expires int64  `json:"expires"`
	UsedBy  string `json:"used_by,omitempty"` // node id
	Revoked bool   `json:"revoked,omitempty"`
}

// enrollment is the stored half of an activation: one try, a minute.
type enrollment struct {
	Request protocol.EnrollRequest `json:"request"`           // without the join token's secret
	Join    string                 `json:"join"`              // id
	Secret  string                 `json:"secret"`            // hexadecimal SHA-256 over the secrets in order
	Known   bool                   `json:"known"`             // every EK certificate chains to a configured root
	Unknown string                 `json:"unknown,omitempty"` // why not
	Expires int64                  `json:"expires"`
	Device  *Device                `json:"device,omitempty"`  // whose IAK the request holds
	Vouched bool                   `json:"vouched,omitempty"` // known by its IAK alone
}

// Enroll checks the join token, then the keys, and answers with credentials
// that only the right TPM can activate. Nothing is spent before it has.
func (s *Service) Enroll(ctx context.Context, req protocol.EnrollRequest) (*protocol.EnrollChallenge, error) {
	if err := s.ClockSound(); err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	join, err := s.checkJoin(ctx, req.JoinToken, now)
	if err != nil {
		return nil, err
	}
	ak, unknown, err := s.checkKeys(ctx, &req, now)
	if err != nil {
		return nil, err
	}
	device, lacking, err := s.checkDevice(ctx, &req, ak, now)
	if err != nil {
		return nil, err
	}
	vouched := unknown != "" && device != nil
	switch {
	case vouched:
		unknown = ""
	case unknown != "" && lacking != "":
		unknown += "; " + lacking
	}
	out := &protocol.EnrollChallenge{Expires: now.Add(activationTime).UTC()}
	all := sha256.New()
	for i, ek := range req.EKs {
		secret := make([]byte, 32)
		if _, err := io.ReadFull(s.cfg.Rand, secret); err != nil {
			return nil, fmt.Errorf("drawing a credential: %w", err)
		}
		pub, err := tpm.ParsePublic(ek.Public)
		if err != nil {
			return nil, protocol.Refuse(protocol.EnrollmentRefused, "EK %d: %v", i, err)
		}
		blob, enc, err := tpm.MakeCredential(s.cfg.Rand, pub, ak.Name(), secret)
		if err != nil {
			return nil, protocol.Refuse(protocol.EnrollmentRefused, "EK %d: %v", i, err)
		}
		out.Credentials = append(out.Credentials, protocol.Credential{Blob: blob, Secret: enc})
		all.Write(secret)
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(s.cfg.Rand, id); err != nil {
		return nil, fmt.Errorf("drawing an enrolment id: %w", err)
	}
	out.ID = hex.EncodeToString(id)
	req.JoinToken = ""
	e := enrollment{Request: req, Join: join.ID, Secret: hex.EncodeToString(all.Sum(nil)), Known: unknown == "", Unknown: unknown, Expires: out.Expires.Unix(), Device: device, Vouched: vouched}
	stale, err := s.staleEnrollments(ctx, now)
	if err != nil {
		return nil, err
	}
	_, err = s.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Puts: append(stale, put(kindEnrollment, out.ID, e))}, nil
	}})
	return out, err
}

// staleEnrollments removes some of those that nobody answered in time, so that
// they do not pile up.
func (s *Service) staleEnrollments(ctx context.Context, now time.Time) ([]ledger.Put, error) {
	rows, err := s.log.List(ctx, kindEnrollment, "", 16)
	if err != nil {
		return nil, err
	}
	var out []ledger.Put
	for _, r := range rows {
		var e enrollment
		if err := decode(r.Value, &e); err != nil {
			return nil, fmt.Errorf("reading enrolment %s: %w", r.Key.ID, err)
		}
		if now.Unix() >= e.Expires {
			out = append(out, ledger.Put{Key: r.Key})
		}
	}
	return out, nil
}

// checkJoin comes before any work on keys, so that strangers cost nothing.
func (s *Service) checkJoin(ctx context.Context, text string, now time.Time) (*joinToken, error) {
	t, err := keys.ParseJoinToken(text)
	if err != nil {
		return nil, &protocol.Refusal{Code: protocol.JoinTokenRefused, Detail: err.Error()}
	}
	j, ok, err := row[joinToken](ctx, s, ledger.Key{Kind: kindJoin, ID: t.ID})
	if err != nil {
		return nil, err
	}
	sum := t.Hash()
	if !ok || subtle.ConstantTimeCompare([]byte(j.Hash), []byte(hex.EncodeToString(sum[:]))) != 1 {
		return nil, protocol.Refuse(protocol.JoinTokenRefused, "the join token is not one of this domain")
	}
	if err := j.usable(now); err != nil {
		return nil, err
	}
	return &j, nil
}

func (j *joinToken) usable(now time.Time) error {
	switch {
	case j.Revoked:
		return protocol.Refuse(protocol.JoinTokenRefused, "join token %s was revoked; ask for a new one", j.ID)
	case j.UsedBy != "":
		return protocol.Refuse(protocol.JoinTokenRefused, "join token %s was used by node %s; each is good once", j.ID, j.UsedBy)
	case now.Unix() >= j.Expires:
		return protocol.Refuse(protocol.JoinTokenRefused, "join token %s expired at %s; ask for a new one", j.ID, time.Unix(j.Expires, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// checkKeys holds the AK against our template and every EK against its
// certificate; unknown says why the maker of one of them is not confirmed.
func (s *Service) checkKeys(ctx context.Context, req *protocol.EnrollRequest, now time.Time) (ak *tpm.Public, unknown string, err error) {
	ak, err = tpm.ParsePublic(req.AK)
	if err == nil {
		err = tpm.CheckAK(ak, s.cfg.Domain, req.Generation)
	}
	if err != nil {
		return nil, "", protocol.Refuse(protocol.EnrollmentRefused, "the attestation key: %v", err)
	}
	if len(req.EKs) == 0 || len(req.EKs) > maxEKs {
		return nil, "", protocol.Refuse(protocol.EnrollmentRefused, "expected 1 to %d endorsement keys, found %d", maxEKs, len(req.EKs))
	}
	seen := map[string]bool{}
	for i, ek := range req.EKs {
		pub, err := tpm.ParsePublic(ek.Public)
		if err != nil {
			return nil, "", protocol.Refuse(protocol.EnrollmentRefused, "EK %d: %v", i, err)
		}
		if err := checkEK(pub, ek.Certificate); err != nil {
			return nil, "", protocol.Refuse(protocol.EnrollmentRefused, "EK %d: %v", i, err)
		}
		if seen[ekID(ek)] {
			return nil, "", protocol.Refuse(protocol.EnrollmentRefused, "EK %d is presented twice", i)
		}
		seen[ekID(ek)] = true
		if err := s.endorse(ctx, &req.EKs[i], now); err != nil && unknown == "" {
			unknown = fmt.Sprintf("EK %d: %v", i, err) // the node can still be approved by hand
		}
	}
	return ak, unknown, nil
}

// checkEK accepts a key without a certificate, which stays unconfirmed.
func checkEK(ek *tpm.Public, certificate []byte) error {
	if len(certificate) == 0 {
		return tpm.CheckBareEK(ek)
	}
	cert, err := tpm.ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("reading its certificate: %w", err)
	}
	return tpm.CheckEK(ek, cert)
}

// endorse confirms the maker of an EK. What the TPM does not carry of its chain
// comes from the bundle's intermediates and is kept with the node, so that its
// later appraisals rest on the same certificates.
func (s *Service) endorse(ctx context.Context, ek *protocol.EK, now time.Time) error {
	if len(ek.Certificate) == 0 {
		return errors.New("the TPM carries no certificate, so nobody vouches for it")
	}
	given := append(parseCerts(ek.Chain), parseCerts(s.cfg.EKIntermediates)...)
	chain, err := tpm.EKChain(ek.Certificate, parseCerts(s.roots), given, now)
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		chain, err = s.lengthen(ctx, ek, given, now, err)
	}
	if err != nil {
		return err
	}
	ek.Chain = nil
	for _, c := range issuers(chain) {
		ek.Chain = append(ek.Chain, c.Raw)
	}
	return nil
}

// lengthen fetches what a chain lacks where that is configured, and says of which
// maker the bundle has no root.
func (s *Service) lengthen(ctx context.Context, ek *protocol.EK, given []*x509.Certificate, now time.Time, why error) ([]*x509.Certificate, error) {
	cert, err := tpm.ParseCertificate(ek.Certificate)
	if err != nil {
		return nil, err
	}
	if s.cfg.Issuers != nil {
		more, err := s.cfg.Issuers(ctx, cert)
		if err != nil {
			s.cfg.Slog.WarnContext(ctx, "an EK's issuer was not fetched", "error", err)
		}
		if chain, err := tpm.EKChain(ek.Certificate, parseCerts(s.roots), append(given, parseCerts(more)...), now); err == nil {
			return chain, nil
		}
	}
	if absent := ekroots.Absent(cert); absent != "" && s.cfg.EKVendors != "" {
		why = errors.New(absent)
	}
	return nil, why
}

// ekID is how a key is known: see [bundle.EKID].
func ekID(ek protocol.EK) string { return bundle.EKID(ek.Public, ek.Certificate) }

func parseCerts(der [][]byte) []*x509.Certificate {
	var out []*x509.Certificate
	for _, d := range der {
		if c, err := tpm.ParseCertificate(d); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// Activate ends an enrolment: the secrets prove that AK and EKs live in one
// TPM. Spending the token and enrolling the node are one transaction, and a
// wrong answer spends the try.
func (s *Service) Activate(ctx context.Context, id string, secrets [][]byte) (*protocol.Enrolled, error) {
	key := ledger.Key{Kind: kindEnrollment, ID: id}
	e, ok, err := row[enrollment](ctx, s, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, protocol.Refuse(protocol.EnrollmentRefused, "no enrolment waits under this id: each can be tried once, within %s", activationTime)
	}
	all := sha256.New()
	for _, sec := range secrets {
		all.Write(sec)
	}
	right := subtle.ConstantTimeCompare([]byte(e.Secret), []byte(hex.EncodeToString(all.Sum(nil)))) == 1 && len(secrets) == len(e.Request.EKs)
	if !right || s.cfg.Now().Unix() >= e.Expires {
		_, err := s.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Puts: []ledger.Put{{Key: key}}}, nil
		}})
		if err != nil {
			return nil, err
		}
		return nil, protocol.Refuse(protocol.EnrollmentRefused, "the TPM did not open the credentials in time: AK and EK are not of one TPM, or the answer is late")
	}
	return s.enrol(ctx, key, &e)
}

func (s *Service) enrol(ctx context.Context, key ledger.Key, e *enrollment) (*protocol.Enrolled, error) {
	first, err := tpm.ParsePublic(e.Request.EKs[0].Public)
	if err != nil {
		return nil, fmt.Errorf("reading the stored EK: %w", err)
	}
	id := tpm.NodeID(first)
	joinKey := ledger.Key{Kind: kindJoin, ID: e.Join}
	akKey := ledger.Key{Kind: kindAK, ID: hexSum(e.Request.AK)}
	lock := []ledger.Key{key, joinKey, nodeKey(id), akKey}
	for _, ek := range e.Request.EKs {
		lock = append(lock, ledger.Key{Kind: kindEK, ID: ekID(ek)})
	}
	if e.Device != nil {
		lock = append(lock, e.Device.key())
	}
	var n Node
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: lock, Build: func(slot ledger.Slot) (ledger.Change, error) {
		if _, ok := slot.Row(key); !ok {
			return ledger.Change{}, protocol.Refuse(protocol.EnrollmentRefused, "this enrolment was tried already")
		}
		join, _, err := slotRow[joinToken](slot, joinKey)
		if err != nil {
			return ledger.Change{}, err
		}
		if err := join.usable(slot.At); err != nil {
			return ledger.Change{}, err
		}
		if n, err = s.admit(slot, id, e, &join); err != nil {
			return ledger.Change{}, err
		}
		join.UsedBy = id
		change := ledger.Change{Puts: []ledger.Put{{Key: key}, put(kindJoin, join.ID, join), put(kindNode, id, n), put(akKey.Kind, akKey.ID, id), put(kindSubject, bundle.Subject(s.cfg.Domain, id), id)}}
		data := bundle.Enrolled{AK: hexSum(n.AK), Generation: n.Generation, Class: n.Class, Status: n.Status}
		for _, ek := range n.EKs {
			change.Puts = append(change.Puts, put(kindEK, ekID(ek), id))
			data.EK = append(data.EK, bundle.Subject(s.cfg.Domain, ekID(ek)))
		}
		if e.Device != nil {
			key := e.Device.key()
			change.Puts = append(change.Puts, put(key.Kind, key.ID, id))
			data.Device = bundle.Subject(s.cfg.Domain, key.ID)
		}
		change.Entries = []ledger.Entry{s.entry(bundle.NodeEnrolled, id, "join-token/"+join.ID, data)}
		return change, nil
	}})
	if err != nil {
		return nil, err
	}
	return &protocol.Enrolled{Node: id, Status: n.Status, Reason: e.Unknown, Class: n.Class, Subject: s.NodeSubject(id), Receipt: receipts[0].Proof}, nil
}

// admit makes the node's row, or takes the existing one of the same TPM. A
// second TPM never takes an existing name, and evidence never ends a
// revocation.
func (s *Service) admit(slot ledger.Slot, id string, e *enrollment, join *joinToken) (Node, error) {
	n, exists, err := slotRow[Node](slot, nodeKey(id))
	if err != nil {
		return n, err
	}
	if exists && (n.Status == Revoked || n.Status == Retired) {
		return n, protocol.Refuse(protocol.EnrollmentRefused, "node %s is %s, which is final", id, n.Status)
	}
	if exists && !bytes.Equal(n.EKs[0].Public, e.Request.EKs[0].Public) {
		return n, protocol.Refuse(protocol.EnrollmentRefused, "node %s belongs to another TPM", id)
	}
	keys := []ledger.Key{{Kind: kindAK, ID: hexSum(e.Request.AK)}}
	for _, ek := range e.Request.EKs {
		keys = append(keys, ledger.Key{Kind: kindEK, ID: ekID(ek)})
	}
	if e.Device != nil {
		keys = append(keys, e.Device.key())
	}
	for _, k := range keys {
		owner, taken, err := slotRow[string](slot, k)
		if err != nil {
			return n, err
		}
		if taken && owner != id {
			return n, protocol.Refuse(protocol.EnrollmentRefused, "a key of this TPM, or its device, belongs to node %s", owner)
		}
	}
	if !exists {
		n = Node{ID: id, Status: Pending, State: Initialized}
	}
	if join.EK != "" && join.EK != hexSum(e.Request.EKs[0].Public) {
		return n, protocol.Refuse(protocol.JoinTokenRefused, "join token %s is for another TPM", join.ID)
	}
	if e.Known && join.EK != "" && n.Status == Pending {
		n.Status = Active
	}
	n.Class, n.EKs, n.AK, n.Generation = join.Class, e.Request.EKs, e.Request.AK, e.Request.Generation
	n.IAK, n.Device, n.Vouched = e.Request.IAK, e.Device, e.Vouched
	n.Enrolled, n.Entry, n.Boot, n.IMAChunks, n.Doubt = slot.At.Unix(), slot.Index, nil, nil, false
	n.Counter++ // challenges handed out to the former key are void
	return n, nil
}
