package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// facts are all verified facts of a boot, as text, without the index of the
// event. Bare digests are told by their PCR alone: which list they are in says
// what nobody explained.
func facts(b *eventlog.Boot) map[string]int {
	f := map[string]int{}
	add := func(format string, args ...any) { f[fmt.Sprintf(format, args...)]++ }
	add("locality %d", b.Locality)
	for name, on := range map[string]bool{"exited": b.Exited, "dma off": b.DMAOff, "debugger": b.Debugger} {
		if on {
			add("%s", name)
		}
	}
	sb := b.SecureBoot
	if sb.Known {
		add("secure boot %v", sb.Enabled)
	}
	for name, db := range map[string]*eventlog.Database{"PK": sb.PK, "KEK": sb.KEK, "db": sb.DB, "dbx": sb.DBX} {
		if db != nil {
			add("%s %v %v %d %v", name, db.Certificates, db.Hashes, db.Others, db.Early)
		}
	}
	for _, a := range sb.Authorities {
		add("authority %s %v %v %v", a.Variable, a.Certificate, a.Hash, a.Early)
	}
	for what, ts := range map[string][]eventlog.Text{"action": b.Actions, "loader": b.Loader, "command line": b.CommandLines} {
		for _, t := range ts {
			add("%s %d %q %v", what, t.PCR, t.Text, t.Early)
		}
	}
	for what, t := range map[string]*eventlog.Text{"version": b.Version, "sbat": sb.SbatLevel} {
		if t != nil {
			add("%s %q %v", what, t.Text, t.Early)
		}
	}
	for _, v := range b.Variables {
		if v.Named { // else only the value is a fact, and that is what the digest says
			add("variable %d %s %s %v %v", v.PCR, v.GUID, v.Name, v.Value, v.Early)
		}
	}
	for _, d := range b.Disks {
		add("disk %s %v", d.GUID, d.Partitions)
	}
	for _, s := range b.Sections {
		add("section %s %v", s.Name, s.Digest)
	}
	for _, s := range b.Separators {
		add("separator %d %v", s.PCR, s.Error)
	}
	return f
}

// programs counts the digests of what was run, however a log explains them.
func programs(b *eventlog.Boot) map[string]int {
	f := map[string]int{}
	for _, list := range [][]eventlog.Measurement{b.Drivers, b.Applications} {
		for _, m := range list {
			f[fmt.Sprint(m.PCR, m.Digest)]++
		}
	}
	return f
}

// more returns something that a has more of than b.
func more(a, b map[string]int) string {
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if a[k] > b[k] {
			return k
		}
	}
	return ""
}

// An attack edits a log that a node sends; i is an event, n counts up.
type attack func(l *eventlog.Log, i, n int)

