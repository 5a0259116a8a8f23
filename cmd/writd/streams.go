package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/ssf"
)

// stream is a party outside of the domain that is told of legitimacy.
type stream struct {
	Name          string `toml:"name"`
	Audience      string `toml:"audience"`
	Push          string `toml:"push"`
	Authorization string `toml:"authorization"` // file
	CA            string `toml:"ca"`            // file
}

func (s *stream) check() error {
	if !domainRE.MatchString(s.Name) || len(s.Name) > 64 || strings.Contains(s.Name, ".") {
		return fmt.Errorf("streams: name %q: lower-case letters, digits and hyphens are needed", s.Name)
	}
	if s.Audience == "" {
		return fmt.Errorf("streams: %s: an audience is needed", s.Name)
	}
	u, err := url.Parse(s.Push)
	if s.Push != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil) {
		return fmt.Errorf("streams: %s: push %q: an https URL is needed", s.Name, s.Push)
	}
	if s.Push == "" && (s.Authorization != "" || s.CA != "") {
		return fmt.Errorf("streams: %s: authorization and ca are of a stream with push", s.Name)
	}
	return nil
}

// receivers makes the streams ready that are configured.
func (c *config) receivers() (all []ssf.Stream, err error) {
	for _, s := range c.Streams {
		out := ssf.Stream{ID: s.Name, Audience: s.Audience, Push: s.Push}
		if s.Authorization != "" {
			raw, err := os.ReadFile(s.Authorization)
			if err != nil {
				return nil, unusable(fmt.Errorf("streams: reading the authorization of %s: %w", s.Name, err))
			}
			out.Header = strings.TrimSpace(string(raw))
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}
		if s.CA != "" {
			raw, err := os.ReadFile(s.CA)
			if err != nil {
				return nil, unusable(fmt.Errorf("streams: reading the ca of %s: %w", s.Name, err))
			}
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(raw) {
				return nil, unusable(fmt.Errorf("streams: %s holds no certificate", s.CA))
			}
			transport.TLSClientConfig.RootCAs = pool
		}
		out.Client = ssf.Receiver(transport)
		all = append(all, out)
	}
	return all, nil
}
