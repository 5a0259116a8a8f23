package appraisal

import (
	"encoding/json"

	"github.com/writ-attestation/writ/internal/jsonform"
)

// Verdicts, and the inputs that a verdict names by their digests, have the form that
// encoding/json gives them. It is written here by hand: each is on the way of every
// renewal.

// AppendJSON appends the verdict; equal verdicts have equal bytes.
func (v *Verdict) AppendJSON(b []byte) []byte {
	o := jsonform.In(b)
	o.Int("v", int64(v.V))
	o.Int("rules", int64(v.Rules))
	o.String("decision", v.Decision)
	o.String("tier", v.Tier)
	o.Filled("level", v.Level)
	o.B = v.Vector.append(o.Name("vector").B)
	o.String("domain", v.Domain)
	o.String("node", v.Node)
	o.Bytes("nonce", v.Nonce)
	o.String("binding", v.Binding)
	o.Int("at", v.At)
	o.Int("until", v.Until)
	o.B = v.Inputs.append(o.Name("inputs").B)
	if v.Boot != nil {
		o.B = v.Boot.AppendJSON(o.Name("boot").B)
	}
	o.B = appendFindings(o.Name("findings").B, v.Findings)
	return o.End()
}

func (v *Vector) append(b []byte) []byte {
	o := jsonform.In(b)
	for _, name := range Names() {
		if value := v.Claim(name); value != 0 {
			o.Int(name, int64(value))
		}
	}
	return o.End()
}

func (d *Digests) append(b []byte) []byte {
	o := jsonform.In(b)
	o.String("evidence", d.Evidence)
	o.String("challenge", d.Challenge)
	o.String("prior", d.Prior)
	o.String("references", d.References)
	o.String("ek_roots", d.EKRoots)
	o.Filled("iak_roots", d.IAKRoots)
	return o.End()
}

// AppendJSON appends the state of a boot.
func (k *Boot) AppendJSON(b []byte) []byte {
	o := jsonform.In(b)
	o.Uint("reset_count", uint64(k.ResetCount))
	o.Uint("restart_count", uint64(k.RestartCount))
	o.Uint("clock", k.Clock)
	o.String("boot_log", k.BootLog)
	if k.IMA != nil {
		o.B = k.IMA.append(o.Name("ima").B)
	}
	if k.Key != nil {
		key := jsonform.In(o.Name("key").B)
		key.Bytes("name", k.Key.Name)
		key.Bytes("nonce", k.Key.Nonce)
		o.B = key.End()
	}
	return o.End()
}

func (i *IMA) append(b []byte) []byte {
	o := jsonform.In(b)
	o.Uint("offset", i.Offset)
	o.Int("entries", int64(i.Entries))
	o.Int("violations", int64(i.Violations))
	if i.Excluded != 0 {
		o.Int("excluded", int64(i.Excluded))
	}
	if i.Until != 0 {
		o.Int("until", i.Until)
	}
	o.Bytes("pcr", i.PCR)
	o.String("references", i.References)
	o.Int("rules", int64(i.Rules))
	if len(i.Findings) > 0 {
		o.B = appendFindings(o.Name("findings").B, i.Findings)
	}
	return o.End()
}

func appendFindings(b []byte, findings []Finding) []byte {
	if findings == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, f := range findings {
		if i > 0 {
			b = append(b, ',')
		}
		o := jsonform.In(b)
		o.String("code", f.Code)
		if f.PCR != nil {
			o.Int("pcr", int64(*f.PCR))
		}
		if f.Event != nil {
			o.Int("event", int64(*f.Event))
		}
		o.String("expected", f.Expected)
		o.String("found", f.Found)
		o.String("next", f.Next)
		b = o.End()
	}
	return append(b, ']')
}

// AppendJSON appends the challenge.
func (c *Challenge) AppendJSON(b []byte) []byte {
	o := jsonform.In(b)
	o.String("domain", c.Domain)
	o.String("node", c.Node)
	o.Bytes("nonce", c.Nonce)
	o.Int("issued", c.Issued)
	o.Uint("purpose", uint64(c.Purpose))
	o.String("binding", c.Binding)
	return o.End()
}

// AppendJSON appends what was known of the node.
func (p *Prior) AppendJSON(b []byte) []byte {
	o := jsonform.In(b)
	o.Bytes("ek", p.EK)
	o.B = appendList(o.Name("ek_certificates").B, p.EKCertificates)
	o.B = appendList(o.Name("ek_chain").B, p.EKChain)
	o.Bytes("ak", p.AK)
	o.Uint("generation", uint64(p.Generation))
	o.String("class", p.Class)
	if p.Boot != nil {
		o.B = p.Boot.AppendJSON(o.Name("boot").B)
	}
	if p.IAK != nil {
		iak, err := json.Marshal(p.IAK)
		if err != nil {
			panic("appraisal: byte slices do not marshal: " + err.Error())
		}
		o.Raw("iak", iak)
	}
	return o.End()
}

func appendList(b []byte, list [][]byte) []byte {
	if list == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, e := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsonform.Bytes(b, e)
	}
	return append(b, ']')
}
