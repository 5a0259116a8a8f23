// Package oidc has the tests of Writ's discovery, keys and tokens with clients that
// relying parties use.
package oidc
