package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/writ-attestation/writ/tpm/ekroots"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/aia"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// exampleConfig is the manual of the configuration: every key with its default.
// A test holds it against the struct below.
//
//go:embed writd.toml
var exampleConfig []byte

// config is the configuration file. writd.toml explains each key.
type config struct {
	Domain             string     `toml:"domain"`
	Name               string     `toml:"name"`
	Data               string     `toml:"data"`
	Database           string     `toml:"database"`
	Peers              []string   `toml:"peers"`
	RetiredPeers       []string   `toml:"retired_peers"`
	Witnesses          string     `toml:"witnesses"`
	WitnessEvery       duration   `toml:"witness_every"`
	WitnessMaxAge      duration   `toml:"witness_max_age"`
	FollowEvery        duration   `toml:"follow_every"`
	Listen             string     `toml:"listen"`
	Admin              string     `toml:"admin"`
	Addresses          []string   `toml:"addresses"`
	Issuer             string     `toml:"issuer"`
	TokenLife          duration   `toml:"token_life"`
	TokenKeyLife       duration   `toml:"token_key_life"`
	TokenKeyOverlap    duration   `toml:"token_key_overlap"`
	RootTPM            string     `toml:"root_tpm"`
	EARProfile         string     `toml:"ear_profile"`
	Audiences          []string   `toml:"audiences"`
	ExchangeAudiences  []string   `toml:"exchange_audiences"`
	X509SVIDs          bool       `toml:"x509_svids"`
	Workloads          []workload `toml:"workloads"`
	MinLevel           string     `toml:"min_level"`
	ProveHaltEvery     duration   `toml:"prove_halt_every"` // 0: nodes need not prove that they can halt work
	EKRoots            []string   `toml:"ek_roots"`
	IAKRoots           []string   `toml:"iak_roots"`
	EKIssuerHosts      []string   `toml:"ek_issuer_hosts"`
	ReferenceKeys      []string   `toml:"reference_keys"`
	ReferenceThreshold int        `toml:"reference_threshold"`
	Approvals          int        `toml:"approvals"`
	PublicEntries      bool       `toml:"public_entries"`
	Public             opened     `toml:"public"`
	Streams            []stream   `toml:"streams"`
	LogLevel           string     `toml:"log_level"`
	LogFormat          string     `toml:"log_format"`

	Retention retention `toml:"retention"`
}

// opened is what anybody may see with a browser.
type opened struct {
	Pages    []string `toml:"pages"`
	Evidence bool     `toml:"evidence"` // on those pages: findings, and what was measured at boot
}

// workload is an identity that nodes of some classes may vouch for.
type workload struct {
	Path    string   `toml:"path"`
	Classes []string `toml:"classes"`
}

func (c *config) workloads() map[string][]string {
	out := map[string][]string{}
	for _, w := range c.Workloads {
		out[w.Path] = append(out[w.Path], w.Classes...)
	}
	return out
}

// duration is a time in Go's notation: "60s".
type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a time; write \"60s\"", b)
	}
	*d = duration(v)
	return nil
}

func defaults() config {
	return config{Name: "1", Data: "/var/lib/writd", Listen: "0.0.0.0:8443", Admin: "127.0.0.1:8444", TokenLife: duration(time.Minute), TokenKeyOverlap: duration(verifier.KeyOverlap), WitnessEvery: duration(2 * time.Second), WitnessMaxAge: duration(10 * time.Minute), FollowEvery: duration(30 * time.Second), EARProfile: "2026", MinLevel: "E3", Public: opened{Pages: []string{}},
		ReferenceThreshold: 1, Approvals: 2, LogLevel: "info", LogFormat: "json"}
}

// readConfig reads a file strictly: an unknown key is an error.
func readConfig(path string) (*config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return c, nil
}

func parseConfig(raw []byte) (*config, error) {
	c, err := decodeConfig(raw)
	if err != nil {
		return nil, err
	}
	return c, c.check()
}

// decodeConfig reads a configuration without looking at its values.
func decodeConfig(raw []byte) (*config, error) {
	c := defaults()
	d := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		var syntax *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			return nil, fmt.Errorf("unknown key:\n%s", strict.String())
		case errors.As(err, &syntax):
			line, col := syntax.Position()
			return nil, fmt.Errorf("line %d, column %d: %w", line, col, err)
		}
		return nil, err
	}
	return &c, nil
}

