package lineage_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"sort"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
)

// history is a log of two runs, the second started by the first; with before, as
// it was before that entry.
func history(t *testing.T, before ...uint64) *lineage.Log {
	t.Helper()
	var l lineage.Log
	add := func(index uint64, kind, subject string, data any) {
		if len(before) > 0 && index >= before[0] {
			return
		}
		raw, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Add(index, ledger.Leaf{Kind: kind, At: 1_800_000_000 + int64(index), Subject: subject, Actor: "verifier/1", Data: raw}); err != nil {
			t.Fatal(err)
		}
	}
	wl := "sha256:" + strings.Repeat("ab", 32)
	add(0, bundle.VerifierStarted, "verifier/1", bundle.Started{})
	add(1, bundle.Issued, "n1", bundle.Decision{Decision: "grant", References: strings.Repeat("01", 32), Evidence: strings.Repeat("02", 32), Token: &bundle.Token{ID: "a"}})
	add(2, bundle.Admitted, "n1", bundle.Token{ID: "b", Exec: "run-1", Workload: wl, WorkloadBasis: "asserted", Keeper: wl, KeeperBasis: "asserted", Image: "sha256:" + strings.Repeat("1a", 32), Level: "E3", Base: 1})
	add(3, bundle.Admitted, "n1", bundle.Token{ID: "c", Exec: "run-2", Parent: "run-1", Level: "E3", Base: 1})
	add(4, bundle.Admitted, "n1", bundle.Token{ID: "d", Exec: "run-1", Workload: wl, WorkloadBasis: "measured", Level: "E3", Base: 1})
	add(5, bundle.Admitted, "n2", bundle.Token{ID: "e", Exec: "run-1", Level: "E0"})
	add(6, bundle.Terminated, "n2", bundle.Stop{Exec: "run-1", Cause: "forged"})
	add(7, bundle.Terminated, "n1", bundle.Stop{Exec: "run-1", Cause: "exited", Deadline: 1 << 60, Confirmed: true})
	return &l
}

