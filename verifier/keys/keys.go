// Package keys holds the key material of one verifier: made once, before there
// is any history, and never silently replaced.
//
// A key that is lost and made anew would be another issuer and another log under
// the old name, so Open makes keys only where nothing was ever signed, and IDs
// lets the caller record them and refuse others later. Every purpose has a key of
// its own; Open refuses files in which two are the same.
//
// What DATA holds (files 0600, directories 0700, all PEM):
//
//	keys/log.pem          Ed25519, signs checkpoints under the name <domain>/log
//	keys/token.pem        P-256, signs tokens and events; the first of the domain
//	keys/token-KID.pem    as it, later ones by their ids
//	keys/tls-ca.pem       P-256 and certificate, signs the certificates verifiers answer with
//	keys/operator-ca.pem  P-256 and certificate, signs the certificates of operators
//	keys/svid-ca.pem      P-256 and certificate, signs X509-SVIDs of workloads; domains of before have none
//	keys/challenge.pem    32 bytes, authenticates challenges
//	operator.pem          certificate and key of the first operator, and the TLS CA to trust
package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/writ-attestation/writ/internal/durable"
)

// Keys is the key material of one verifier of a domain. It is safe for
// concurrent use.
type Keys struct {
	Log       ed25519.PrivateKey
	Tokens    *Ring
	Challenge []byte // 32 bytes

	SVIDs *SVIDs // nil: the domain is older than these

	domain   string
	tls      authority
	operator authority
}

// ErrMissing: there is history but not the keys that signed it. Restore them
// from a backup, or begin a new domain in an empty directory.
var ErrMissing = errors.New("keys are missing")

const (
	directory    = "keys"
	OperatorFile = "operator.pem" // of the first operator, within DATA

	privateBlock   = "PRIVATE KEY" // PKCS #8
	certBlock      = "CERTIFICATE"
	challengeBlock = "WRIT CHALLENGE KEY"

	logFile       = "log.pem"
	tokenFile     = "token.pem"
	challengeFile = "challenge.pem"
	tlsFile       = "tls-ca.pem"
	operatorFile  = "operator-ca.pem"
	svidFile      = "svid-ca.pem"
)

// SPIFFE-ID section 2.1; without a dash or dot at either end, which some readers
// of host names refuse. Its length is checked beside it: as a count in here it
// would cost every command 0.7 ms to compile.
var domainRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

const maxDomain = 255

// Open reads the keys of domain from the data directory. empty says that neither
// store nor log holds anything yet: only then are keys made where there are
// none, with a certificate for the first operator.
func Open(data, domain string, empty bool, at time.Time) (*Keys, error) {
	if len(domain) > maxDomain || !domainRE.MatchString(domain) {
		return nil, fmt.Errorf("opening the keys: %.100q is not a trust domain; expected lower-case letters, digits, dots and dashes", domain)
	}
	dir := filepath.Join(data, directory)
	_, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !empty:
		return nil, fmt.Errorf("opening the keys in %s: %w, but there is history; restore them from a backup", dir, ErrMissing)
	case errors.Is(err, fs.ErrNotExist):
		if err := create(data, domain, at); err != nil {
			return nil, fmt.Errorf("making the keys in %s: %w", dir, err)
		}
	case err != nil:
		return nil, fmt.Errorf("opening the keys: %w", err)
	}
	k, err := load(dir, domain)
	if err != nil {
		return nil, fmt.Errorf("opening the keys in %s: %w", dir, err)
	}
	first := filepath.Join(data, OperatorFile)
	if _, err := os.Stat(first); empty && errors.Is(err, fs.ErrNotExist) {
		id, err := k.IssueOperator(Operator{Name: "first", Roles: AllRoles()}, firstOperatorLife, at)
		if err != nil {
			return nil, err
		}
		// The write also syncs data, and with it the rename of keys.
		if err := durable.WriteFile(first, id, 0o600); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// create makes all keys in a directory beside keys and renames it: there are all
// of them or none.
func create(data, domain string, at time.Time) (err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	stale, _ := filepath.Glob(filepath.Join(data, ".keys.*")) // of a start that was interrupted
	for _, d := range stale {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(data, ".keys.") // 0700
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	_, logKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	tokenKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	challenge := make([]byte, 32)
	if _, err := rand.Read(challenge); err != nil {
		return err
	}
	files := map[string][]byte{challengeFile: pem.EncodeToMemory(&pem.Block{Type: challengeBlock, Bytes: challenge})}
	for name, key := range map[string]crypto.PrivateKey{logFile: logKey, tokenFile: tokenKey} {
		if files[name], err = marshalKey(key); err != nil {
			return err
		}
	}
	for name, use := range map[string]string{tlsFile: "TLS", operatorFile: "operator", svidFile: "SVID"} {
		if files[name], err = newAuthority(domain, use, at); err != nil {
			return err
		}
	}
	for name, b := range files {
		if err := durable.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(dir, filepath.Join(data, directory))
}

func load(dir, domain string) (*Keys, error) {
	k := &Keys{domain: domain}
	for _, f := range []struct {
		name string
		read func(*pem.Block, []byte) error
	}{
		{logFile, func(b *pem.Block, _ []byte) error { return parseKey(b, &k.Log) }},
		{tlsFile, func(b *pem.Block, rest []byte) error { return k.tls.parse(b, rest, domain) }},
		{operatorFile, func(b *pem.Block, rest []byte) error { return k.operator.parse(b, rest, domain) }},
		{challengeFile, func(b *pem.Block, _ []byte) error {
			if k.Challenge = b.Bytes; b.Type != challengeBlock || len(b.Bytes) != 32 {
				return fmt.Errorf("expected a %s of 32 bytes, found a %s of %d", challengeBlock, b.Type, len(b.Bytes))
			}
			return nil
		}},
	} {
		b, err := readPrivate(filepath.Join(dir, f.name))
		if err != nil {
			return nil, err
		}
		block, rest := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("reading %s: it is not PEM", f.name)
		}
		if err := f.read(block, rest); err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.name, err)
		}
	}
	var err error
	if k.SVIDs, err = loadSVIDs(dir, domain); err != nil {
		return nil, err
	}
	if k.Tokens, err = openRing(dir); err != nil {
		return nil, err
	}
	return k, k.distinct()
}

