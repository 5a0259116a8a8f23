//go:build js && wasm

// Command wasm is the checking core of /proof: the same pure code as `writ verify`,
// for the reader's browser. It sets the global writCheck(bundle, trust), which
// takes a bundle's bytes and a trust file's text and gives a report as JSON, or an
// object with "error". It fetches nothing.
package main

import (
	"encoding/json"
	"fmt"
	"syscall/js"

	"github.com/writ-attestation/writ/verifier/bundle"
)

func main() {
	js.Global().Set("writCheck", js.FuncOf(func(_ js.Value, args []js.Value) any {
		raw := make([]byte, args[0].Length())
		js.CopyBytesToGo(raw, args[0])
		r, err := check(raw, args[1].String())
		var out []byte
		if err == nil {
			out, err = json.Marshal(r)
		}
		if err != nil {
			out, _ = json.Marshal(map[string]string{"error": err.Error()}) // strings always marshal
		}
		return string(out)
	}))
	select {}
}

// check does what `writ verify` does. Without a trust file nothing of a signer is
// checked, and the report says so.
func check(raw []byte, trust string) (*bundle.Report, error) {
	b, err := bundle.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	if trust == "" {
		return bundle.Judge(b.Input, nil), nil
	}
	t, err := bundle.ParseTrust([]byte(trust))
	if err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	return bundle.Verify(b, t), nil
}
