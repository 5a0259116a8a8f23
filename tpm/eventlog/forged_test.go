package eventlog_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// types are all that have a meaning to this package, and two that have none.
var types = []eventlog.Type{
	0, 1, eventlog.NoAction, eventlog.Separator, eventlog.Action, eventlog.EventTag, eventlog.SCRTMContents, eventlog.SCRTMVersion, eventlog.IPL,
	eventlog.OmitBootDeviceEvents, eventlog.VariableDriverConfig, eventlog.VariableBoot, eventlog.BootServicesApp, eventlog.BootServicesDriver,
	eventlog.RuntimeServicesDriver, eventlog.GPTEvent, eventlog.EFIAction, eventlog.PlatformFirmwareBlob, eventlog.VariableBoot2, eventlog.HCRTM,
	eventlog.VariableAuthority, 0x8401,
}

// TestForgedEventType gives each event of a machine with Secure Boot off every
// other type. No digest covers a type, so the log still replays, but nothing of
// it may become proof that Secure Boot is on, or data out of an image load.
func TestForgedEventType(t *testing.T) {
	for _, name := range []string{"boots/a-direct/eventlog.bin", "boots/d-uki/eventlog.bin"} {
		honest := parse(t, read(t, name))
		if s := honest.SecureBoot(); !s.Known || s.Enabled {
			t.Fatalf("%s: Secure Boot is %+v, expected off", name, s)
		}
		for i := range honest.Events {
			for _, typ := range types {
				l := parse(t, honest.Marshal())
				l.Events[i].Type = typ
				e := &l.Events[i]
				if s := l.SecureBoot(); s.Enabled {
					t.Errorf("%s: event %d as %v turns Secure Boot on", name, i, typ)
				}
				if slices.Contains([]eventlog.Type{eventlog.NoAction, eventlog.BootServicesApp, eventlog.BootServicesDriver, eventlog.RuntimeServicesDriver}, typ) && e.DataVerified() {
					t.Errorf("%s: event %d as %v has verified data", name, i, typ)
				}
				if e.DataVerified() && !honest.Events[i].DataVerified() {
					t.Errorf("%s: event %d as %v becomes verified", name, i, typ)
				}
			}
		}
	}
}

// TestForgedEventData changes each event's data: nothing stays verified but
// what no digest covers anyway (a boot loader's label, a boot variable's name).
func TestForgedEventData(t *testing.T) {
	l := parse(t, bytes.Clone(read(t, "boots/c-grub-sb/eventlog.bin")))
	before, _ := l.Replay(tpm.AlgSHA256)
	for i := range l.Events {
		e := &l.Events[i]
		if len(e.Data) == 0 {
			continue
		}
		for off := range e.Data {
			e.Data[off] ^= 1
			text, ok := e.Text()
			_, _, _, isVariable := e.Variable()
			e.Data[off] ^= 1
			honest, _ := e.Text()
			if isVariable || ok && text != honest {
				t.Fatalf("event %d (%v): byte %d changed and still used", i, e.Type, off)
			}
		}
	}
	after, _ := l.Replay(tpm.AlgSHA256)
	for pcr := range before {
		if !bytes.Equal(before[pcr], after[pcr]) {
			t.Fatal("the test changed the log")
		}
	}
}