var attacks = map[string]attack{
	"type": func(l *eventlog.Log, i, n int) { l.Events[i].Type = types[n%len(types)] },
	"data bit": func(l *eventlog.Log, i, n int) {
		if d := l.Events[i].Data; len(d) > 0 {
			l.Events[i].Data = bytes.Clone(d)
			l.Events[i].Data[(n*37)%len(d)] ^= 1 << (n % 8)
		}
	},
	"no data":      func(l *eventlog.Log, i, _ int) { l.Events[i].Data = nil },
	"longer data":  func(l *eventlog.Log, i, _ int) { l.Events[i].Data = append(bytes.Clone(l.Events[i].Data), 0) },
	"other's data": func(l *eventlog.Log, i, n int) { l.Events[i].Data = l.Events[(i+n)%len(l.Events)].Data },
	"value wrapped": func(l *eventlog.Log, i, n int) {
		l.Events[i].Data, l.Events[i].Type = variable([]string{"SecureBoot", "db", "BootOrder", "SbatLevel"}[n%4], l.Events[i].Data), types[n%len(types)]
	},
	"label": func(l *eventlog.Log, i, n int) {
		l.Events[i].Data = append([]byte([]string{"grub_cmd: ", "kernel_cmdline: ", "grub_cmd "}[n%3]), l.Events[i].Data...)
	},
	"label cut": func(l *eventlog.Log, i, _ int) {
		if _, text, ok := bytes.Cut(l.Events[i].Data, []byte(": ")); ok {
			l.Events[i].Data = text
		}
	},
	"value alone": func(l *eventlog.Log, i, _ int) {
		if _, _, data, ok := l.Events[i].Variable(); ok {
			l.Events[i].Data = data
		}
	},
	"reordered": func(l *eventlog.Log, i, n int) {
		j := (i + 1 + n*n) % len(l.Events)
		l.Events[i], l.Events[j] = l.Events[j], l.Events[i]
	},
	"dropped":    func(l *eventlog.Log, i, _ int) { l.Events = slices.Delete(l.Events, i, i+1) },
	"duplicated": func(l *eventlog.Log, i, _ int) { l.Events = slices.Insert(l.Events, i, l.Events[i]) },
	"other PCR":  func(l *eventlog.Log, i, n int) { l.Events[i].PCR = uint32(n) % 24 },
	"no PCR":     func(l *eventlog.Log, i, _ int) { l.Events[i].PCR = 0xffffffff },
	"hidden":     func(l *eventlog.Log, i, _ int) { l.Events[i].Type = eventlog.NoAction },
	"other's digest": func(l *eventlog.Log, i, n int) {
		l.Events[i].Digests = l.Events[1+(i+n)%(len(l.Events)-1)].Digests
	},
	"an unmeasured event that says on": func(l *eventlog.Log, i, n int) {
		e := l.Events[1]
		e.PCR, e.Type, e.Data = []uint32{7, 0xffffffff}[n%2], []eventlog.Type{eventlog.NoAction, eventlog.VariableDriverConfig}[n%2], variable("SecureBoot", []byte{1})
		l.Events = slices.Insert(l.Events, i, e)
	},
	"locality": func(l *eventlog.Log, i, n int) {
		e := l.Events[1]
		e.PCR, e.Type, e.Data = 0, eventlog.NoAction, append([]byte("StartupLocality\x00"), []byte{0, 3, 4, 255}[n%4])
		l.Events = slices.Insert(l.Events, i, e)
	},
	"H-CRTM": func(l *eventlog.Log, i, _ int) { l.Events[i].Type = eventlog.HCRTM },
	"other banks": func(l *eventlog.Log, i, _ int) {
		l.Events[i].Digests = slices.Clone(l.Events[i].Digests)
		for k := range l.Events[i].Digests {
			if l.Events[i].Digests[k].Alg != tpm.AlgSHA256 {
				l.Events[i].Digests[k].Sum = make([]byte, len(l.Events[i].Digests[k].Sum))
			}
		}
	},
	"header": func(l *eventlog.Log, _, n int) {
		l.Events[0].Data = bytes.Clone(l.Events[0].Data)
		l.Events[0].Data[16+n%8] ^= 0xff // platform class and versions
	},
}

// TestEditedLog edits every event of real logs in every way above. An edit that
// the replay shows is the quote's to catch; with any other, nothing is proven
// that was not before, no program is gone, and no event is hidden.
func TestEditedLog(t *testing.T) {
	for _, name := range []string{"boots/c-grub-sb/eventlog.bin", "boots/d-uki-sb/eventlog.bin", "logs/keylime/mb_log.bin", "logs/tpm2-tss/binary_measurements_pc_client.bin"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			honest := parse(t, read(t, name))
			want, _ := honest.Replay(tpm.AlgSHA256)
			boot := honest.Extract(tpm.AlgSHA256)
			tried, unseen := 0, 0
			for what, edit := range attacks {
				for i := 1; i < len(honest.Events); i++ {
					for n := range 3 {
						l, ok := edited(honest, edit, i, i+n)
						if !ok {
							continue
						}
						tried++
						got, err := l.Replay(tpm.AlgSHA256)
						if err != nil || !maps.EqualFunc(got, want, bytes.Equal) {
							continue
						}
						unseen++
						b := l.Extract(tpm.AlgSHA256)
						at := fmt.Sprintf("%s: event %d %s", name, i, what)
						checkNothingHidden(t, at, l, b)
						if f := more(facts(b), facts(boot)); f != "" {
							t.Errorf("%s proves %s", at, f)
						}
						if p := more(programs(boot), programs(b)); p != "" {
							t.Errorf("%s hides the program %s", at, p)
						}
					}
				}
			}
			t.Logf("%d edits, of which %d replay to the same PCRs", tried, unseen)
			if unseen < 800 {
				t.Error("too few edits replay: the test tests nothing")
			}
		})
	}
}

// edited applies an edit to a copy, and sends it as a node would. It is not ok
// if the result does not parse or is what it was.
func edited(honest *eventlog.Log, edit attack, i, n int) (*eventlog.Log, bool) {
	l := *honest
	l.Events = slices.Clone(honest.Events)
	edit(&l, i, n)
	raw := l.Marshal()
	if bytes.Equal(raw, honest.Marshal()) {
		return nil, false
	}
	out, err := eventlog.Parse(raw)
	return out, err == nil
}

// TestReorderedAcrossPCRs: the order of events of different PCRs is not proven,
// and nothing follows from it.
func TestReorderedAcrossPCRs(t *testing.T) {
	for name, honest := range recorded(t) {
		if _, err := honest.Replay(tpm.AlgSHA256); err != nil {
			continue
		}
		l := parse(t, honest.Marshal())
		slices.SortStableFunc(l.Events[1:], func(a, b eventlog.Event) int { return -int(a.PCR%24) + int(b.PCR%24) })
		l = parse(t, l.Marshal())
		if a, b := facts(l.Extract(tpm.AlgSHA256)), facts(honest.Extract(tpm.AlgSHA256)); !maps.Equal(a, b) {
			t.Errorf("%s: %q and %q", name, more(a, b), more(b, a))
		}
	}
}

