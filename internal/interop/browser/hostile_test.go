package browser

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// attacks are texts that some part of a browser could take for more than text. Whatever
// of it ran would set window.hurt.
var attacks = []string{
	`<img src=x onerror=window.hurt=1>`,
	`"><script>window.hurt=1</script>`,
	`</script><script>window.hurt=1</script>`,
	`</style><svg/onload=window.hurt=1>`,
	`</title></textarea><iframe srcdoc='<script>parent.hurt=1</script>'>`,
	`javascript:window.hurt=1`,
	`' onfocus='window.hurt=1' autofocus='`,
	"${window.hurt=1}{{constructor.constructor('window.hurt=1')()}}",
	`<a href="data:text/html,<script>parent.hurt=1</script>">x</a>`,
	`<style>*{display:none}</style>`,
	`red;background:url(//evil.invalid/x)`,
	`<!--`, `]]>`, `&lt;b&gt;&#60;i&#62;`, `__proto__`, `constructor`,
	"gnp.exe\u202egpj.doc", "line\nbreak\tand\x1b[31mred", "\ufeff\u200b\u2066isolated",
	"<b>" + strings.Repeat("longer than any column ", 20) + "</b>",
}

// escaped is how the verifier writes text of a node's that was measured.
func escaped(s string) string { return strings.Trim(strconv.Quote(s), `"`) }

// maker is an organisation that certifies devices, or says so.
const maker = `Maker <img src=x onerror=window.hurt=1>`

// witness is a line of a witness policy whose names are an attack.
func witness() string {
	const name = `w<svg/onload=window.hurt=1>`
	key := append([]byte{4}, make([]byte, ed25519.PublicKeySize)...)
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	return fmt.Sprintf("witness %s %s+%08x+%s\nquorum none\n", name, name, binary.BigEndian.Uint32(sum[:]), base64.StdEncoding.EncodeToString(key))
}

// audience is one that the domain's operators allow.
const audience = "https://x.invalid/\"><img src=x onerror=window.hurt=1>\u202ecod"

// hostile is what a node has done whose every word is an attack.
type hostile struct {
	*machine
	exec, parent string
	token        string
	events       []string // texts of the boot log, as they are to be shown
	files        []string // names of files
}

// newHostile enrols a node, has it booted and trusted, then denied, then booted anew.
// class and ids are words that a careless table has members of.
func newHostile(t *testing.T, l *lab) *hostile {
	t.Helper()
	h := &hostile{machine: l.join(t, "constructor"), exec: "constructor", parent: "valueOf"}
	var events, later []eventlog.Event
	for i, a := range attacks {
		switch i % 4 {
		case 0:
			events = append(events, event(8, eventlog.IPL, a, "grub_cmd: "+a))
		case 1:
			events = append(events, event(4, eventlog.EFIAction, a, a))
		case 2:
			events = append(events, event(4, eventlog.BootServicesApp, a, loaded(a)))
		case 3:
			events = append(events, event(1, eventlog.VariableBoot2, variable(a), variable(a)))
		}
		h.events = append(h.events, escaped(a))
		later = append(later, event(5, eventlog.EFIAction, "later "+a, "later "+a))
		h.files = append(h.files, "/"+strings.ReplaceAll(a, "/", "\\"))
	}
	var files [][]byte
	for i, f := range h.files {
		files = append(files, file("ima-ng", f, fmt.Sprint(i), 0))
	}
	h.boot(events, files...)
	publish := h.learn(1, func(s *reference.Set) {
		for i := range s.PCRs {
			if s.PCRs[i].PCR == 1 {
				s.PCRs[i] = reference.PCR{PCR: 1, Rule: reference.Ignore, Why: attacks[0]}
			}
		}
		s.Rules = []reference.Rule{{Name: "constructor", Expr: `"<img src=x onerror=window.hurt=1>" == "</script>"`, Claim: reference.FileSystem, Value: 32, Why: attacks[4]}}
	})
	ctx := t.Context()
	if _, err := l.api.Publish(ctx, publish); err != nil {
		t.Fatal(err)
	}
	if _, err := l.api.SetStatus(ctx, h.node, protocol.StatusChange{Status: "active", Reason: attacks[0]}); err != nil {
		t.Fatal(err)
	}
	h.work(ctx)

	h.measure(file("d-ng|n-ng|"+attacks[0], "/usr/bin/"+strings.ReplaceAll(attacks[0], "/", "\\"), "unknown", 1))
	h.denied(ctx)
	h.must(h.chip.PowerCycle(true), "rebooting")
	for i, f := range h.files {
		files[i] = file("ima-ng", f, fmt.Sprint("changed ", i), 0)
	}
	h.boot(append(events[1:], later...), files...)
	h.denied(ctx)
	return h
}

// denied attests and is refused.
func (h *hostile) denied(ctx context.Context) {
	h.Helper()
	_, err := h.ask(ctx, request("again", "", ""))
	if no := (*protocol.Refusal)(nil); !errors.As(err, &no) {
		h.Fatalf("expected a denial, found %v", err)
	}
}

// work gets a token for an execution, and reports its end with a cause of the node's
// own making.
func (h *hostile) work(ctx context.Context) {
	h.Helper()
	a := h.agent()
	defer a.Close()
	g, err := a.Lease(ctx, request("__proto__", h.exec, h.parent))
	h.must(err, "asking for a token")
	h.token = g.Token
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	h.must(a.Stopped(bundle.Stop{Exec: h.exec, Cause: "constructor", Level: "E2"}), "reporting the stop")
	until(h.T, "the stop to be recorded", func() bool {
		waiting, err := filepath.Glob(filepath.Join(h.dir, "stops", "*.json"))
		return err == nil && len(waiting) == 0
	})
	cancel()
	<-ended
}

// request is for a token, for an execution or none.
func request(id, exec, parent string) evidence.Request {
	return evidence.Request{Audience: audience, Level: "E2", Execution: exec, Parent: parent, Workload: "sha256:" + strings.Repeat("0", 64), R: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), ID: id}
}
