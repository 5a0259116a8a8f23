package verifier

import (
	"context"

	"github.com/writ-attestation/writ/verifier/reference"
)

// ActiveSet is activeSet, for tests of what is shared.
func (s *Service) ActiveSet(ctx context.Context, class string) (*reference.Signed, error) {
	return s.activeSet(ctx, class)
}
