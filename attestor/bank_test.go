package attestor

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestSHA384Bank: a machine whose firmware measures with SHA-384 alone is learnt
// from, attests and renews over that bank, boot log and IMA list included.
func TestSHA384Bank(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "bank.invalid")
	b := d.boxOf("h-sha384", tpm.AlgSHA384)
	b.aggregateSHA384()
	if set := b.learn(); set.Bank != "sha384" || len(set.PCRs) == 0 || set.IMA == nil {
		t.Fatalf("learnt bank %q, %d PCRs, IMA %v", set.Bank, len(set.PCRs), set.IMA)
	}
	l := &line{d: d}
	a := b.agent(l)
	b.mustAttest(a)
	b.grow()
	b.mustAttest(a)
	for _, ev := range l.sent {
		if ev.Quote.Bank != tpm.AlgSHA384 || len(ev.Quote.Values[0]) != 48 {
			t.Errorf("quoted %s, PCR 0 of %d bytes", ev.Quote.Bank, len(ev.Quote.Values[0]))
		}
	}
}

// TestAggregateOfAnotherBank: the recorded kernel linked its list to the SHA-256
// bank, which a quote over SHA-384 does not prove; ima_hash=sha384 ends that.
func TestAggregateOfAnotherBank(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "bank.invalid")
	b := d.boxOf("h-sha384", tpm.AlgSHA384)
	b.learn()
	a := b.agent(&line{d: d})
	if err := a.attest(context.Background(), false); err == nil || !strings.Contains(err.Error(), "ima/boot-aggregate") {
		t.Errorf("%v, want a denial with ima/boot-aggregate", err)
	}
}

// aggregateSHA384 boots the machine again with the list a kernel with
// ima_hash=sha384 begins: its boot_aggregate is over the SHA-384 bank.
func (b *box) aggregateSHA384() {
	b.t.Helper()
	raw := b.read("ima.bin")
	list, err := ima.Parse(raw)
	if err != nil {
		b.t.Fatal(err)
	}
	log, err := eventlog.Parse(b.read("eventlog.bin"))
	if err != nil {
		b.t.Fatal(err)
	}
	values, err := log.Replay(tpm.AlgSHA384)
	if err != nil {
		b.t.Fatal(err)
	}
	for pcr := range 10 {
		if values[pcr] == nil {
			values[pcr] = make([]byte, 48)
		}
	}
	field := func(parts ...[]byte) []byte {
		all := bytes.Join(parts, nil)
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(all))), all...)
	}
	data := bytes.Join([][]byte{field([]byte("sha384:\x00"), ima.BootAggregate(tpm.AlgSHA384, values, tpm.AlgSHA384)), field([]byte("boot_aggregate\x00")), field()}, nil)
	sum := sha1.Sum(data)
	entry := bytes.Join([][]byte{{10, 0, 0, 0}, sum[:], field([]byte("ima-sig")), field(data)}, nil)
	b.write("ima.bin", append(entry, raw[list.Entries[0].End:]...))
	if err := b.swtpm.PowerCycle(true); err != nil {
		b.t.Fatal(err)
	}
	b.boot()
}

// TestQuoteOverAnotherBank: firmware can leave a bank at zero, or extend it with
// less; what the set demands is what counts.
func TestQuoteOverAnotherBank(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "bank.invalid")
	b := d.boxOf("h-sha384", tpm.AlgSHA384)
	b.learn()
	b.bank = tpm.AlgSHA256
	a := b.agent(&line{d: d})
	err := a.attest(context.Background(), false)
	var r *protocol.Refusal
	if !errors.As(err, &r) || r.Code != protocol.PolicyDenied {
		t.Fatalf("%v, want a denial", err)
	}
	if v := string(a.Status().Verdict); !strings.Contains(v, "quote/bank") {
		t.Errorf("verdict %s, want quote/bank", v)
	}
}