// TestForgedSecureBoot is the attack of a node with Secure Boot off: after boot
// it extends PCR 7 with a variable that says on, and logs the true one as
// something else, or the separator, or both.
func TestForgedSecureBoot(t *testing.T) {
	off, on := variable("SecureBoot", []byte{0}), variable("SecureBoot", []byte{1})
	config, other := eventlog.VariableDriverConfig, eventlog.Type(0x8401)
	for name, tt := range map[string]struct {
		offType, separatorType eventlog.Type
		offData                []byte
	}{
		"late":                       {config, eventlog.Separator, off},
		"true one relabelled":        {other, eventlog.Separator, off},
		"true one's data changed":    {config, eventlog.Separator, on},
		"separator relabelled":       {config, other, off},
		"both relabelled":            {other, other, off},
		"true one as an image":       {eventlog.BootServicesApp, other, []byte("x")},
		"true one without data":      {config, eventlog.Separator, nil},
		"separator as its own value": {other, config, off},
	} {
		l := parse(t, newBuilder(tpm.AlgSHA256).
			event(7, tt.offType, off, tt.offData).
			event(7, tt.separatorType, zeros, zeros).
			event(7, config, on, on).
			event(7, eventlog.Separator, zeros, zeros).b)
		if s := l.SecureBoot(); s.Enabled {
			t.Errorf("%s: %+v", name, s)
		}
	}
	// The separator must be there, whatever bank it is in, and not by type alone.
	for name, b := range map[string]*builder{
		"no separator":     newBuilder(tpm.AlgSHA256).event(7, config, on, on),
		"false separator":  newBuilder(tpm.AlgSHA256).event(7, config, on, on).event(7, eventlog.Separator, []byte("code"), zeros),
		"other PCR":        newBuilder(tpm.AlgSHA256).event(6, config, on, on).event(7, eventlog.Separator, zeros, zeros),
		"twice":            newBuilder(tpm.AlgSHA256).event(7, config, on, on).event(7, config, on, on).event(7, eventlog.Separator, zeros, zeros),
		"value of 2":       newBuilder(tpm.AlgSHA256).event(7, config, variable("SecureBoot", []byte{2}), variable("SecureBoot", []byte{2})).event(7, eventlog.Separator, zeros, zeros),
		"name with a NUL":  newBuilder(tpm.AlgSHA256).event(7, config, variable("SecureBoot\x00", []byte{1}), variable("SecureBoot\x00", []byte{1})).event(7, eventlog.Separator, zeros, zeros),
		"value only":       newBuilder(tpm.AlgSHA256).event(7, config, []byte{1}, on).event(7, eventlog.Separator, zeros, zeros),
		"boot variable":    newBuilder(tpm.AlgSHA256).event(7, eventlog.VariableBoot, []byte{1}, on).event(7, eventlog.Separator, zeros, zeros),
		"not even PCR 7's": newBuilder(tpm.AlgSHA256).event(7, eventlog.Separator, zeros, zeros).event(7, config, on, on),
	} {
		if s := parse(t, b.b).SecureBoot(); s.Known {
			t.Errorf("%s: %+v", name, s)
		}
	}
	good := newBuilder(tpm.AlgSHA256, tpm.AlgSHA384).event(7, config, on, on).event(7, eventlog.Separator, zeros, zeros)
	if s := parse(t, good.b).SecureBoot(); s != (eventlog.State{Known: true, Enabled: true, Event: 1}) {
		t.Errorf("an honest log: %+v", s)
	}
}

// TestDigestForgedInOneBank: data must hash in every bank; a digest of a bank
// that was not quoted is free to choose.
func TestDigestForgedInOneBank(t *testing.T) {
	on := variable("SecureBoot", []byte{1})
	l := parse(t, newBuilder(tpm.AlgSHA1, tpm.AlgSHA256).event(7, eventlog.VariableDriverConfig, on, on).b)
	e := &l.Events[1]
	for i := range e.Digests {
		e.Digests[i].Sum = bytes.Clone(e.Digests[i].Sum)
		e.Digests[i].Sum[0] ^= 1
		if e.DataVerified() {
			t.Errorf("verified though the %v digest is another", e.Digests[i].Alg)
		}
		e.Digests[i].Sum[0] ^= 1
	}
	e.Digests = nil
	if e.DataVerified() {
		t.Error("verified without a digest")
	}
}

// TestSwappedLabel: GRUB's label is not measured, so the kernel command line
// cannot be told from a command by it.
func TestSwappedLabel(t *testing.T) {
	l := parse(t, read(t, "boots/c-grub-sb/eventlog.bin"))
	for i := range l.Events {
		e := &l.Events[i]
		if e.Label() != "kernel_cmdline" {
			continue
		}
		honest, ok := e.Text()
		e.Data = bytes.Replace(e.Data, []byte("kernel_cmdline: "), []byte("grub_cmd: "), 1)
		text, _ := e.Text()
		if !ok || text != honest || strings.Contains(text, "kernel_cmdline") || !strings.HasPrefix(text, "/vmlinuz ") {
			t.Errorf("text %q and %q: expected the command line, without a label, in both", honest, text)
		}
		if d := e.Description(); !strings.Contains(d, "unverified label: grub_cmd") {
			t.Errorf("description %s does not say that the label is unverified", d)
		}
		return
	}
	t.Fatal("no kernel command line in the log")
}

// TestTerminalEscape: what a description shows cannot move the cursor or hide,
// and says "unverified" where no digest covers it.
func TestTerminalEscape(t *testing.T) {
	for _, evil := range []string{"\x1b[2J", "a\rb", "\x00x\x07", "x\u202ey", "\u2066", string([]byte{0x9b, '3', '1', 'm'}), "new\nline"} {
		for _, typ := range types {
			for _, data := range [][]byte{
				[]byte(evil),
				utf16le(evil),
				[]byte("grub_cmd: " + evil),
				variable(evil, []byte(evil)),
				variable("Boot0001", append(make([]byte, 20), utf16le(evil+"\x00")...)),
			} {
				for _, measured := range [][]byte{data, []byte("something else")} {
					l := parse(t, newBuilder(tpm.AlgSHA256).event(8, typ, measured, data).b)
					e := &l.Events[1]
					d := e.Description()
					if strings.ContainsFunc(d, func(r rune) bool { return !unicode.IsPrint(r) }) {
						t.Fatalf("%v with %q: description %q", typ, data, d)
					}
					if !e.DataVerified() && !strings.Contains(d, "unverified") && typ != eventlog.NoAction {
						t.Fatalf("%v with %q: description %q does not say unverified", typ, data, d)
					}
				}
			}
		}
	}
}
