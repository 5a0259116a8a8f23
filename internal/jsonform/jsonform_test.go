package jsonform_test

import (
	"encoding/json"
	"testing"

	"github.com/writ-attestation/writ/internal/jsonform"
)

// FuzzString: strings and bytes are written as encoding/json writes them.
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", "<&>", "\"\\\b\f\n\r\t\x00\x1f\x7f", "é\u2028", "a\xffb", "tail\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := jsonform.String([]byte("x"), s); string(got) != "x"+string(want) {
			t.Errorf("%q is written %s, expected %s", s, got, want)
		}
		if want, _ = json.Marshal([]byte(s)); string(jsonform.Bytes(nil, []byte(s))) != string(want) {
			t.Errorf("the bytes of %q are not written %s", s, want)
		}
	})
}

// TestObject: members are written as those of a struct.
func TestObject(t *testing.T) {
	type form struct {
		A string   `json:"a"`
		B string   `json:"b,omitempty"`
		C int64    `json:"c"`
		D uint64   `json:"d"`
		E []byte   `json:"e"`
		F []string `json:"f"`
		G struct{} `json:"g"`
	}
	for _, v := range []form{{}, {A: "x", B: "<", C: -5, D: 1 << 63, E: []byte{}, F: []string{}}, {E: []byte{1, 2}, F: []string{"p", "\n"}}} {
		o := jsonform.In(nil)
		o.String("a", v.A)
		o.Filled("b", v.B)
		o.Int("c", v.C)
		o.Uint("d", v.D)
		o.Bytes("e", v.E)
		o.Strings("f", v.F)
		o.Raw("g", new(jsonform.Object).End())
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.End(); string(got) != string(want) {
			t.Errorf("it is written %s, expected %s", got, want)
		}
	}
}
