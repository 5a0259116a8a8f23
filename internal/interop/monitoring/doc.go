// Package monitoring holds docs/monitoring against Prometheus's own parsers and a
// running verifier.
package monitoring
