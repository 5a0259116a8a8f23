package attestor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// tokenKeys are the keys that tokens are checked with: those of the trust file, which
// stays as it was provisioned, and what the domain's log proved since. The proofs are
// kept beside it, and checked again whenever they are read.
type tokenKeys struct {
	mu   sync.Mutex
	book *rotation.Book
}

func (k *tokenKeys) open(cfg Config) (err error) {
	if k.book, err = rotation.New(cfg.Trust.Domain, cfg.Trust.Pins()); err != nil {
		return err
	}
	path := filepath.Join(cfg.Dir, tokenKeysFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var entries []rotation.Entry
	if err == nil {
		err = json.Unmarshal(raw, &entries)
	}
	if err == nil {
		_, err = k.book.Learn(entries)
	}
	if err != nil {
		cfg.Log.Warn("the token keys learned before count for nothing; the verifier is asked again", "file", path, "error", err)
	}
	return nil
}

func (k *tokenKeys) now() token.Keys {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.book.Keys(time.Now())
}

func (k *tokenKeys) proven() []rotation.Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.book.Proven()
}

// learn takes entries and keeps all that is known then in dir.
func (k *tokenKeys) learn(entries []rotation.Entry, dir string) (news bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	news, err = k.book.Learn(entries)
	if err != nil || !news {
		return false, err
	}
	if err := durable.WriteFile(filepath.Join(dir, tokenKeysFile), encodeKeys(k.book.Proven()), 0o644); err != nil {
		return true, fmt.Errorf("keeping what is known of token keys: %w", err)
	}
	return true, nil
}

func encodeKeys(entries []rotation.Entry) []byte {
	b, err := json.Marshal(entries)
	if err != nil {
		panic("attestor: entries of bytes do not marshal: " + err.Error())
	}
	return b
}

// fetchKeys asks a verifier what the log proves of token keys.
func (a *Agent) fetchKeys(ctx context.Context, v Verifier) error {
	keys, err := v.TokenKeys(ctx)
	if err != nil {
		return fmt.Errorf("asking for the token keys: %w", err)
	}
	return a.learnKeys(keys.Proven)
}

// learnKeys takes what the log proves of token keys and passes it on to the keepers.
// A base token whose key counts no more is given up, and another asked for at once.
func (a *Agent) learnKeys(entries []rotation.Entry) error {
	news, err := a.keys.learn(entries, a.cfg.Dir)
	if news {
		a.tell(Push{Keys: entries})
		a.giveUp()
	}
	return err
}

// giveUp forgets the base token if its key counts no more.
func (a *Agent) giveUp() {
	keys := a.keys.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.base == "" || keys.Key(token.KeyID(a.base)) != nil {
		return
	}
	a.base, a.state.Legitimate, a.state.Problem = "", false, "the key that signed the token was withdrawn"
	select {
	case a.renew <- struct{}{}:
	default:
	}
}
