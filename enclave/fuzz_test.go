package enclave

import (
	"bufio"
	"strings"
	"testing"
)

func FuzzParseLevel(f *testing.F) {
	f.Add("E3")
	f.Add("e3")
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := ParseLevel(s); err == nil && l.String() != s {
			t.Errorf("%q is read as %v", s, l)
		}
	})
}

// FuzzAgentAnswer: whatever an agent says, its answer has a status or is refused.
func FuzzAgentAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"token\":\"x\"}")
	f.Add("HTTP/1.0 403 Forbidden\n\n{}")
	f.Add(strings.Repeat("a: b\r\n", 100))
	f.Fuzz(func(t *testing.T, s string) {
		status, err := readHead(bufio.NewReader(strings.NewReader(s)))
		if err == nil && !strings.HasPrefix(s, "HTTP/1.") || err != nil && status != 0 && !strings.HasPrefix(s, "HTTP/1.") {
			t.Errorf("%q: status %d, %v", s, status, err)
		}
	})
}
