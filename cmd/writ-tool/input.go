package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// readInput reads the file at path, or standard input for "-". More than limit
// bytes are an invalid input, not a partial one.
func readInput(cmd *cobra.Command, path string, limit int64) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, inputError(path, err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, inputError(path, err)
	}
	if int64(len(b)) > limit {
		return nil, exit(exitInvalid, fmt.Errorf("%s: more than %d bytes", path, limit), "give the log alone, not an image or archive with it")
	}
	return b, nil
}

func inputError(path string, err error) error {
	hint := ""
	if strings.HasPrefix(path, "/sys/kernel/security/") {
		switch {
		case errors.Is(err, os.ErrNotExist):
			hint = "check the path; it needs securityfs to be mounted, and the kernel to have measured"
		case errors.Is(err, os.ErrPermission):
			hint = "logs under /sys/kernel/security are readable by root only"
		}
	}
	return exit(exitFailed, fmt.Errorf("reading %s: %w", path, unwrapPath(err)), hint)
}

// wantJSON refuses a file that is another one than was meant, before a decoder does.
func wantJSON(path string, raw []byte, what, hint string) error {
	if json.Valid(raw) {
		return nil
	}
	return exit(exitInvalid, fmt.Errorf("%s: expected %s, which is one JSON object; found %d bytes that are none", path, what, len(raw)), hint)
}

// unwrapPath drops the operation and path that the os package puts before an error.
func unwrapPath(err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// writeJSON writes v as one line of JSON, text as it is (no HTML escapes).
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// A finding is how commands give one out, whatever found it.
type finding struct {
	Code   string `json:"code"`
	Event  *int   `json:"event,omitempty"` // index of the event or entry
	Detail string `json:"detail"`
	Next   string `json:"next"`
}

func newFinding(code string, event int, detail, next string) finding {
	f := finding{Code: code, Detail: detail, Next: next}
	if event >= 0 {
		f.Event = &event
	}
	return f
}

// printFindings lists findings for a person.
func printFindings(w io.Writer, fs []finding) {
	for _, f := range fs {
		at := ""
		if f.Event != nil {
			at = fmt.Sprintf(" (event %d)", *f.Event)
		}
		fmt.Fprintf(w, "%s%s: %s\n    next: %s\n", f.Code, at, f.Detail, f.Next)
	}
}