// TestHiddenOptionROM: a ROM in PCR 2 is relabelled, and the bytes its digest is
// computed over are logged as the text of an action, a variable, a partition
// table or a separator. It stays in the list of drivers.
func TestHiddenOptionROM(t *testing.T) {
	large := append([]byte("MZ\x00\x00"), bytes.Repeat([]byte("evil"), 300)...)
	for _, typ := range types {
		for _, rom := range [][]byte{large, large[:100]} {
			for n, data := range [][]byte{rom, nil, []byte("Calling EFI Application from Boot Option"), variable("x", rom), zeros} {
				pcr := []uint32{2, 4}[n%2]
				l := parse(t, newBuilder(tpm.AlgSHA256).event(pcr, typ, rom, data).event(pcr, eventlog.Separator, zeros, zeros).b)
				b := l.Extract(tpm.AlgSHA256)
				if typ == eventlog.NoAction {
					continue // the replay shows it
				}
				if n := len(b.Drivers) + len(b.Applications); n != 1 {
					t.Errorf("%v in PCR %d with %.20q: %d programs", typ, pcr, data, n)
				}
			}
		}
	}
}

// TestErrorSeparator: a separator that tells of an error is one, with any data
// and type.
func TestErrorSeparator(t *testing.T) {
	for measured, isError := range map[string]bool{"\x00\x00\x00\x00": false, "\xff\xff\xff\xff": false, "\x01\x00\x00\x00": true, "\x00\x00\x00\x01": true} {
		for _, typ := range []eventlog.Type{eventlog.Separator, eventlog.Action} {
			for _, data := range []string{measured, "\x00\x00\x00\x00", "", "x"} {
				b := parse(t, newBuilder(tpm.AlgSHA256).event(3, typ, []byte(measured), []byte(data)).b).Extract(tpm.AlgSHA256)
				if len(b.Separators) != 1 || b.Separators[0].Error != isError || b.Separators[0].PCR != 3 {
					t.Errorf("%x as %v with %q: %+v", measured, typ, data, b.Separators)
				}
			}
		}
	}
}

// TestLateVariable: what PCR 7 got after its separator is no Secure Boot state,
// and two variables of one name are none either.
func TestLateVariable(t *testing.T) {
	on, off := variable("SecureBoot", []byte{1}), variable("SecureBoot", []byte{0})
	config, sep := eventlog.VariableDriverConfig, eventlog.Separator
	for name, bd := range map[string]*builder{
		"no separator": newBuilder(tpm.AlgSHA256).event(7, config, on, on),
		"late":         newBuilder(tpm.AlgSHA256).event(7, sep, zeros, zeros).event(7, config, on, on),
		"twice":        newBuilder(tpm.AlgSHA256).event(7, config, off, off).event(7, config, on, on).event(7, sep, zeros, zeros),
		"other PCR":    newBuilder(tpm.AlgSHA256).event(6, config, on, on).event(7, sep, zeros, zeros).event(6, sep, zeros, zeros),
		"value alone":  newBuilder(tpm.AlgSHA256).event(7, config, []byte{1}, on).event(7, sep, zeros, zeros),
		"other GUID":   newBuilder(tpm.AlgSHA256).event(7, config, security("SecureBoot", []byte{1}), security("SecureBoot", []byte{1})).event(7, sep, zeros, zeros),
	} {
		l := parse(t, bd.b)
		b := l.Extract(tpm.AlgSHA256)
		if b.SecureBoot.Known || b.SecureBoot.Enabled {
			t.Errorf("%s: %+v", name, b.SecureBoot)
		}
		checkNothingHidden(t, name, l, b)
	}
	// In every real log the state is what SecureBoot says.
	for name, l := range recorded(t) {
		for _, alg := range l.Algs {
			if _, err := l.Replay(alg); err != nil {
				continue
			}
			if s, sb := l.SecureBoot(), l.Extract(alg).SecureBoot; s.Known != sb.Known || s.Enabled != sb.Enabled {
				t.Errorf("%s in %v: %+v, SecureBoot says %+v", name, alg, sb, s)
			}
		}
	}
}

