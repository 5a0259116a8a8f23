// Package aia fetches the certificates of issuers from the addresses that TPM
// makers write into EK certificates (RFC 5280, 4.2.2.1).
//
// Whoever enrols writes the address, so only hosts an operator listed are asked.
// What comes back is as untrusted as what a node sends: never a root.
package aia

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Bounds of one chain.
const (
	maxDepth = 3
	maxSize  = 16 << 10
	maxTime  = 5 * time.Second
)

// Fetcher asks listed hosts. The zero value asks none.
type Fetcher struct {
	hosts  []string
	client *http.Client
}

// New makes a fetcher for hosts ("pki.infineon.com", "127.0.0.1:8080"). It
// follows no redirect and reads nothing from the environment.
func New(hosts []string) *Fetcher {
	return &Fetcher{hosts: hosts, client: &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirects are not followed") },
	}}
}

// Issuers returns the DER of up to three issuers above c, within five seconds;
// with an error, those that were found before it.
func (f *Fetcher) Issuers(ctx context.Context, c *x509.Certificate) (out [][]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	for range maxDepth {
		address := f.address(c)
		if address == "" {
			return out, nil
		}
		if c, err = f.get(ctx, address); err != nil {
			return out, fmt.Errorf("fetching the issuer at %.200q: %w", address, err)
		}
		out = append(out, c.Raw)
	}
	return out, nil
}

// address is the first one of c's whose host is listed, "" if there is none.
func (f *Fetcher) address(c *x509.Certificate) string {
	for _, text := range c.IssuingCertificateURL {
		u, err := url.Parse(text)
		if err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && slices.Contains(f.hosts, u.Host) {
			return u.String()
		}
	}
	return ""
}

func (f *Fetcher) get(ctx context.Context, address string) (*x509.Certificate, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("expected status 200, found %d", resp.StatusCode)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(der) > maxSize {
		return nil, fmt.Errorf("more than %d bytes", maxSize)
	}
	return x509.ParseCertificate(der)
}
