package tpm

import (
	"encoding/binary"
	"fmt"
)

// TPM_ALG_ID and TPM_ECC_CURVE values outside of the hash algorithms
// (TCG Algorithm Registry, tables 3 and 4).
const (
	algRSA    = 0x0001
	algAES    = 0x0006
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAPSS = 0x0016
	algECDSA  = 0x0018
	algECC    = 0x0023
	algCFB    = 0x0043

	curveP256 = 0x0003
	curveP384 = 0x0004
)

// reader takes big-endian fields off the front of b. The first failure stays
// in err; what is read after it is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int, what string) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.b) < n {
		r.err = fmt.Errorf("reading %s: %d bytes left, want %d", what, len(r.b), n)
		return nil
	}
	var head []byte
	head, r.b = r.b[:n:n], r.b[n:]
	return head
}

func (r *reader) u8(what string) uint8 {
	if b := r.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(what string) uint32 {
	if b := r.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64(what string) uint64 {
	if b := r.take(8, what); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B: a uint16 length of at most max, and as many bytes.
func (r *reader) sized(max int, what string) []byte {
	if len(r.b) < 2 {
		r.fail("reading size of %s: %d bytes left, want 2", what, len(r.b))
	}
	n := int(r.u16(what))
	if r.err == nil && n > max {
		r.fail("reading %s: %d bytes, at most %d are allowed", what, n, max)
	}
	return r.take(n, what)
}

// fail records an error unless there is one already.
func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// end returns the first error, or that bytes are left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%d bytes after the end", len(r.b))
	}
	return r.err
}

// appendSized appends b as a TPM2B. Every caller's b was read by sized or is a
// digest, so its length fits.
func appendSized(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(b))), b...)
}
