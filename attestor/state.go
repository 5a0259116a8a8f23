package attestor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/bundle"
)

// Enrolment is what provisioning leaves in the state directory: nothing of it
// is secret, the node's identity stays in its TPM.
type Enrolment struct {
	Domain     string   `json:"domain"`
	Node       string   `json:"node"`
	Generation uint32   `json:"generation"` // of the AK template
	Verifiers  []string `json:"verifiers"`  // https addresses, in order of preference
	CA         string   `json:"ca"`         // PEM of the TLS CA that verifiers answer with
}

// ErrNotEnrolled: the state directory holds no enrolment.
var ErrNotEnrolled = errors.New("this node is not enrolled")

// Files of the state directory.
const (
	enrolmentFile  = "node.json"
	trustFile      = "trust.json"
	checkpointFile = "checkpoint"
	tokenKeysFile  = "token-keys.json"
)

// Save writes the enrolment and the trust file into dir.
func (e *Enrolment) Save(dir string, trust *bundle.Trust) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("saving the enrolment: %w", err)
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("saving the enrolment: %w", err)
	}
	if err := durable.WriteFile(TrustPath(dir), trust.Marshal(), 0o644); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, enrolmentFile), append(b, '\n'), 0o644)
}

// Prepare makes sure that the enrolment of a node can be saved in dir, before a
// join token is spent on it: the directory can be written, and is not another
// node's or domain's.
func Prepare(dir, domain, node string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("preparing the state directory: %w", err)
	}
	e, err := LoadEnrolment(dir)
	if err == nil && (e.Domain != domain || e.Node != node) {
		return fmt.Errorf("preparing the state directory: %s belongs to node %s of %s; name another with --state, or move it away", dir, e.Node, e.Domain)
	}
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		return err
	}
	probe := filepath.Join(dir, ".probe")
	if err := durable.WriteFile(probe, []byte("writ\n"), 0o600); err != nil {
		return fmt.Errorf("preparing the state directory: %w", err)
	}
	return os.Remove(probe)
}

// LoadEnrolment reads what Save wrote.
func LoadEnrolment(dir string) (*Enrolment, error) {
	b, err := os.ReadFile(filepath.Join(dir, enrolmentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading %s: %w; run writ provision first", dir, ErrNotEnrolled)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the enrolment: %w%s", err, unreadable(err))
	}
	e := new(Enrolment)
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("reading the enrolment in %s: %w", dir, err)
	}
	return e, nil
}

// TrustPath is where the trust file of a state directory is.
func TrustPath(dir string) string { return filepath.Join(dir, trustFile) }

// LoadTrust reads the trust file of a state directory.
func LoadTrust(dir string) (*bundle.Trust, error) {
	b, err := os.ReadFile(TrustPath(dir))
	if err != nil {
		return nil, fmt.Errorf("reading the trust file: %w%s", err, unreadable(err))
	}
	return bundle.ParseTrust(b)
}

// unreadable is what to do about a file of the node's that this user may not read.
func unreadable(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("; user %d may not read it: run this as root or as the user that provisioned the node", os.Geteuid())
	}
	return ""
}
