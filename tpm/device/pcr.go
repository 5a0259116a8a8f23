package device

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// PCRs reads PCRs (0 to 23) of a bank, eight per command, so that all are of one
// moment if that can be had in a few rounds. They are hints: only a quote proves
// values, and PCR 10 may have moved since.
func (t *TPM) PCRs(bank tpm.Alg, pcrs []int) (map[int][]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := sorted(pcrs)
	const rounds = 4
	for round := 1; ; round++ {
		values, steady, err := t.readPCRs(bank, want)
		if err != nil {
			return nil, fmt.Errorf("reading PCRs: %w", err)
		}
		if steady || round == rounds {
			return values, nil
		}
	}
}

// readPCRs reads want once and tells whether no PCR was extended meanwhile.
func (t *TPM) readPCRs(bank tpm.Alg, want []int) (values map[int][]byte, steady bool, err error) {
	values = make(map[int][]byte, len(want))
	steady = true
	var counter uint32
	for i := 0; i < len(want); i += 8 { // TPML_DIGEST holds eight (Part 2, 10.9.6)
		part := want[i:min(i+8, len(want))]
		sel, err := selection(bank, part)
		if err != nil {
			return nil, false, err
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: sel}.Execute(sender{t})
		if err != nil {
			return nil, false, explain(err)
		}
		if len(r.PCRValues.Digests) != len(part) {
			return nil, false, fmt.Errorf("the TPM has %d of PCRs %v in its %s bank: the bank is not active", len(r.PCRValues.Digests), part, bank)
		}
		for j, d := range r.PCRValues.Digests {
			values[part[j]] = d.Buffer
		}
		steady = steady && (i == 0 || r.PCRUpdateCounter == counter)
		counter = r.PCRUpdateCounter
	}
	return values, steady, nil
}

// Clock is TPMS_CLOCK_INFO (Part 2, 10.11.1): see [tpm.Quote] for its fields.
type Clock struct {
	Clock                    uint64 // milliseconds
	ResetCount, RestartCount uint32
	Safe                     bool
}

// Clock reads the TPM's clock and counters, unsigned.
func (t *TPM) Clock() (Clock, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := tpm2.ReadClock{}.Execute(sender{t})
	if err != nil {
		return Clock{}, fmt.Errorf("reading clock: %w", explain(err))
	}
	c := r.CurrentTime.ClockInfo
	return Clock{Clock: c.Clock, ResetCount: c.ResetCount, RestartCount: c.RestartCount, Safe: bool(c.Safe)}, nil
}