func of(t *testing.T, exec string) *lineage.Lineage {
	t.Helper()
	l, err := history(t).Of("a.invalid", exec)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLineage(t *testing.T) {
	l := of(t, "run-1")
	var got []string
	for _, e := range l.Execution.Events {
		got = append(got, fmt.Sprint(e.Event, e.Index))
	}
	if want := "authorized1 admitted2 renewed4 terminated7"; strings.Join(got, " ") != want {
		t.Errorf("events %v, want %s", got, want)
	}
	if x := l.Execution; !x.Ended || x.Basis != "measured" || x.KBasis != "asserted" || x.IBasis != "asserted" || x.Image != "sha256:"+strings.Repeat("1a", 32) || fmt.Sprint(x.Children) != "[run-2]" || x.Node != "n1" {
		t.Errorf("execution is %+v", x)
	}
	child := of(t, "run-2")
	if len(child.Parents) != 1 || child.Parents[0].ID != "run-1" || child.Execution.Ended || child.Execution.Basis != "none" || child.Execution.IBasis != "none" {
		t.Errorf("lineage of run-2 is %+v", child)
	}
	if early, err := history(t, 4).Of("a.invalid", "run-1"); err != nil || early.Execution.Basis != "asserted" {
		t.Errorf("before it was measured: %+v, %v", early, err)
	}
	if _, err := history(t).Of("a.invalid", "run-3"); !errors.Is(err, lineage.ErrUnknown) {
		t.Errorf("unknown run: %v", err)
	}
}

func TestInToto(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	raw, err := of(t, "run-1").InToto(key)
	if err != nil {
		t.Fatal(err)
	}
	var env struct {
		Payload, PayloadType string
		Signatures           []struct{ Sig string }
	}
	if err := json.Unmarshal(raw, &env); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(env.Payload)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(env.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	pae := fmt.Sprintf("DSSEv1 28 application/vnd.in-toto+json %d %s", len(payload), payload)
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(pae), sig) {
		t.Error("the envelope's signature does not verify")
	}
	for _, want := range []string{`"subject":[{"name":"run-1","digest":{"sha256":"abab`, `"verificationResult":"PASSED"`, `"WRIT_WORKLOAD_MEASURED"`, `"workload_basis":"measured"`, `"keeper_basis":"asserted"`, `"image":"sha256:1a1a`, `"image_basis":"asserted"`, `"policy":{"uri":"urn:writ:a.invalid:references","digest":{"sha256":"0101`} {
		if !strings.Contains(string(payload), want) {
			t.Errorf("the statement lacks %s: %s", want, payload)
		}
	}
	if _, err := of(t, "run-2").InToto(key); !errors.Is(err, lineage.ErrNoSubject) {
		t.Errorf("a run without workload: %v", err)
	}
}

// TestEG0010Chain recomputes the chain with hashes and canonical form written
// here from FIPS 202, RFC 7693 and the words of RFC-EG-0010.
func TestEG0010Chain(t *testing.T) {
	if got, want := hex.EncodeToString(keccak512([]byte("abc")))[:16], "b751850b1a57168a"; got != want {
		t.Fatalf("SHA3-512 of abc begins with %s, want %s", got, want)
	}
	if got, want := hex.EncodeToString(blake512([]byte("abc")))[:16], "ba80a53f981c4d0d"; got != want {
		t.Fatalf("BLAKE2b-512 of abc begins with %s, want %s", got, want)
	}
	raw, err := of(t, "run-1").EG0010()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var doc map[string]any
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if text := sorted(doc); text != string(raw) {
		t.Errorf("the document is not canonical:\n%s\n%s", raw, text)
	}
	events := doc["events"].([]any)
	if len(events) != 4 || doc["rfc"] != "RFC-EG-0010" || doc["operation_id"] != "run-1" {
		t.Fatalf("document is %s", raw)
	}
	if p := events[0].(map[string]any)["payload"].(map[string]any); p["workload_basis"] != "measured" || p["keeper_basis"] != "asserted" || p["image_basis"] != "asserted" || p["image"] == "" {
		t.Errorf("payload %v", p)
	}
	prev, prevB := any(nil), any(nil)
	for i, e := range events {
		e := e.(map[string]any)
		chash, chashB := e["chash"], e["chash_b"]
		if e["prev_hash"] != prev || e["prev_hash_b"] != prevB || e["seq"].(json.Number).String() != fmt.Sprint(i+1) {
			t.Errorf("event %d does not follow the one before", i)
		}
		delete(e, "chash")
		delete(e, "chash_b")
		text, tail, tailB := sorted(e), "genesis", "genesis"
		if i > 0 {
			tail, tailB = prev.(string), prevB.(string)
		}
		if want := fmt.Sprintf("sha3-512:%x", keccak512([]byte(text+tail))); chash != want {
			t.Errorf("event %d: chash %s, want %s", i, chash, want)
		}
		if want := fmt.Sprintf("blake2b-512:%x", blake512([]byte(text+tailB))); chashB != want {
			t.Errorf("event %d: chash_b %s, want %s", i, chashB, want)
		}
		prev, prevB = chash, chashB
	}
}

// sorted is JSON with recursively sorted keys and no spaces.
func sorted(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for k, x := range v {
			parts = append(parts, fmt.Sprintf("%q:%s", k, sorted(x)))
		}
		sort.Strings(parts)
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		var parts []string
		for _, x := range v {
			parts = append(parts, sorted(x))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case string:
		return fmt.Sprintf("%q", v)
	case nil:
		return "null"
	}
	return fmt.Sprint(v)
}

// keccak512 is SHA3-512: FIPS 202.
func keccak512(msg []byte) []byte {
	const rate = 72
	msg = append(bytes.Clone(msg), 6)
	for len(msg)%rate != 0 {
		msg = append(msg, 0)
	}
	msg[len(msg)-1] |= 0x80
	var a [25]uint64
	for ; len(msg) > 0; msg = msg[rate:] {
		for i := range rate / 8 {
			a[i] ^= binary.LittleEndian.Uint64(msg[8*i:])
		}
		lfsr := byte(1)
		for range 24 {
			var c [5]uint64
			for x := range 5 { // theta
				c[x] = a[x] ^ a[x+5] ^ a[x+10] ^ a[x+15] ^ a[x+20]
			}
			for i := range a {
				a[i] ^= c[(i+4)%5] ^ bits.RotateLeft64(c[(i+1)%5], 1)
			}
			x, y, last := 1, 0, a[1] // rho and pi
			for t := range 24 {
				x, y = y, (2*x+3*y)%5
				a[x+5*y], last = bits.RotateLeft64(last, (t+1)*(t+2)/2), a[x+5*y]
			}
			for y := 0; y < 25; y += 5 { // chi
				row := [5]uint64(a[y : y+5])
				for x := range 5 {
					a[y+x] = row[x] ^ ^row[(x+1)%5]&row[(x+2)%5]
				}
			}
			for j := range 7 { // iota
				if lfsr&1 == 1 {
					a[0] ^= 1 << (1<<j - 1)
				}
				if lfsr&0x80 != 0 {
					lfsr = lfsr<<1 ^ 0x71
				} else {
					lfsr <<= 1
				}
			}
		}
	}
	var out []byte
	for _, w := range a[:8] {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return out
}

// blake512 is BLAKE2b-512: RFC 7693.
func blake512(msg []byte) []byte {
	iv := [8]uint64{0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179}
	sigma := []string{"0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d", "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0"}
	h := iv
	h[0] ^= 0x01010000 ^ 64
	for at := 0; ; at += 128 {
		block := make([]byte, 128)
		n := copy(block, msg[at:])
		end := at + n
		v := [16]uint64(append(h[:], iv[:]...))
		v[12] ^= uint64(end)
		if end == len(msg) {
			v[14] = ^v[14]
		}
		for r := range 12 {
			s := sigma[r%10]
			m := func(i int) uint64 {
				return binary.LittleEndian.Uint64(block[8*strings.IndexByte("0123456789abcdef", s[i]):])
			}
			g := func(i, a, b, c, d int) {
				v[a] += v[b] + m(2*i)
				v[d] = bits.RotateLeft64(v[d]^v[a], -32)
				v[c] += v[d]
				v[b] = bits.RotateLeft64(v[b]^v[c], -24)
				v[a] += v[b] + m(2*i+1)
				v[d] = bits.RotateLeft64(v[d]^v[a], -16)
				v[c] += v[d]
				v[b] = bits.RotateLeft64(v[b]^v[c], -63)
			}
			for i := range 4 {
				g(i, i, i+4, i+8, i+12)
			}
			for i := range 4 {
				g(i+4, i, 4+(i+1)%4, 8+(i+2)%4, 12+(i+3)%4)
			}
		}
		for i := range h {
			h[i] ^= v[i] ^ v[i+8]
		}
		if end == len(msg) {
			break
		}
	}
	var out []byte
	for _, w := range h {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return out
}