// TestSwappedKernelLabel: the command line is told by the command before it, not
// by a label.
func TestSwappedKernelLabel(t *testing.T) {
	log := func(labels ...string) *eventlog.Boot {
		bd := newBuilder(tpm.AlgSHA256)
		for i, text := range []string{"echo /evil quiet", "linux /vmlinuz 'a b' quiet", `/vmlinuz "a b" quiet`, "initrd /initrd"} {
			bd.event(8, eventlog.IPL, []byte(text), []byte(labels[i]+text))
		}
		return parse(t, bd.b).Extract(tpm.AlgSHA256)
	}
	for _, labels := range [][]string{
		{"grub_cmd: ", "grub_cmd: ", "kernel_cmdline: ", "grub_cmd: "},
		{"kernel_cmdline: ", "grub_cmd: ", "grub_cmd: ", "grub_cmd: "},
		{"kernel_cmdline: ", "kernel_cmdline: ", "kernel_cmdline: ", "kernel_cmdline: "},
		{"", "", "", ""},
	} {
		check(t, strings.Join(labels, "|"), texts(log(labels...).CommandLines), []string{`/vmlinuz "a b" quiet`})
	}
}

// TestNameOfSection: what follows a section's name is its contents only if the
// name is proven, and right after it in PCR 11.
func TestNameOfSection(t *testing.T) {
	name := func(s string) []byte { return append([]byte(s), 0) }
	wide := func(s string) []byte { return utf16le(s + "\x00") }
	kernel := []byte("kernel")
	for what, tt := range map[string]struct {
		bd   *builder
		want string
	}{
		"UTF-16":          {newBuilder(tpm.AlgSHA256).event(11, eventlog.IPL, name(".linux"), wide(".linux")).event(11, eventlog.IPL, kernel, wide(".linux")), ".linux"},
		"ASCII":           {newBuilder(tpm.AlgSHA256).event(11, eventlog.IPL, name(".linux"), name(".linux")).event(11, eventlog.IPL, kernel, name(".linux")), ".linux"},
		"across PCRs":     {newBuilder(tpm.AlgSHA256).event(11, eventlog.IPL, name(".linux"), wide(".linux")).event(9, eventlog.IPL, kernel, kernel).event(11, eventlog.IPL, kernel, nil), ".linux"},
		"false name":      {newBuilder(tpm.AlgSHA256).event(11, eventlog.IPL, name(".linux"), wide(".evil")).event(11, eventlog.IPL, kernel, wide(".linux")), ""},
		"no contents":     {newBuilder(tpm.AlgSHA256).event(11, eventlog.IPL, name(".linux"), wide(".linux")), ""},
		"name after name": {newBuilder(tpm.AlgSHA256).event(11, eventlog.IPL, name(".linux"), wide(".linux")).event(11, eventlog.IPL, name(".initrd"), wide(".initrd")).event(11, eventlog.IPL, kernel, nil), ".initrd"},
	} {
		l := parse(t, tt.bd.b)
		b := l.Extract(tpm.AlgSHA256)
		got := ""
		for _, s := range b.Sections {
			got += s.Name
		}
		check(t, what, got, tt.want)
		checkNothingHidden(t, what, l, b)
	}
}

// FuzzExtract: nothing panics, nothing is hidden, and edits of what no digest
// covers change nothing.
func FuzzExtract(f *testing.F) {
	for _, l := range recorded(f) {
		if b := l.Marshal(); len(b) < 8000 {
			f.Add(b)
		}
	}
	path := append(make([]byte, 24), 60, 0, 0, 0, 0, 0, 0, 0)
	path = append(path, "\x04\x01\x2a\x00"...)
	path = append(path, make([]byte, 38)...)
	db := security("db", signatures(x509Kind, 28+17, 0, 17, make([]byte, 17)))
	gpt := append([]byte("EFI PART"), make([]byte, 92)...)
	gpt[84], gpt[92] = 128, 1
	gpt = append(gpt, make([]byte, 128)...)
	option := variable("Boot0001", binary.LittleEndian.AppendUint32(nil, 1))
	f.Add(newBuilder(tpm.AlgSHA256).event(4, eventlog.BootServicesApp, zeros[:1], path).event(7, eventlog.VariableDriverConfig, db, db).
		event(5, eventlog.GPTEvent, gpt, gpt).event(1, eventlog.VariableBoot2, option, option).event(7, eventlog.Separator, zeros, zeros).b)
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := eventlog.Parse(raw)
		if err != nil {
			return
		}
		for _, alg := range l.Algs {
			if _, err := l.Replay(alg); err != nil {
				l.Extract(alg)
				continue
			}
			b := l.Extract(alg)
			checkNothingHidden(t, "fuzzed", l, b)
			for i := range l.Events {
				if e := &l.Events[i]; e.Type != eventlog.NoAction && e.Type != eventlog.HCRTM {
					e.Type = eventlog.Type(i) + 0x10000
				}
			}
			if !maps.Equal(facts(b), facts(l.Extract(alg))) {
				t.Fatal("the types of events decide")
			}
		}
	})
}