// openable are the pages that may be opened outside `writ dev`.
var openable = []string{"console", "proof", "health", "lineage"}

var domainRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,253}[a-z0-9])?$`)

// check reports everything wrong with the values at once.
func (c *config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !domainRE.MatchString(c.Domain) {
		bad("domain %q: a lower-case DNS name is needed, such as prod.example.org", c.Domain)
	}
	if !domainRE.MatchString(c.Name) {
		bad("name %q: letters, digits and hyphens are needed", c.Name)
	}
	if err := checkDatabase(c.Database); err != nil {
		errs = append(errs, err)
	}
	if c.Issuer != "" {
		if u, err := url.Parse(c.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			bad("issuer %q: an https URL without query is needed", c.Issuer)
		}
	}
	for key, addr := range map[string]string{"listen": c.Listen, "admin": c.Admin} {
		if _, err := net.ResolveTCPAddr("tcp", addr); err != nil {
			bad("%s %q: %w", key, addr, err)
		}
	}
	if host, _, err := net.SplitHostPort(c.Admin); err == nil && !loopback(host) {
		bad("admin %q: this listener has no authentication and must be on loopback", c.Admin)
	}
	if every := time.Duration(c.ProveHaltEvery); every != 0 && every < time.Minute {
		bad("prove_halt_every %v: expected 0 or at least 1m", every)
	}
	if life := time.Duration(c.TokenLife); life < 2*time.Second || life > 5*time.Minute {
		bad("token_life %s: 2s to 300s are possible", life)
	}
	if _, ok := token.Profile(c.EARProfile); !ok {
		bad("ear_profile %q: expected 2026 or veraison-2023", c.EARProfile)
	}
	errs = append(errs, c.checkTokenKeys())
	if !slices.Contains([]string{"E0", "E1", "E2", "E3", "E4"}, c.MinLevel) {
		bad("min_level %q: expected E0 to E4", c.MinLevel)
	}
	for _, page := range c.Public.Pages {
		if !slices.Contains(openable, page) {
			bad("public.pages: %q: expected some of %s", page, strings.Join(openable, ", "))
		}
	}
	if c.Approvals < 1 || c.ReferenceThreshold < 1 {
		bad("approvals and reference_threshold must be at least 1")
	}
	if n := len(c.ReferenceKeys); n > 0 && c.ReferenceThreshold > n {
		bad("reference_threshold %d: only %d reference_keys are listed", c.ReferenceThreshold, n)
	}
	errs = append(errs, c.checkOthers())
	if _, err := c.referenceKeys(); err != nil {
		bad("reference_keys: %w", err)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) || !slices.Contains([]string{"json", "text"}, c.LogFormat) {
		bad("log_level %q or log_format %q: expected debug, info, warn or error, and json or text", c.LogLevel, c.LogFormat)
	}
	errs = append(errs, c.checkReceivers())
	if err := c.Retention.check(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkTokenKeys checks what is said of the keys that sign tokens.
func (c *config) checkTokenKeys() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch life, overlap := time.Duration(c.TokenKeyLife), time.Duration(c.TokenKeyOverlap); {
	case overlap < time.Second:
		bad("token_key_overlap %s: at least 1s is needed, and %s unless no relying party keeps the key set", overlap, verifier.KeyOverlap)
	case life != 0 && life < 2*overlap:
		bad("token_key_life %s: expected 0 or at least twice token_key_overlap", life)
	case life != 0 && len(c.Peers) > 0:
		bad("token_key_life: with peers rotate by hand, for the file of the new key must be copied to them")
	}
	if c.RootTPM != "" && c.TokenKeyLife == 0 {
		bad("root_tpm: token_key_life is needed, such as \"24h\": the root certifies token keys for as long")
	}
	return errors.Join(errs...)
}

// checkOthers checks what is said of witnesses, other verifiers and other domains.
func (c *config) checkOthers() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p, err := bundle.ParsePolicy(c.Witnesses); err != nil {
		bad("witnesses: %w", err)
	} else if !p.Reachable() {
		bad("witnesses: the quorum takes witnesses without a URL, which this verifier cannot ask; it would never issue anything")
	}
	if age := time.Duration(c.WitnessMaxAge); age < 4*time.Duration(c.WitnessEvery) {
		bad("witness_max_age %s: at least four times witness_every is needed", age)
	}
	if every := time.Duration(c.WitnessEvery); every < 100*time.Millisecond {
		bad("witness_every %s: at least 100ms is needed", every)
	}
	if every := time.Duration(c.FollowEvery); every < 100*time.Millisecond {
		bad("follow_every %s: at least 100ms is needed", every)
	}
	if _, err := c.keyIDs(c.Peers); err != nil {
		bad("peers: %w", err)
	}
	if _, err := c.keyIDs(c.RetiredPeers); err != nil {
		bad("retired_peers: %w", err)
	}
	if slices.ContainsFunc(c.RetiredPeers, func(k string) bool { return slices.Contains(c.Peers, k) }) {
		bad("retired_peers: a key is under peers, too")
	}
	if len(c.Peers) > 0 && c.Database == "" {
		bad("peers: verifiers share a history in PostgreSQL only; set database")
	}
	return errors.Join(errs...)
}

// checkReceivers checks who gets identities and signals.
func (c *config) checkReceivers() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, w := range c.Workloads {
		if err := verifier.CheckWorkload(w.Path); err != nil {
			bad("workloads: %w", err)
		}
	}
	seen := map[string]bool{}
	for _, s := range c.Streams {
		if err := s.check(); err != nil {
			errs = append(errs, err)
		}
		if seen[s.Name] {
			bad("streams: %q is there twice", s.Name)
		}
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func (c *config) issuer() string {
	if c.Issuer != "" {
		return c.Issuer
	}
	return "https://" + c.Domain
}

func (c *config) referenceKeys() ([]ed25519.PublicKey, error) {
	var out []ed25519.PublicKey
	for _, text := range c.ReferenceKeys {
		k, err := reference.ParseKey(strings.TrimSpace(text) + "\n")
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// vendorRoots in ek_roots stands for the bundle of makers' roots that writd holds.
const vendorRoots = "vendors"

// ekBundle returns version and intermediates of the bundle if ek_roots names it.
func (c *config) ekBundle() (version string, intermediates [][]byte) {
	if !slices.Contains(c.EKRoots, vendorRoots) {
		return "", nil
	}
	return ekroots.Version, ekroots.Intermediates()
}

// issuers fetches from the listed hosts; nil when none is listed.
func (c *config) issuers() func(context.Context, *x509.Certificate) ([][]byte, error) {
	if len(c.EKIssuerHosts) == 0 {
		return nil
	}
	return aia.New(c.EKIssuerHosts).Issuers
}

// ekRoots reads the TPM makers' roots from the files that ek_roots names, and from
// the bundle.
func (c *config) ekRoots() ([][]byte, error) {
	var out [][]byte
	for _, path := range c.EKRoots {
		if path != vendorRoots {
			roots, err := readRoots("ek_roots", path)
			if err != nil {
				return nil, err
			}
			out = append(out, roots...)
			continue
		}
		bundled, err := ekroots.Roots()
		if err != nil {
			return nil, fmt.Errorf("reading ek_roots: %w", err)
		}
		for _, r := range bundled {
			out = append(out, r.DER)
		}
	}
	return out, nil
}

// iakRoots reads the roots of makers of devices.
func (c *config) iakRoots() ([][]byte, error) { return readRoots("iak_roots", c.IAKRoots...) }

// readRoots reads every file and directory of PEM files that a key names.
func readRoots(key string, paths ...string) ([][]byte, error) {
	var out [][]byte
	for _, path := range paths {
		files := []string{path}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			if files, err = filepath.Glob(filepath.Join(path, "*.pem")); err != nil {
				return nil, err
			}
		}
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w", key, err)
			}
			roots, err := parseRoots(raw)
			if err != nil {
				return nil, fmt.Errorf("reading %s %s: %w", key, f, err)
			}
			out = append(out, roots...)
		}
	}
	return out, nil
}

func parseRoots(raw []byte) ([][]byte, error) {
	var out [][]byte
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			if len(bytes.TrimSpace(raw)) > 0 {
				return nil, errors.New("text that is not PEM after the last certificate")
			}
			return out, nil
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("expected CERTIFICATE blocks, found %q", b.Type)
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return nil, err
		}
		out = append(out, b.Bytes)
	}
}
