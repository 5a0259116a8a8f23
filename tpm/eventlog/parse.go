package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/writ-attestation/writ/tpm"
)

const (
	specIDLegacy  = "Spec ID Event00\x00" // TPM 1.2, BIOS
	specIDLegacy2 = "Spec ID Event02\x00" // TPM 1.2, UEFI
	specIDAgile   = "Spec ID Event03\x00" // TPM 2.0, PFP 10.4.5.1

	maxBanks      = 16
	maxDigestSize = 128
)

// Parse reads a whole log, in the crypto-agile format (PFP 10.2.2) or the old
// one with SHA-1 digests only (10.2.1). It refuses anything that is not a log
// to its last byte; [Log.Marshal] gives the same bytes back.
func Parse(b []byte) (*Log, error) {
	switch {
	case len(b) == 0:
		return nil, errors.New("empty file: expected a boot log; read the kernel's binary_bios_measurements")
	case len(b) > MaxSize:
		return nil, fmt.Errorf("boot log has %d bytes: expected at most %d", len(b), MaxSize)
	}
	r := &reader{b: b}
	first, err := r.legacyEvent()
	if err != nil {
		return nil, fmt.Errorf("reading event 0: %w", err)
	}
	l := &Log{Algs: []tpm.Alg{tpm.AlgSHA1}}
	switch {
	case bytes.HasPrefix(first.Data, []byte(specIDAgile)) && first.Type == NoAction:
		if err := l.parseSpecID(first.Data, r); err != nil {
			return nil, fmt.Errorf("reading the Spec ID header: %w", err)
		}
	case bytes.HasPrefix(first.Data, []byte(specIDLegacy)), bytes.HasPrefix(first.Data, []byte(specIDLegacy2)):
	case !first.Measured():
		return nil, fmt.Errorf("event 0 is %v in PCR %d: expected a Spec ID header or a measurement; this is no boot log", first.Type, first.PCR)
	}
	if err := l.parseEvents(first, r); err != nil {
		return nil, err
	}
	return l, nil
}

// parseEvents reads all records after the first.
func (l *Log) parseEvents(first Event, r *reader) error {
	l.Events = append(make([]Event, 0, 128), first)
	var locality bool
	for len(r.b) > 0 {
		i := len(l.Events)
		if i >= MaxEvents {
			return fmt.Errorf("boot log has more than %d events", MaxEvents)
		}
		e, err := l.parseEvent(r)
		if err != nil {
			return fmt.Errorf("reading event %d: %w", i, err)
		}
		e.Index = i
		if _, ok := e.startupLocality(); ok {
			if locality {
				return fmt.Errorf("reading event %d: a second StartupLocality; expected one", i)
			}
			locality = true
		}
		l.Events = append(l.Events, e)
	}
	return nil
}

func (l *Log) parseEvent(r *reader) (Event, error) {
	if l.sizes == nil {
		return r.legacyEvent()
	}
	return r.agileEvent(l.sizes)
}

// parseSpecID reads TCG_EfiSpecIDEvent (PFP 10.4.5.1): signature[16],
// platformClass u32, versions[3], uintnSize, algorithm count u32, {id u16,
// size u16} each, vendor info behind its one-byte size.
func (l *Log) parseSpecID(data []byte, r *reader) error {
	h := &reader{b: data[len(specIDAgile):]}
	h.take(8)
	n := h.u32()
	if n == 0 || n > maxBanks {
		return fmt.Errorf("%d algorithms announced: expected 1 to %d", n, maxBanks)
	}
	l.Algs, l.sizes = make([]tpm.Alg, 0, n), make(map[tpm.Alg]int, n)
	for range n {
		alg, size := tpm.Alg(h.u16()), int(h.u16())
		if _, twice := l.sizes[alg]; twice {
			return fmt.Errorf("%v is announced twice", alg)
		}
		if known := alg.Size(); size == 0 || size > maxDigestSize || known != 0 && known != size {
			return fmt.Errorf("%v is announced with digests of %d bytes", alg, size)
		}
		l.Algs, l.sizes[alg] = append(l.Algs, alg), size
	}
	vendor := int(h.u8())
	if h.err != nil {
		return h.err
	}
	// Some firmware leaves the vendor info out of the header's own size, and
	// tpm2-tools reads it so (tpm2-tools fixture specid-vendordata).
	if vendor > 0 && len(h.b) == 0 {
		l.vendor = r.take(vendor)
		return r.err
	}
	h.take(vendor)
	if h.err == nil && len(h.b) != 0 {
		return fmt.Errorf("%d bytes after the vendor info", len(h.b))
	}
	return h.err
}

