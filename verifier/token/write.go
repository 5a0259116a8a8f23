package token

import (
	"maps"
	"slices"

	"github.com/writ-attestation/writ/internal/jsonform"
)

// AppendJSON appends the claims as encoding/json writes them, which is also the
// payload of a token of [Profile2026].
func (c *Claims) AppendJSON(b []byte) []byte {
	o := jsonform.In(b)
	o.String("iss", c.Issuer)
	o.String("sub", c.Subject)
	o.String("aud", c.Audience)
	o.Int("iat", c.IssuedAt)
	o.Int("nbf", c.NotBefore)
	o.Int("exp", c.Expires)
	o.String("jti", c.ID)
	o.B = c.Confirm.append(o.Name("cnf").B)
	o.String("eat_profile", c.Profile)
	o.String("eat_nonce", c.Nonce)
	o.Uint("bootcount", uint64(c.BootCount))
	o.String("ear_status", c.Status)
	o.B = c.Verifier.append(o.Name("ear_verifier_id").B)
	o.B = appendSubmods(o.Name("submods").B, c.Submods)
	if c.Listed != (Listed{}) {
		o.B = c.Listed.append(o.Name("status").B)
	}
	o.B = c.Writ.append(o.Name("writ").B)
	return o.End()
}

func (c *Confirm) append(b []byte) []byte {
	o := jsonform.In(b)
	o.Filled("jkt", c.JKT)
	o.Filled("x5t#S256", c.X5T)
	return o.End()
}

func (v *Verifier) append(b []byte) []byte {
	o := jsonform.In(b)
	o.String("developer", v.Developer)
	o.String("build", v.Build)
	return o.End()
}

func appendSubmods(b []byte, submods map[string]Submod) []byte {
	if submods == nil {
		return append(b, "null"...)
	}
	b = append(b, '{')
	for i, label := range slices.Sorted(maps.Keys(submods)) {
		if i > 0 {
			b = append(b, ',')
		}
		s := submods[label]
		o := jsonform.In(append(jsonform.String(b, label), ':'))
		o.String("ear_status", s.Status)
		o.B = s.Vector.append(o.Name("ear_trustworthiness_vector").B)
		o.Strings("ear_appraisal_policy_ids", s.Policies)
		b = o.End()
	}
	return append(b, '}')
}

func (v *Vector) append(b []byte) []byte {
	o := jsonform.In(b)
	for _, c := range []struct {
		name  string
		value int8
	}{
		{"instance-identity", v.InstanceIdentity}, {"configuration", v.Configuration}, {"executables", v.Executables},
		{"file-system", v.FileSystem}, {"hardware", v.Hardware}, {"runtime-opaque", v.RuntimeOpaque},
		{"storage-opaque", v.StorageOpaque}, {"sourced-data", v.SourcedData},
	} {
		if c.value != 0 {
			o.Int(c.name, int64(c.value))
		}
	}
	return o.End()
}

func (l *Listed) append(b []byte) []byte {
	place := jsonform.In(append(b, `{"status_list":`...))
	place.Uint("idx", l.List.Index)
	place.String("uri", l.List.URI)
	return append(place.End(), '}')
}

func (w *Writ) append(b []byte) []byte {
	o := jsonform.In(b)
	o.Int("v", int64(w.V))
	o.String("state", w.State)
	o.Uint("seq", w.Seq)
	o.Filled("prev", w.Prev)
	o.Uint("epoch", w.Epoch)
	o.Filled("exec", w.Execution)
	o.Filled("wl", w.Workload)
	o.String("level", w.Level)
	o.String("key", w.Key)
	o.String("evidence", w.Evidence)
	o.String("references", w.References)
	o.String("verdict", w.Verdict)
	log := jsonform.In(o.Name("log").B)
	log.String("origin", w.Log.Origin)
	log.Int("index", w.Log.Index)
	o.B = log.End()
	return o.End()
}
