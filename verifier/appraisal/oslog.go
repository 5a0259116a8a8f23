package appraisal

import (
	"bytes"
	"encoding/hex"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/oslog"
	"github.com/writ-attestation/writ/verifier/rules"
)

// The PCRs that the operating system's own log speaks of: systemd's (11 to 15).
// What it says of others was not its to measure.
const firstOS, lastOS = 11, 15

// later is what the operating system measured after boot, as far as a quote
// proves it.
type later struct {
	values map[int][]byte
	events map[int][]logged
}

// osLog continues the boot log's replay of PCR 11 to 15 with systemd's log. Of each
// PCR the records up to the quoted value are proven; those behind came after the
// quote. Records are numbered on from the boot log's events.
func (r *run) osLog() {
	content := r.in.Evidence.Item(evidence.OSLog).Content
	if len(content) == 0 || r.log == nil {
		return
	}
	key := "os/" + hexSum(content)
	l, known := r.recall(key).(*oslog.Log)
	if !known {
		var err error
		if l, err = oslog.Parse(content); err != nil {
			r.say(osMalformed, "systemd's measurement log", err.Error(), "send /run/log/systemd/tpm2-measure.log unchanged")
			return
		}
		r.keep(key, l)
	}
	r.later = extend(l, r.bank, len(r.log.log.Events), r.log.value, r.in.Evidence.Quote.Values)
}

// extend replays the records of each PCR from its value after boot to the quoted
// one. A PCR that does not get there keeps its value after boot.
func extend(l *oslog.Log, bank tpm.Alg, first int, after func(int) []byte, quoted map[int][]byte) later {
	out := later{values: map[int][]byte{}, events: map[int][]logged{}}
	for p := firstOS; p <= lastOS; p++ {
		value := bytes.Clone(after(p))
		var events []logged
		for i := range l.Records {
			if bytes.Equal(value, quoted[p]) {
				break
			}
			rec := &l.Records[i]
			sum := rec.Digest(bank)
			if rec.PCR != p || len(sum) != bank.Size() {
				continue
			}
			value, _ = bank.AppendSum(nil, append(value, sum...))
			events = append(events, record(rec, bank, first+i))
		}
		if len(events) > 0 && bytes.Equal(value, quoted[p]) {
			out.values[p], out.events[p] = value, events
		}
	}
	return out
}

// record is a record of the log in the form of a boot event. Its text is the event's
// data, and is believed like that: where it hashes to the digest.
func record(rec *oslog.Record, bank tpm.Alg, index int) logged {
	e := &eventlog.Event{Index: index, PCR: uint32(rec.PCR), Type: eventlog.EFIAction, Data: []byte(rec.Text)}
	for _, d := range rec.Digests {
		e.Digests = append(e.Digests, eventlog.Digest{Alg: d.Alg, Sum: d.Sum})
	}
	return logged{e, hex.EncodeToString(rec.Digest(bank))}
}

// value is what the logs replay to for a PCR.
func (r *run) value(pcr int) []byte {
	if v, ok := r.later.values[pcr]; ok {
		return v
	}
	return r.log.value(pcr)
}

// events are the measured events of a PCR, in order.
func (r *run) events(pcr int) []logged {
	boot, os := r.log.events[pcr], r.later.events[pcr]
	if len(os) == 0 {
		return boot
	}
	return append(boot[:len(boot):len(boot)], os...)
}

// laterRules are the proven records as rules see events.
func (r *run) laterRules() []rules.Event {
	var out []rules.Event
	for p := firstOS; p <= lastOS; p++ {
		for _, e := range r.later.events[p] {
			text, _ := e.Text()
			out = append(out, rules.Event{Index: int64(e.Index), PCR: int64(p), Digest: e.digest, Text: text})
		}
	}
	return out
}
