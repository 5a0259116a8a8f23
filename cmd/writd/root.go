package main

import (
	"errors"
	"fmt"

	"github.com/writ-attestation/writ/tpm/device"
)

// openRoot opens the TPM that holds the domain's root key, if the configuration names
// one. Without it nothing starts: keys it has not certified would count for nobody.
func (v *running) openRoot() error {
	if v.cfg.RootTPM == "" {
		return nil
	}
	t, err := device.Open(v.cfg.RootTPM)
	if err == nil {
		v.tpm = t
		v.root, err = t.Signer("token-keys/" + v.cfg.Domain)
	}
	if no := (*device.NoTPMError)(nil); errors.As(err, &no) {
		err = fmt.Errorf("%w; the domain's root key is in it (root_tpm). If that TPM is lost, see Token keys in docs/operations.md", err)
	}
	if err != nil {
		return unusable(fmt.Errorf("reading the root key: %w", err))
	}
	return nil
}
