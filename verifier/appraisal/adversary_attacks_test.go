package appraisal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
)

// some is how many attacks of a sampled kind are tried at scale 1.
const some = 4

func flipped(b []byte, bit int) []byte {
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// withQuote is the input with another quote item, withItem with another log or
// bound item; the original stays as it is.
func withQuote(in *appraisal.Input, change func(*evidence.Quote)) *appraisal.Input {
	q := in.Evidence.Quote
	q.Values = maps.Clone(q.Values)
	change(&q)
	return withItems(in, q, "", nil)
}

func withItem(in *appraisal.Input, label string, content []byte) *appraisal.Input {
	return withItems(in, in.Evidence.Quote, label, content)
}

func withItems(in *appraisal.Input, q evidence.Quote, label string, content []byte) *appraisal.Input {
	out := *in
	out.Evidence = evidence.New(q)
	for _, l := range []string{evidence.BindKey, evidence.Ask, evidence.UEFILog, evidence.IMALog} {
		item := in.Evidence.Item(l)
		if l == label {
			item = evidence.Item{Content: content}
		}
		if item.Content != nil {
			out.Evidence.Set(l, item)
		}
	}
	return &out
}

// attack tries everything on a machine.
func (h *hunt) attack(t testing.TB) {
	h.attackSigned()
	h.attackValues()
	h.attackLogs(t)
}

// attackSigned flips every bit of quote, signature, nonce and key.
func (h *hunt) attackSigned() {
	q, whole := h.in.Evidence.Quote, h.judge
	defer func() { h.judge = whole }()
	h.judge = func(in *appraisal.Input) appraisal.Verdict {
		if h.rnd.IntN(64) == 0 {
			return whole(in)
		}
		return h.quick(in)
	}
	h.each(8*len(q.Attest), func(i int) {
		h.try("quote: bit", fmt.Sprint(i), func(in *appraisal.Input) {
			*in = *withQuote(in, func(q *evidence.Quote) { q.Attest = flipped(q.Attest, i) })
		})
	})
	h.each(8*len(q.Signature), func(i int) {
		h.try("signature: bit", fmt.Sprint(i), func(in *appraisal.Input) {
			*in = *withQuote(in, func(q *evidence.Quote) { q.Signature = flipped(q.Signature, i) })
		})
	})
	h.each(8*len(h.in.Challenge.Nonce), func(i int) {
		h.try("nonce: bit", fmt.Sprint(i), func(in *appraisal.Input) { in.Challenge.Nonce = flipped(in.Challenge.Nonce, i) })
	})
	h.each(8*len(h.in.Prior.AK), func(i int) {
		h.try("key: bit", fmt.Sprint(i), func(in *appraisal.Input) { in.Prior.AK = flipped(in.Prior.AK, i) })
	})
	h.samples(8*some, len(q.Attest), func(cut int) {
		h.try("quote: truncated", fmt.Sprint(cut), func(in *appraisal.Input) {
			*in = *withQuote(in, func(q *evidence.Quote) { q.Attest = q.Attest[:cut] })
		})
	})
	h.samples(8*some, len(q.Signature), func(cut int) {
		h.try("signature: truncated", fmt.Sprint(cut), func(in *appraisal.Input) {
			*in = *withQuote(in, func(q *evidence.Quote) { q.Signature = q.Signature[:cut] })
		})
	})
}

// each calls f with every number below n, or with a few where it is the suite that
// is tried.
func (h *hunt) each(n int, f func(int)) {
	if h.few {
		h.samples(8*some, n, f)
		return
	}
	for i := range n {
		f(i)
	}
}

// attackValues changes the PCR values sent beside the quote.
func (h *hunt) attackValues() {
	for p := range h.in.Evidence.Quote.Values {
		with := func(kind, what string, change func(map[int][]byte)) {
			h.try(kind, what, func(in *appraisal.Input) {
				*in = *withQuote(in, func(q *evidence.Quote) { change(q.Values) })
			})
		}
		h.samples(some, 8*len(h.in.Evidence.Quote.Values[p]), func(i int) {
			with("PCR value: bit", fmt.Sprintf("PCR %d bit %d", p, i), func(v map[int][]byte) { v[p] = flipped(v[p], i) })
		})
		with("PCR value: missing", fmt.Sprint(p), func(v map[int][]byte) { delete(v, p) })
		with("PCR value: one more", fmt.Sprint(p), func(v map[int][]byte) { v[p+16] = v[p] })
		with("PCR value: short", fmt.Sprint(p), func(v map[int][]byte) { v[p] = v[p][:31] })
	}
}

func (h *hunt) attackLogs(t testing.TB) {
	if raw := h.in.Evidence.Item(evidence.UEFILog).Content; raw != nil {
		h.bootBytes(raw)
		h.bootEvents(t, raw)
		h.bootHeader(t, raw)
	}
	if raw := h.in.Evidence.Item(evidence.IMALog).Content; raw != nil && h.in.References.Set.Set.IMA != nil {
		h.imaList(t, raw)
	}
}

func (h *hunt) log(kind, what string, log []byte) {
	h.try("boot log: "+kind, what, func(in *appraisal.Input) { *in = *withItem(in, evidence.UEFILog, log) })
}

// bootBytes attacks the log as bytes.
func (h *hunt) bootBytes(raw []byte) {
	h.samples(12*some, 8*len(raw), func(i int) { h.log("bit", fmt.Sprint(i), flipped(raw, i)) })
	h.samples(some, len(raw), func(n int) { h.log("truncated", fmt.Sprint(n), raw[:n]) })
	h.samples(some, len(raw), func(n int) { h.log("bytes after it", fmt.Sprint(n), slices.Concat(raw, raw[:n+1])) })
	h.log("oversize", "more than is read", slices.Concat(raw, make([]byte, eventlog.MaxSize)))
}

// bootEvents attacks the log event by event.
func (h *hunt) bootEvents(t testing.TB, raw []byte) {
	t.Helper()
	edit := func(kind, what string, change func(*eventlog.Log)) {
		l, err := eventlog.Parse(bytes.Clone(raw))
		if err != nil {
			t.Fatal(err)
		}
		change(l)
		h.log(kind, what, l.Marshal())
	}
	l, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	n := len(l.Events)
	each := func(kind string, change func(l *eventlog.Log, i int)) {
		h.samples(some, n-2, func(i int) {
			edit(kind, fmt.Sprintf("event %d", i+1), func(l *eventlog.Log) { change(l, i+1) })
		})
	}
	each("events swapped", func(l *eventlog.Log, i int) { l.Events[i], l.Events[i+1] = l.Events[i+1], l.Events[i] })
	each("events far apart swapped", func(l *eventlog.Log, i int) {
		j := 1 + h.rnd.IntN(n-1)
		l.Events[i], l.Events[j] = l.Events[j], l.Events[i]
	})
	each("event dropped", func(l *eventlog.Log, i int) { l.Events = slices.Delete(l.Events, i, i+1) })
	each("event twice", func(l *eventlog.Log, i int) { l.Events = slices.Insert(l.Events, i, l.Events[i]) })
	each("tail dropped", func(l *eventlog.Log, i int) { l.Events = l.Events[:i] })
	types := []eventlog.Type{eventlog.NoAction, eventlog.Separator, eventlog.Action, eventlog.EFIAction, eventlog.IPL, eventlog.HCRTM, eventlog.BootServicesApp, 0x8401, 0xffffffff}
	each("type forged", func(l *eventlog.Log, i int) { l.Events[i].Type = types[h.rnd.IntN(len(types))] })
	each("event in another PCR", func(l *eventlog.Log, i int) {
		l.Events[i].PCR = []uint32{0, 1, 5, 7, 10, 16, 23, 24, 0xffffffff}[h.rnd.IntN(9)]
	})
	each("data changed", func(l *eventlog.Log, i int) {
		l.Events[i].Data = append([]byte("kernel_cmdline: ima_policy=tcb "), l.Events[i].Data...)
	})
	each("data of another event", func(l *eventlog.Log, i int) { l.Events[i].Data = l.Events[1+h.rnd.IntN(n-1)].Data })
	each("digest changed", func(l *eventlog.Log, i int) {
		e := &l.Events[i]
		for k := range e.Digests {
			e.Digests[k].Sum = flipped(e.Digests[k].Sum, h.rnd.IntN(8*len(e.Digests[k].Sum)))
		}
	})
	each("bank left out", func(l *eventlog.Log, i int) {
		e := &l.Events[i]
		e.Digests = slices.DeleteFunc(slices.Clone(e.Digests), func(d eventlog.Digest) bool { return d.Alg == tpm.AlgSHA256 })
	})
	each("bank twice", func(l *eventlog.Log, i int) {
		l.Events[i].Digests = append(slices.Clone(l.Events[i].Digests), l.Events[i].Digests...)
	})
	each("bank swapped for a second", func(l *eventlog.Log, i int) {
		e := &l.Events[i]
		e.Digests = slices.Clone(e.Digests)
		for k := range e.Digests {
			e.Digests[k] = e.Digests[len(e.Digests)-1]
		}
	})
	for _, pcr := range []uint32{2, 0, 4} {
		for _, typ := range []eventlog.Type{0x80000004, eventlog.Separator, eventlog.IPL} { // a boot services driver
			edit("hidden option ROM", fmt.Sprintf("PCR %d, %v", pcr, typ), func(l *eventlog.Log) {
				l.Events = slices.Insert(l.Events, 1+h.rnd.IntN(n-1), event(l, pcr, typ, "option ROM"))
			})
		}
	}
	for _, b := range []byte{0, 1, 3, 4, 0xff} {
		for _, at := range []int{1, n / 2, n} {
			for _, twice := range []bool{false, true} {
				edit("StartupLocality", fmt.Sprintf("%d as event %d, twice %v", b, at, twice), func(l *eventlog.Log) {
					e := event(l, 0, eventlog.NoAction, "StartupLocality\x00"+string([]byte{b}))
					l.Events = slices.Insert(l.Events, at, e)
					if twice {
						l.Events = append(l.Events, e)
					}
				})
			}
		}
	}
	edit("H-CRTM", "the first event", func(l *eventlog.Log) { l.Events[1].Type = eventlog.HCRTM })
	edit("oversize", "more events than are read", func(l *eventlog.Log) {
		e := eventlog.Event{PCR: 24, Type: eventlog.NoAction}
		for range eventlog.MaxEvents {
			l.Events = append(l.Events, e)
		}
	})
}

// bootHeader attacks the sizes and counts of the log and its Spec ID header
// (PFP 10.4.5.1): the count of algorithms is at 56, each is four bytes from 60 on.
func (h *hunt) bootHeader(t testing.TB, raw []byte) {
	t.Helper()
	put := func(kind, what string, at int, b ...byte) {
		log := bytes.Clone(raw)
		if bytes.Equal(log[at:at+len(b)], b) {
			return
		}
		copy(log[at:], b)
		h.log(kind, what, log)
	}
	banks := int(binary.LittleEndian.Uint32(raw[56:]))
	h.samples(8*some, 8*(60+4*banks+1), func(i int) { h.log("Spec ID bit", fmt.Sprint(i), flipped(raw, i)) })
	for n := range 20 {
		put("Spec ID forged", fmt.Sprintf("%d algorithms", n), 56, byte(n))
	}
	put("Spec ID forged", "a thousand million algorithms", 56, 0xff, 0xff, 0xff, 0x3f)
	for i := range banks {
		for j := range banks {
			put("Spec ID forged", fmt.Sprintf("bank %d announced as bank %d", i, j), 60+4*i, raw[60+4*j:64+4*j]...)
		}
		put("Spec ID forged", "digests without bytes", 62+4*i, 0, 0)
		put("Spec ID forged", "digests of 65535 bytes", 62+4*i, 0xff, 0xff)
		put("Spec ID forged", "SHA-384 for it", 60+4*i, 0x0c, 0, 48, 0)
	}
	h.log("Spec ID forged", "old format", slices.Concat(raw[:32], []byte("Spec ID Event02\x00"), raw[48:]))
	h.log("Spec ID forged", "a second header", slices.Concat(raw, raw[:32+int(binary.LittleEndian.Uint32(raw[28:]))]))
	h.log("Spec ID forged", "no header", raw[32+int(binary.LittleEndian.Uint32(raw[28:])):])
	l, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	offset := 32 + int(binary.LittleEndian.Uint32(raw[28:]))
	for _, e := range l.Events[1:] {
		size := 12
		for _, d := range e.Digests {
			size += 2 + len(d.Sum)
		}
		if h.rnd.IntN(len(l.Events)) < some {
			put("oversize field", fmt.Sprintf("event %d has four thousand million digests", e.Index), offset+8, 0xff, 0xff, 0xff, 0xff)
			put("oversize field", fmt.Sprintf("event %d has 4 GiB of data", e.Index), offset+size, 0xff, 0xff, 0xff, 0xff)
			put("oversize field", fmt.Sprintf("event %d has 2 GiB of data", e.Index), offset+size, 0xff, 0xff, 0xff, 0x7f)
			put("oversize field", fmt.Sprintf("event %d has a byte more", e.Index), offset+size, byte(len(e.Data)+1))
		}
		offset += size + 4 + len(e.Data)
	}
}

func (h *hunt) ima(kind, what string, list []byte) {
	h.try("IMA list: "+kind, what, func(in *appraisal.Input) { *in = *withItem(in, evidence.IMALog, list) })
}

// imaList attacks the IMA list.
func (h *hunt) imaList(t testing.TB, raw []byte) {
	t.Helper()
	l, err := ima.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	n := len(l.Entries)
	edit := func(kind string, change func(l *ima.List, i int)) {
		h.samples(some, n-1, func(i int) {
			c := &ima.List{Entries: slices.Clone(l.Entries)}
			change(c, i)
			h.ima(kind, fmt.Sprintf("entry %d", i), c.Marshal())
		})
	}
	record := func(i int) []byte { return raw[l.Entries[i].Offset:l.Entries[i].End] }
	h.samples(8*some, 8*len(raw), func(i int) { h.ima("bit", fmt.Sprint(i), flipped(raw, i)) })
	h.samples(some, len(raw), func(i int) { h.ima("truncated", fmt.Sprint(i), raw[:i]) })
	h.samples(some, n, func(i int) { h.ima("truncated", fmt.Sprintf("before entry %d", i), raw[:l.Entries[i].Offset]) })
	h.samples(some, n, func(i int) {
		h.ima("something after it", fmt.Sprintf("entry %d again", i), slices.Concat(raw, record(i)))
	})
	h.samples(some, n-1, func(i int) { h.ima("beginning dropped", fmt.Sprint(i), raw[l.Entries[i+1].Offset:]) })
	edit("entries swapped", func(l *ima.List, i int) { l.Entries[i], l.Entries[i+1] = l.Entries[i+1], l.Entries[i] })
	edit("entry dropped", func(l *ima.List, i int) { l.Entries = slices.Delete(l.Entries, i, i+1) })
	edit("entry twice", func(l *ima.List, i int) { l.Entries = slices.Insert(l.Entries, i, l.Entries[i]) })
	edit("entry in another PCR", func(l *ima.List, i int) { l.Entries[i].PCR = []uint32{0, 7, 11, 23, 24, 1 << 31}[h.rnd.IntN(6)] })
	edit("violation forged", func(l *ima.List, i int) { l.Entries[i].TemplateHash = make([]byte, 20) })
	edit("template forged", func(l *ima.List, i int) {
		l.Entries[i].Template = []string{"ima", "ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2", "ima-buf", "ima-modsig", "d-ng|n-ng", "d|n", "n-ng|d-ng"}[h.rnd.IntN(10)]
	})
	edit("path changed", func(l *ima.List, i int) {
		e := &l.Entries[i]
		e.Data = bytes.Replace(e.Data, []byte(e.Path), bytes.Repeat([]byte("x"), len(e.Path)), 1)
		if sum := sha1Sum(e.Data); !e.Violation {
			e.TemplateHash = sum
		}
	})
	for _, name := range []string{"e-grub-sb-newexec", "e-grub-sb-race", "f-ima-ng", "f-ima-legacy", "d-uki"} {
		other := file(t, name+"/ima.bin")
		if bytes.Equal(other, raw) || bytes.HasPrefix(other, raw) {
			continue
		}
		o, err := ima.Parse(other)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{1, n / 2, n - 1} {
			h.ima("prefix of another", fmt.Sprintf("%s up to entry %d", name, i), slices.Concat(other[:o.Entries[min(i, len(o.Entries)-1)].Offset], raw[l.Entries[i].Offset:]))
		}
		h.ima("prefix of another", name+" whole, then its own", slices.Concat(other, raw))
		h.ima("prefix of another", name+" alone", other)
	}
	for _, at := range []int64{24, 32} { // the sizes of the first record's name and, behind "ima-ng", data
		for _, b := range [][]byte{{0xff, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0x7f}, {0, 0, 0, 0}} {
			c := bytes.Clone(raw)
			copy(c[at:], b)
			h.ima("oversize field", fmt.Sprintf("%x at %d", b, at), c)
		}
	}
}

func sha1Sum(b []byte) []byte {
	s := ima.Entry{Data: b}
	return s.Digest(tpm.AlgSHA1)
}

// hide has the TPM measure an option ROM, or a program, that the log conceals.
func (h *hunt) hide(t testing.TB, s *subject) {
	t.Helper()
	good, values := s.log, maps.Clone(s.values)
	sum := sha256.Sum256([]byte("option ROM"))
	rom := sum[:]
	conceal := func(kind, what string, pcr int, digest []byte, change func(*eventlog.Log)) {
		s.log, s.values = good, maps.Clone(values)
		v := sha256.Sum256(append(bytes.Clone(s.values[pcr]), digest...))
		s.values[pcr] = v[:]
		s.events(change)
		s.sign()
		log := s.in.Evidence
		h.try(kind, what, func(in *appraisal.Input) { in.Evidence = log })
	}
	for _, pcr := range []int{0, 2, 4, 7, 8, 9, 14} {
		conceal("hidden measurement", fmt.Sprintf("PCR %d, left out", pcr), pcr, rom, func(*eventlog.Log) {})
		conceal("hidden measurement", fmt.Sprintf("PCR %d, told", pcr), pcr, rom, func(l *eventlog.Log) {
			l.Events = append(l.Events, event(l, uint32(pcr), 0x80000004, "option ROM"))
		})
		for _, typ := range []eventlog.Type{eventlog.NoAction, eventlog.Separator, eventlog.EFIAction, eventlog.IPL} {
			conceal("hidden measurement", fmt.Sprintf("PCR %d, as %v", pcr, typ), pcr, rom, func(l *eventlog.Log) {
				l.Events = append(l.Events, event(l, uint32(pcr), typ, "option ROM"))
			})
		}
		for _, other := range []uint32{1, 5, 16, 24, 0xffffffff} {
			conceal("hidden measurement", fmt.Sprintf("PCR %d, told in PCR %d", pcr, int32(other)), pcr, rom, func(l *eventlog.Log) {
				l.Events = append(l.Events, event(l, other, 0x80000004, "option ROM"))
			})
		}
		conceal("hidden measurement", fmt.Sprintf("PCR %d, its last event again", pcr), pcr, rom, func(l *eventlog.Log) {
			for i := len(l.Events) - 1; i > 0; i-- {
				if l.Events[i].PCR == uint32(pcr) {
					l.Events = append(l.Events, l.Events[i])
					return
				}
			}
		})
	}
	if h.in.References.Set.Set.IMA != nil {
		conceal("hidden program", "not in the IMA list", 10, rom, func(*eventlog.Log) {})
	}
	s.log, s.values = good, values
	s.sign()
}
