package main

import (
	"testing"

	"github.com/writ-attestation/writ/internal/manual"
)

func TestManual(t *testing.T) {
	manual.Check(t, "../../docs/commands.md", "writ", manual.Table(newRoot()))
}
