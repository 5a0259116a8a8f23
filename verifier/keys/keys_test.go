package keys_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-attestation/writ/verifier/keys"
)

const domain = "prod.example.org"

var at = time.Now()

func open(t *testing.T, data string, empty bool) *keys.Keys {
	t.Helper()
	k, err := keys.Open(data, domain, empty, at)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOpen(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	ids := open(t, data, true).IDs()
	if d := cmp.Diff(ids, open(t, data, false).IDs()); d != "" {
		t.Errorf("the keys changed with the second start:\n%s", d)
	}
	seen := make(map[string]string)
	for purpose, id := range ids {
		if other, ok := seen[id]; ok || len(id) < 43 {
			t.Errorf("the %s key has id %q, as has %q", purpose, id, other)
		}
		seen[id] = purpose
	}
	if len(ids) != 6 {
		t.Errorf("%d keys, expected 6: %v", len(ids), ids)
	}
	for name, id := range open(t, filepath.Join(t.TempDir(), "other"), true).IDs() {
		if ids[name] == id {
			t.Errorf("two domains have the same %s key", name)
		}
	}
	err := filepath.Walk(data, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLostKey: a lost key is not replaced, once or ever (security rule 23).
func TestLostKey(t *testing.T) {
	for _, name := range []string{"", "log.pem", "token.pem", "tls-ca.pem", "operator-ca.pem", "challenge.pem"} {
		data := t.TempDir()
		open(t, data, true)
		if err := os.RemoveAll(filepath.Join(data, "keys", name)); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Open(data, domain, false, at); !errors.Is(err, keys.ErrMissing) {
			t.Errorf("without keys/%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(data, "keys", name)); err == nil {
			t.Errorf("keys/%s was made anew", name)
		}
	}
}

// TestInterruptedStart: keys without an operator, before there is history.
func TestInterruptedStart(t *testing.T) {
	data := t.TempDir()
	ids := open(t, data, true).IDs()
	if err := os.Remove(filepath.Join(data, keys.OperatorFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(data, ".keys.123"), 0o700); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ids, open(t, data, true).IDs()); d != "" {
		t.Errorf("keys that signed nothing yet were replaced:\n%s", d)
	}
	if _, err := os.Stat(filepath.Join(data, keys.OperatorFile)); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(data, keys.OperatorFile)); err != nil {
		t.Fatal(err)
	}
	open(t, data, false)
	if _, err := os.Stat(filepath.Join(data, keys.OperatorFile)); err == nil {
		t.Error("the first operator's certificate came back though there is history")
	}
}

func TestSpoiltKeys(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"one key for two purposes": func(t *testing.T, dir string) { overwrite(t, dir, "token.pem", firstBlock(read(t, dir, "tls-ca.pem"))) },
		"one CA for two purposes":  func(t *testing.T, dir string) { overwrite(t, dir, "operator-ca.pem", read(t, dir, "tls-ca.pem")) },
		"key of another kind":      func(t *testing.T, dir string) { overwrite(t, dir, "log.pem", read(t, dir, "token.pem")) },
		"certificate of another key": func(t *testing.T, dir string) {
			overwrite(t, dir, "tls-ca.pem", append(firstBlock(read(t, dir, "tls-ca.pem")), rest(read(t, dir, "operator-ca.pem"))...))
		},
		"no certificate": func(t *testing.T, dir string) {
			overwrite(t, dir, "tls-ca.pem", firstBlock(read(t, dir, "tls-ca.pem")))
		},
		"truncated": func(t *testing.T, dir string) {
			b := read(t, dir, "log.pem")
			overwrite(t, dir, "log.pem", b[:len(b)/2])
		},
		"empty": func(t *testing.T, dir string) { overwrite(t, dir, "challenge.pem", nil) },
		"short challenge": func(t *testing.T, dir string) {
			overwrite(t, dir, "challenge.pem", pem.EncodeToMemory(&pem.Block{Type: "WRIT CHALLENGE KEY", Bytes: make([]byte, 16)}))
		},
		"readable by others": func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "token.pem"), 0o640); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			open(t, data, true)
			spoil(t, filepath.Join(data, "keys"))
			for _, empty := range []bool{true, false} {
				if _, err := keys.Open(data, domain, empty, at); err == nil {
					t.Errorf("opened, empty %t", empty)
				}
			}
		})
	}
}

// TestKeysOfAnotherDomain: a data directory moved under another configuration.
func TestKeysOfAnotherDomain(t *testing.T) {
	data := t.TempDir()
	open(t, data, true)
	if _, err := keys.Open(data, "other.example.org", false, at); err == nil || !strings.Contains(err.Error(), "another domain") {
		t.Error(err)
	}
	for _, d := range []string{"", "Prod", "a/b", "a:1", "-a", "a.", "a b", strings.Repeat("a", 300)} {
		if _, err := keys.Open(t.TempDir(), d, true, at); err == nil {
			t.Errorf("%q is a trust domain", d)
		}
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func overwrite(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func firstBlock(b []byte) []byte { return bytes.TrimSuffix(b, rest(b)) }

func rest(b []byte) []byte {
	_, r := pem.Decode(b)
	return r
}
