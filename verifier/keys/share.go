package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/writ-attestation/writ/internal/durable"
)

// Invitation is what a further verifier of a domain needs of one that is there.
// It holds the keys that all of them share and is as secret as those; by itself
// it lets nobody write the history, for the log key of the new verifier must
// become known to the others.
type Invitation struct {
	V          int               `json:"v"`
	Domain     string            `json:"domain"`
	Log        []string          `json:"log"`        // keys whose checkpoints are the domain's, in note format
	Checkpoint string            `json:"checkpoint"` // the history is never less than this
	Files      map[string][]byte `json:"files"`      // of the keys folder, without the log key
}

// sharedFiles are the keys that all verifiers of a domain have beside the token
// keys: nodes pin both authorities when they are provisioned, and take a challenge
// of one verifier to another. The log key is each verifier's own.
func sharedFiles() []string { return []string{tlsFile, operatorFile, challengeFile} }

// shared reports whether the files are those of sharedFiles and token keys, one at least.
func shared(files map[string][]byte) bool {
	rest := len(files)
	for _, name := range sharedFiles() {
		if _, ok := files[name]; !ok {
			return false
		}
		rest--
	}
	if _, ok := files[svidFile]; ok {
		rest--
	}
	for name := range files {
		if isTokenFile(name) {
			if rest--; rest == 0 {
				return true // nothing else is among them
			}
		}
	}
	return false
}

// Invite returns the invitation of the domain whose keys are in data, as a file.
func Invite(data, domain string, logKeys []string, checkpoint []byte) ([]byte, error) {
	in := Invitation{V: 1, Domain: domain, Log: logKeys, Checkpoint: string(checkpoint), Files: map[string][]byte{}}
	names, err := tokenFiles(filepath.Join(data, directory))
	if err != nil {
		return nil, fmt.Errorf("inviting a verifier: %w", err)
	}
	if _, err := os.Stat(filepath.Join(data, directory, svidFile)); err == nil {
		names = append(names, svidFile)
	}
	for _, name := range append(names, sharedFiles()...) {
		b, err := readPrivate(filepath.Join(data, directory, name))
		if err != nil {
			return nil, fmt.Errorf("inviting a verifier: %w", err)
		}
		in.Files[name] = b
	}
	return json.MarshalIndent(in, "", "  ")
}

// ParseInvitation reads an invitation to a domain.
func ParseInvitation(raw []byte, domain string) (*Invitation, error) {
	in := new(Invitation)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return nil, fmt.Errorf("reading the invitation: %w", err)
	}
	if in.V != 1 || in.Domain != domain || len(in.Log) == 0 || !shared(in.Files) {
		return nil, fmt.Errorf("reading the invitation: expected version 1 for %s with token keys and %v, found version %d for %.100q with %d files", domain, sharedFiles(), in.V, in.Domain, len(in.Files))
	}
	return in, nil
}

// Join makes the keys folder of a further verifier: those of the invitation, and
// a log key of its own. A directory that has keys is left alone.
func (in *Invitation) Join(data string) (_ *Keys, err error) {
	to := filepath.Join(data, directory)
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("joining: %s is there already; join with an empty data directory", to)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	dir, err := os.MkdirTemp(data, ".keys.") // 0700
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	files := map[string][]byte{}
	if files[logFile], err = marshalKey(own); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	for name, b := range in.Files {
		if block, _ := pem.Decode(b); block == nil {
			return nil, fmt.Errorf("joining: %s of the invitation is no PEM", name)
		}
		files[name] = b
	}
	for name, b := range files {
		if err := durable.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("joining: %w", err)
		}
	}
	if _, err := load(dir, in.Domain); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	if err := durable.Rename(dir, to); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	return Open(data, in.Domain, false, time.Time{})
}
