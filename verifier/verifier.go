// Package verifier is the verifier of a domain without its HTTP: it challenges,
// appraises, records and grants, and does what operators ask.
//
// One order holds everywhere: evidence is first found authentic, then judged by
// [appraisal.Appraise], then recorded together with the state it changes in one
// transaction, and only then answered. What the judgement rested on is looked
// at again under the head lock, so a reference withdrawn or a node revoked in
// between costs another appraisal, never a wrong token.
package verifier

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// Config is everything a Service needs. Policy fields left zero deny.
type Config struct {
	Domain string // trust domain, such as prod.example.org
	Name   string // of this verifier within the domain
	Issuer string // iss of tokens and events, an https URL
	Build  string // version, for ear_verifier_id
	Log    *ledger.Log
	Slog   *slog.Logger
	Now    func() time.Time

	SinceBoot func() time.Duration // CLOCK_BOOTTIME: nobody can set it
	Rand      io.Reader            // crypto/rand.Reader
	EKRoots   [][]byte             // DER of the TPM makers' roots
	IAKRoots  [][]byte             // DER of the roots of makers of devices

	EKVendors       string   // version of the bundle that EKRoots contains; "": none of it
	EKIntermediates [][]byte // DER; they complete chains and are never trusted by themselves

	// DialPeer reaches the verifier of another domain, which must be one of domain's by
	// the authority ca. nil: none is, so nothing of other domains counts.
	DialPeer func(url string, ca []byte, domain string) (*PeerLink, error)

	// Issuers fetches what a chain lacks; what it returns is never a root. nil: nothing is fetched.
	Issuers func(ctx context.Context, ek *x509.Certificate) ([][]byte, error)

	TokenKeys    *keys.Ring        // the private ones of this verifier
	TokenKeyLife time.Duration     // after which another key signs; 0: when operators say so
	KeyOverlap   time.Duration     // how long a token key is published before it signs; 0: KeyOverlap
	Root         crypto.Signer     // P-256: certifies token keys; nil: none does
	ReplaceRoot  bool              // another root than the recorded one, or none, is meant
	ChallengeKey []byte            // 32 bytes
	KeyIDs       map[string]string // purpose -> id, recorded in store and log
	Witnesses    string            // policy of the log's witnesses
	PeerLogKeys  []string          // ids of the log keys of the domain's other verifiers

	RetiredLogKeys []string // and of those that are one no more
	// WitnessMaxAge is how old the cosignatures of the witnesses' quorum may be for
	// anything to be issued. It is not looked at where the policy demands none.
	WitnessMaxAge time.Duration

	ReferenceKeys      []ed25519.PublicKey
	ReferenceThreshold int // signatures a set needs
	Approvals          int // distinct operators that activate a set or lift a freeze

	TokenLife  time.Duration
	EARProfile string // that tokens are written in: one of package token; "": token.Profile2026

	Audiences []string // further audiences nodes may ask for; the domain's enclave is always one
	Exchange  []string // audiences that bearer tokens are given for; none: there are none
	// Workloads are the classes of nodes that may vouch for a workload, by the path of its
	// SPIFFE ID. Others are given to nobody.
	Workloads  map[string][]string
	SVIDs      *keys.SVIDs // signs X509-SVIDs; nil: none are
	IssueSVIDs bool        // nodes may have them
	// ProveHaltEvery is how old a node's last proof that it can halt work may be
	// when it asks for a token for an execution at E2 or above. 0 asks for none.
	ProveHaltEvery time.Duration

	MinLevel string // lowest enforcement level a token is given for, "E0" to "E4"
}

// Service is one verifier. It is safe for concurrent use.
type Service struct {
	cfg   Config
	log   *ledger.Log
	hub   hub
	clock ledger.ClockGuard
	held  held
	rows  remembered
	facts facts
	lists lists
	ends  retiredLogs
	since atomic.Int64 // Unix second since when the feed remembers everything that was said
	acts  follower

	witnesses *bundle.Policy
	cosigned  atomic.Int64 // Unix second: see Policy.Since; 0: the quorum never did

	deadlines deadlines
	sets      sync.Map // parsed reference sets in force, by digest
	roots     [][]byte

	rootSums []string // hexadecimal SHA-256 of each, as decisions name them

	published  atomic.Pointer[published]
	refreshing sync.Mutex // one refresh of published at a time

	forged      atomic.Uint64
	forgedSince atomic.Int64
}

// errStale makes a commit appraise again: what it rested on has changed.
var errStale = errors.New("state changed since it was read")

