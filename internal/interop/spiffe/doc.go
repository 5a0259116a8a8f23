// Package spiffe holds JWT-SVIDs of ours against go-spiffe; tests only.
package spiffe
