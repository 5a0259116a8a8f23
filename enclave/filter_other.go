//go:build !amd64

package enclave

import (
	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/calls"
)

func callFilters() ([][]unix.SockFilter, error) { return calls.Assemble() }