// New checks the configuration, holds the keys against those recorded when the
// store was empty, and writes the entry that says this verifier has started.
// Nothing may be served before it returns.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.KeyOverlap == 0 {
		cfg.KeyOverlap = KeyOverlap
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	switch {
	case cfg.Domain == "" || cfg.Issuer == "" || cfg.Log == nil || cfg.Slog == nil:
		return nil, errors.New("starting the verifier: domain, issuer, log and logger are needed")
	case len(cfg.ChallengeKey) != 32 || cfg.TokenKeys == nil:
		return nil, errors.New("starting the verifier: a token key and a challenge key of 32 bytes are needed")
	case cfg.KeyOverlap < 0 || cfg.TokenKeyLife < 0 || cfg.TokenKeyLife != 0 && cfg.TokenKeyLife < 2*cfg.KeyOverlap:
		return nil, errors.New("starting the verifier: a token key must sign for longer than it is published before")
	case cfg.Root != nil && cfg.TokenKeyLife == 0:
		return nil, errors.New("starting the verifier: a root certifies token keys for as long as they sign; that must have an end")
	case cfg.SinceBoot == nil:
		return nil, errors.New("starting the verifier: a clock that counts since boot is needed")
	case cfg.TokenLife < 2*time.Second || cfg.TokenLife > token.MaxLife:
		return nil, fmt.Errorf("starting the verifier: token_life %s is not between 2s and %s", cfg.TokenLife, token.MaxLife)
	case !slices.Contains([]string{"E0", "E1", "E2", "E3", "E4"}, cfg.MinLevel):
		return nil, fmt.Errorf("starting the verifier: min_level %q is not one of E0 to E4", cfg.MinLevel)
	case cfg.ReferenceThreshold < 1 || cfg.Approvals < 1:
		return nil, errors.New("starting the verifier: reference_threshold and approvals must be at least 1")
	}
	if cfg.Root != nil {
		root, err := token.Thumbprint(cfg.Root.Public())
		if err != nil {
			return nil, fmt.Errorf("starting the verifier: reading the root key: %w", err)
		}
		cfg.KeyIDs = maps.Clone(cfg.KeyIDs)
		cfg.KeyIDs[rootPurpose] = root
	}
	s := &Service{cfg: cfg, log: cfg.Log, roots: cfg.EKRoots}
	var err error
	if s.witnesses, err = bundle.ParsePolicy(cfg.Witnesses); err != nil {
		return nil, fmt.Errorf("starting the verifier: %w", err)
	}
	s.since.Store(cfg.Now().Unix())
	if err := s.ClockSound(); err != nil { // the first reading
		return nil, err
	}
	for _, r := range s.roots {
		s.rootSums = append(s.rootSums, hexSum(r))
	}
	s.hub.init()
	s.held.init()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(s.refreshKeys(ctx), s.certifyKeys(ctx)); err != nil {
		return nil, err
	}
	s.recallWitnessed(ctx)
	return s, nil
}

// entry is a log entry about subject (a node id or another name), by actor.
func (s *Service) entry(kind, subject, actor string, data any) ledger.Entry {
	return ledger.Entry{Kind: kind, Subject: bundle.Subject(s.cfg.Domain, subject), Actor: bundle.Subject(s.cfg.Domain, actor), Data: data}
}

// NodeSubject is the sub of a node's tokens.
func (s *Service) NodeSubject(id string) string { return "spiffe://" + s.cfg.Domain + "/node/" + id }

// EnclaveAudience is the audience every node may ask for: its own enclave.
func (s *Service) EnclaveAudience() string { return "spiffe://" + s.cfg.Domain + "/enclave" }

// Domain returns the trust domain, Issuer the iss of its tokens.
func (s *Service) Domain() string { return s.cfg.Domain }

// Issuer returns the iss of the domain's tokens.
func (s *Service) Issuer() string { return s.cfg.Issuer }

// TokenLife is the longest a token lives.
func (s *Service) TokenLife() time.Duration { return s.cfg.TokenLife }

// Log is the domain's history, to read.
func (s *Service) Log() *ledger.Log { return s.log }

// Trust is what somebody needs to check this domain's bundles and tokens
// offline. It is public.
func (s *Service) Trust(logKeys ...string) (*bundle.Trust, error) {
	t := &bundle.Trust{V: 1, Domain: s.cfg.Domain, Log: logKeys, Root: s.cfg.KeyIDs[rootPurpose], TokenKeys: s.TokenKeys(), WitnessPolicy: s.cfg.Witnesses, Retired: s.retiredKeys()}
	if s.cfg.ReferenceThreshold > 1 {
		t.Threshold = s.cfg.ReferenceThreshold
	}
	if s.cfg.Issuer != "https://"+s.cfg.Domain {
		t.Issuer = s.cfg.Issuer
	}
	for _, k := range s.cfg.ReferenceKeys {
		t.ReferenceKeys = append(t.ReferenceKeys, reference.FormatKey(k))
	}
	for _, r := range s.roots {
		t.EKRoots = append(t.EKRoots, bundle.CertificatePEM(r))
	}
	for _, r := range s.cfg.IAKRoots {
		t.IAKRoots = append(t.IAKRoots, bundle.CertificatePEM(r))
	}
	return t, nil
}

// row reads and decodes one state row; ok is false when there is none.
func row[T any](ctx context.Context, s *Service, key ledger.Key) (v T, ok bool, err error) {
	b, ok, err := s.log.Get(ctx, key)
	if err != nil || !ok {
		return v, false, err
	}
	if err := unmarshalRow(b, key, &v); err != nil {
		return v, false, err
	}
	return v, true, nil
}

// slotRow is row under the head lock.
func slotRow[T any](slot ledger.Slot, key ledger.Key) (v T, ok bool, err error) {
	b, ok := slot.Row(key)
	if !ok {
		return v, false, nil
	}
	if err := unmarshalRow(b, key, &v); err != nil {
		return v, false, err
	}
	return v, true, nil
}

func unmarshalRow(b []byte, key ledger.Key, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s %s: %w", key.Kind, key.ID, err)
	}
	return nil
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("verifier: a state row does not marshal: " + err.Error())
	}
	return b
}

func put(kind, id string, v any) ledger.Put {
	return ledger.Put{Key: ledger.Key{Kind: kind, ID: id}, Value: encode(v)}
}

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// salted is a commitment to free text: the log shows the digest, the opening
// stays in a state row that can be pruned (security rule 24).
func (s *Service) salted(text string) (commitment string, opening []byte, err error) {
	salt := make([]byte, 16)
	if _, err := io.ReadFull(s.cfg.Rand, salt); err != nil {
		return "", nil, fmt.Errorf("drawing a salt: %w", err)
	}
	opening = encode(struct {
		Salt []byte `json:"salt"`
		Text string `json:"text"`
	}{salt, text})
	return hexSum(opening), opening, nil
}