// Marshal returns the bytes of the log, those that were parsed.
func (l *Log) Marshal() []byte {
	var b []byte
	for i := range l.Events {
		e := &l.Events[i]
		b = binary.LittleEndian.AppendUint32(b, e.PCR)
		b = binary.LittleEndian.AppendUint32(b, uint32(e.Type))
		if l.sizes == nil || i == 0 {
			b = append(b, e.Digest(tpm.AlgSHA1)...)
		} else {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Digests)))
			for _, d := range e.Digests {
				b = binary.LittleEndian.AppendUint16(b, uint16(d.Alg))
				b = append(b, d.Sum...)
			}
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
		if i == 0 {
			b = append(b, l.vendor...)
		}
	}
	return b
}

var errShort = errors.New("the log ends inside the record: it was cut or is no boot log; copy it again")

// A reader takes fields off the front of b; the first short read sets err and
// all later ones return zero.
type reader struct {
	b    []byte
	err  error
	slab []Digest // digests of many events share one allocation
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		r.b = nil
		return nil
	}
	f := r.b[:n:n]
	r.b = r.b[n:]
	return f
}

func (r *reader) u8() (v uint8) {
	if f := r.take(1); f != nil {
		v = f[0]
	}
	return v
}

func (r *reader) u16() (v uint16) {
	if f := r.take(2); f != nil {
		v = binary.LittleEndian.Uint16(f)
	}
	return v
}

func (r *reader) u32() (v uint32) {
	if f := r.take(4); f != nil {
		v = binary.LittleEndian.Uint32(f)
	}
	return v
}

// data reads a u32 size and that many bytes. The size is compared with what is
// left before anything is done with it.
func (r *reader) data() []byte {
	n := r.u32()
	if r.err == nil && uint64(n) > uint64(len(r.b)) {
		r.err = fmt.Errorf("%d bytes of event data announced, %d are left: %w", n, len(r.b), errShort)
		return nil
	}
	return r.take(int(n))
}

// digests returns room for n digests.
func (r *reader) digests(n int) []Digest {
	if len(r.slab) < n {
		r.slab = make([]Digest, max(n, 256))
	}
	d := r.slab[:n:n]
	r.slab = r.slab[n:]
	return d
}

// legacyEvent reads TCG_PCClientPCREvent: PCR u32, type u32, SHA-1 digest, data.
func (r *reader) legacyEvent() (Event, error) {
	e := Event{PCR: r.u32(), Type: Type(r.u32()), Digests: r.digests(1)}
	e.Digests[0] = Digest{tpm.AlgSHA1, r.take(tpm.AlgSHA1.Size())}
	e.Data = r.data()
	return e, r.err
}

// agileEvent reads TCG_PCR_EVENT2: PCR u32, type u32, digest count u32,
// {algorithm u16, digest} each, data. Firmware may log fewer banks than it
// announced, never others or one twice.
func (r *reader) agileEvent(sizes map[tpm.Alg]int) (Event, error) {
	e := Event{PCR: r.u32(), Type: Type(r.u32())}
	n := r.u32()
	if n > uint32(len(sizes)) {
		return e, fmt.Errorf("%d digests: the header announces %d algorithms", n, len(sizes))
	}
	e.Digests = r.digests(int(n))
	for i := range e.Digests {
		alg := tpm.Alg(r.u16())
		size, ok := sizes[alg]
		if r.err == nil && !ok {
			return e, fmt.Errorf("a digest of %v, which the header does not announce", alg)
		}
		for _, d := range e.Digests[:i] {
			if d.Alg == alg && r.err == nil {
				return e, fmt.Errorf("two digests of %v", alg)
			}
		}
		e.Digests[i] = Digest{alg, r.take(size)}
	}
	e.Data = r.data()
	return e, r.err
}
