package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/token"
)

// Ring is the private token keys of one verifier by their ids (RFC 7638). Which of
// them signs is not its matter. It is safe for concurrent use.
type Ring struct {
	dir   string // of the key files; empty: in memory alone
	first string // the only key of a domain that is new

	mu   sync.Mutex
	keys map[string]ringKey
}

type ringKey struct {
	signer crypto.Signer
	file   string
}

// NewRing makes a ring of keys that are kept elsewhere. Those that it makes itself
// end with it.
func NewRing(signers ...crypto.Signer) (*Ring, error) {
	r := &Ring{keys: map[string]ringKey{}}
	for _, s := range signers {
		kid, err := token.Thumbprint(s.Public())
		if err != nil {
			return nil, fmt.Errorf("making a ring of token keys: %w", err)
		}
		r.keys[kid] = ringKey{signer: s}
		if r.first == "" {
			r.first = kid
		}
	}
	if r.first == "" {
		return nil, errors.New("making a ring of token keys: there is none")
	}
	return r, nil
}

func openRing(dir string) (*Ring, error) {
	r := &Ring{dir: dir, keys: map[string]ringKey{}}
	if err := r.Reload(); err != nil {
		return nil, err
	}
	if r.first == "" {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, tokenFile), ErrMissing)
	}
	return r, nil
}

// tokenFiles are the names of the token keys in a keys folder, the oldest name first.
func tokenFiles(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		if isTokenFile(e.Name()) {
			out = append(out, e.Name())
		}
	}
	slices.SortFunc(out, func(a, b string) int { return len(a) - len(b) })
	return out, nil
}

func tokenFileOf(kid string) string { return "token-" + kid + ".pem" }

// isTokenFile reports whether a name is that of a token key, and nothing of a path.
func isTokenFile(name string) bool {
	kid := strings.TrimSuffix(strings.TrimPrefix(name, "token-"), ".pem")
	b, err := secretEncoding.DecodeString(kid)
	return name == tokenFile || err == nil && len(b) == 32 && name == tokenFileOf(kid)
}

// Reload takes up files that have come since: copied from another verifier.
func (r *Ring) Reload() error {
	if r.dir == "" {
		return nil
	}
	names, err := tokenFiles(r.dir)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		raw, err := readPrivate(filepath.Join(r.dir, name))
		if err != nil {
			return err
		}
		var key *ecdsa.PrivateKey
		block, _ := pem.Decode(raw)
		if block == nil {
			return fmt.Errorf("reading %s: it is not PEM", name)
		}
		if err := parseKey(block, &key); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		kid, err := token.Thumbprint(key.Public())
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		if name != tokenFile && name != tokenFileOf(kid) {
			return fmt.Errorf("reading %s: it holds the key %s", name, kid)
		}
		if r.first == "" {
			r.first = kid
		}
		r.keys[kid] = ringKey{key, name}
	}
	return nil
}

// Signer returns a key, nil if it is not held here.
func (r *Ring) Signer(kid string) crypto.Signer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[kid].signer
}

// First is the key that a new domain begins with.
func (r *Ring) First() (kid string, key crypto.Signer) { return r.first, r.Signer(r.first) }

// Make makes a key and keeps it.
func (r *Ring) Make() (kid string, public crypto.PublicKey, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, fmt.Errorf("making a token key: %w", err)
	}
	if kid, err = token.Thumbprint(key.Public()); err != nil {
		return "", nil, fmt.Errorf("making a token key: %w", err)
	}
	file := ""
	if r.dir != "" {
		raw, err := marshalKey(key)
		if err != nil {
			return "", nil, err
		}
		file = tokenFileOf(kid)
		if err := durable.WriteFile(filepath.Join(r.dir, file), raw, 0o600); err != nil {
			return "", nil, fmt.Errorf("keeping a token key: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[kid] = ringKey{key, file}
	return kid, key.Public(), nil
}

// Drop forgets a key and deletes its file. One that is not held is dropped already.
func (r *Ring) Drop(kid string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.keys[kid]
	if !ok {
		return nil
	}
	if k.file != "" {
		if err := os.Remove(filepath.Join(r.dir, k.file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting a token key: %w", err)
		}
	}
	delete(r.keys, kid)
	return nil
}
