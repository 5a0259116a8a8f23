package token

import (
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
)

// TestEveryName fills every field, so that a name that is written but not read
// shows.
func TestEveryName(t *testing.T) {
	var c Claims
	n := 0
	fill(reflect.ValueOf(&c).Elem(), &n)
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseClaims(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, &c) {
		t.Errorf("read  %+v\nwrote %+v", got, &c)
	}
}

// fill gives every field under v a value of its own.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.String:
		v.SetString("text <&> \" \u00e9 " + strconv.Itoa(*n))
	case reflect.Int, reflect.Int8, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, n)
		v.SetMapIndex(reflect.ValueOf("label"), e)
	default:
		panic(v.Kind().String())
	}
}

// FuzzParseClaims holds the reader against encoding/json, which must agree on
// everything the reader accepts.
func FuzzParseClaims(f *testing.F) {
	for _, s := range []string{
		`{"iss":"a","exp":1,"cnf":{"jkt":"x"},"submods":{"p":{"ear_status":"affirming","ear_trustworthiness_vector":{"hardware":-3},"ear_appraisal_policy_ids":["a","b"]}},"writ":{"seq":18446744073709551615}}`,
		`{"x":[1,-0.5e+7,true,false,null,{"y":""}],"iss":"\u0041\ud834\udd1e\n"}`,
		`{"a":1,"a":2}`, `{"exp":01}`, `{"exp":-0}`, `{}x`, "{\"iss\":\"\xff\"}", ` { } `, `{"exp":+1}`, `{"x":-}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseClaims(s)
		if err != nil {
			if Code(err) == "" {
				t.Errorf("%v has no code", err)
			}
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(s), &want); err != nil {
			t.Fatalf("accepted what is no JSON object: %v", err)
		}
		for name, field := range map[string]any{"iss": &got.Issuer, "exp": &got.Expires, "cnf": nil, "aud": &got.Audience, "bootcount": &got.BootCount} {
			if raw, ok := want[name]; ok && field != nil {
				other := reflect.New(reflect.TypeOf(field).Elem())
				if err := json.Unmarshal(raw, other.Interface()); err != nil || !reflect.DeepEqual(other.Interface(), field) {
					t.Errorf("%s of %s is read as %v, encoding/json: %v, %v", name, s, reflect.ValueOf(field).Elem(), other.Elem(), err)
				}
			}
		}
	})
}
