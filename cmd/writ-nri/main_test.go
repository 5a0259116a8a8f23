package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/internal/manual"
)

func TestManual(t *testing.T) {
	var help strings.Builder
	if err := run(t.Context(), []string{"--help"}, &help); err != nil {
		t.Fatal(err)
	}
	text := help.String()
	_, flags, _ := strings.Cut(text, "Flags:\n")
	if !strings.HasPrefix(text, about) || !strings.Contains(flags, "-nri-socket path") {
		t.Errorf("--help says\n%s", text)
	}
	manual.Check(t, "../../docs/commands.md", "writ-nri", manual.Flags(text))
}

func TestMistakes(t *testing.T) {
	for _, args := range [][]string{{"extra"}, {"--nonsense"}, {"--index"}} {
		if err := run(context.Background(), args, io.Discard); !errors.As(err, new(misuse)) {
			t.Errorf("%q: %v, which is no usage error", args, err)
		}
	}
}