// readPrivate reads a file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrMissing)
	}
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %#o: others may have read the key; expected 0600", path, mode)
	}
	return os.ReadFile(path)
}

// distinct refuses one key for two purposes: what is signed for one could then
// be shown for the other.
func (k *Keys) distinct() error {
	purposes := make(map[string]string)
	keys := map[string]crypto.Signer{"log": k.Log, "tls-ca": k.tls.key, "operator-ca": k.operator.key}
	if k.SVIDs != nil {
		keys["svid-ca"] = k.SVIDs.key
	}
	for kid, r := range k.Tokens.keys {
		keys["token "+kid] = r.signer
	}
	for purpose, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return fmt.Errorf("reading the %s key: %w", purpose, err)
		}
		if other, ok := purposes[string(der)]; ok {
			return fmt.Errorf("the %s key is also the %s key; every purpose needs its own", purpose, other)
		}
		purposes[string(der)] = purpose
	}
	return nil
}

// IDs names every key by purpose, to be recorded in store and log. It says
// nothing of the secrets.
func (k *Keys) IDs() map[string]string {
	mac := hmac.New(sha256.New, k.Challenge)
	mac.Write([]byte("writ-challenge-key-id"))
	sum := sha256.Sum256(k.Log.Public().(ed25519.PublicKey))
	operator := sha256.Sum256(k.operator.cert.Raw)
	pin := k.Pin()
	ids := map[string]string{
		"log":         hex.EncodeToString(sum[:]),
		"token":       k.Tokens.first,
		"tls-ca":      hex.EncodeToString(pin[:]),
		"operator-ca": hex.EncodeToString(operator[:]),
		"challenge":   hex.EncodeToString(mac.Sum(nil)),
	}
	if k.SVIDs != nil {
		sum := sha256.Sum256(k.SVIDs.cert.Raw)
		ids["svid-ca"] = hex.EncodeToString(sum[:])
	}
	return ids
}

func marshalKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), nil
}

// parseKey reads a key of exactly the kind that into points to.
func parseKey[K crypto.Signer](b *pem.Block, into *K) error {
	if b.Type != privateBlock {
		return fmt.Errorf("expected a %s, found a %.40s", privateBlock, b.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return fmt.Errorf("decoding the key: %w", err)
	}
	k, ok := key.(K)
	if !ok {
		return fmt.Errorf("expected a key of type %T, found %T", *into, key)
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok && ec.Curve != elliptic.P256() {
		return fmt.Errorf("expected a key on P-256, found %s", ec.Curve.Params().Name)
	}
	*into = k
	return nil
}

// parseCertificate reads the certificate that comes first in b.
func parseCertificate(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(bytes.TrimSpace(b))
	if block == nil || block.Type != certBlock {
		return nil, errors.New("expected a certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("decoding the certificate: %w", err)
	}
	return cert, nil
}
