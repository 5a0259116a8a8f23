package enclave

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// An argvPolicy lists the command lines that may be started. Each line of the file is
// one: words between blanks, of which the first is the command as it is called. A word
// that ends in "*" stands for any one argument that begins so; a last word "..." for any
// more arguments. Lines that begin with "#", and empty ones, say nothing.
//
// Command lines often hold what is nobody else's business, so it is the policy, by its
// digest, that a request names and the log records, and never the arguments.
type argvPolicy struct {
	lines  [][]string
	digest string
}

// Bounds of a policy, in bytes.
const maxPolicy = 64 << 10

func readArgvPolicy(path string) (*argvPolicy, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the argv policy: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPolicy+1))
	if err != nil {
		return nil, fmt.Errorf("reading the argv policy: %w", err)
	}
	p, err := parseArgvPolicy(b)
	if err != nil {
		return nil, fmt.Errorf("reading the argv policy %s: %w", path, err)
	}
	return p, nil
}

func parseArgvPolicy(b []byte) (*argvPolicy, error) {
	if len(b) > maxPolicy {
		return nil, fmt.Errorf("more than %d bytes", maxPolicy)
	}
	sum := sha256.Sum256(b)
	p := &argvPolicy{digest: "sha256:" + hex.EncodeToString(sum[:])}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		for i, w := range words {
			switch star := strings.IndexByte(w, '*'); {
			case i == 0 && (star >= 0 || w == "..."):
				return nil, fmt.Errorf("line %d: a command has to be named", n)
			case w == "..." && i != len(words)-1:
				return nil, fmt.Errorf(`line %d: "..." stands for what comes last`, n)
			case star >= 0 && star != len(w)-1:
				return nil, fmt.Errorf("line %d: %.80q: a * stands for the rest of one argument", n, w)
			}
		}
		p.lines = append(p.lines, words)
	}
	if len(p.lines) == 0 {
		return nil, errors.New("it allows no command line")
	}
	return p, nil
}

func (p *argvPolicy) allows(argv []string) bool {
	for _, line := range p.lines {
		if matches(line, argv) {
			return true
		}
	}
	return false
}

func matches(line, argv []string) bool {
	more := line[len(line)-1] == "..."
	if more {
		line = line[:len(line)-1]
	}
	if len(argv) < len(line) || len(argv) > len(line) && !more {
		return false
	}
	for i, w := range line {
		begin, any := strings.CutSuffix(w, "*")
		if argv[i] != w && !(any && strings.HasPrefix(argv[i], begin)) {
			return false
		}
	}
	return true
}

// permit reads the argv policy, if one is given, and holds the command line to it.
func (k *keeper) permit() error {
	if k.cfg.ArgvPolicy == "" {
		return nil
	}
	p, err := readArgvPolicy(k.cfg.ArgvPolicy)
	if err != nil {
		return &Refusal{Code: "run/argv", Err: err}
	}
	if !p.allows(k.cfg.Command) {
		return &Refusal{Code: "run/argv", Err: fmt.Errorf("the policy %s allows no such command line for %.200q", k.cfg.ArgvPolicy, k.cfg.Command[0]),
			Cure: "call it as the policy says, or have the policy changed"}
	}
	k.argv = p.digest
	return nil
}
