// Package caddy has the tests of writ gate behind Caddy's forward_auth.
package caddy
