//go:build js && wasm

// Command wasm is the checking core of /proof: the same pure code as `writ verify`,
// for the reader's browser. It fetches nothing. It sets three globals:
//
//	writCheck(file, trust, entry)  bytes and two texts: a report as JSON, or an object with "error"
//	writVerdict(bundle)            the verdict on a bundle's input, as it is hashed
//	writMost                       the largest file (bytes)
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall/js"
	"time"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
)

// checked is a report, what it is about, and the command that makes it too.
type checked struct {
	Kind    string `json:"kind"`
	Command string `json:"command"` // empty: there is none
	*bundle.Report
}

func main() {
	js.Global().Set("writMost", bundle.MaxSize)
	js.Global().Set("writCheck", js.FuncOf(func(_ js.Value, args []js.Value) any {
		c, err := check(bytesOf(args[0]), args[1].String(), args[2].String())
		var out []byte
		if err == nil {
			out, err = json.Marshal(c)
		}
		if err != nil {
			out, _ = json.Marshal(map[string]string{"error": err.Error()}) // strings always marshal
		}
		return string(out)
	}))
	js.Global().Set("writVerdict", js.FuncOf(func(_ js.Value, args []js.Value) any {
		b, err := bundle.Parse(bytesOf(args[0]))
		if err != nil {
			return err.Error()
		}
		v := appraisal.Appraise(b.Input)
		return string(v.Marshal())
	}))
	select {}
}

func bytesOf(v js.Value) []byte {
	b := make([]byte, v.Length())
	js.CopyBytesToGo(b, v)
	return b
}

// check tells by its beginning what the file is.
func check(raw []byte, trust, entry string) (c checked, err error) {
	var t *bundle.Trust
	if trust != "" {
		if t, err = bundle.ParseTrust([]byte(trust)); err != nil {
			return c, err
		}
	}
	text := strings.TrimSpace(string(raw))
	switch {
	case strings.HasPrefix(text, "{"):
		b, err := bundle.Parse(raw)
		if err != nil {
			return c, fmt.Errorf("this is not a bundle that Writ wrote: %w", err)
		}
		c = checked{"bundle", "writ verify bundle.json --trust trust.json --explain", bundle.Inspect(b)}
		if t != nil {
			c.Report = bundle.Verify(b, t)
		}
		c.Explain(b.Input)
		return c, nil
	case strings.HasPrefix(text, "c2sp.org/tlog-proof@"):
		entry = strings.TrimRight(entry, "\r\n")
		if entry == "" {
			return c, errors.New("a receipt proves an entry of the log: paste the entry too (writ log entry INDEX)")
		}
		return checked{"receipt", "writ log verify entry.json proof.txt --trust trust.json", bundle.InspectReceipt(string(raw), []byte(entry), t)}, nil
	case strings.Count(text, ".") == 2 && !strings.ContainsAny(text, " \t\r\n"):
		return checked{"token", "", bundle.InspectToken(text, t, time.Now())}, nil
	}
	return c, errors.New("this is neither a bundle (it begins with {), nor a receipt (c2sp.org/tlog-proof@v1), nor a token (three parts with dots between)")
}
