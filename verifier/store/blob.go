package store

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// maxBlob bounds what a blob unpacks to, in bytes.
const maxBlob = 256 << 20

// packer compresses blobs. It is for many goroutines.
type packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder

	mu       sync.Mutex
	now, old map[ledger.Hash]ledger.Blob // packed before: logs of a class, enrolments
	size     int                         // of now, bytes
}

// maxPacked bounds each of two generations of packed blobs that are remembered
// (bytes); what is not asked for while one fills is forgotten.
const maxPacked = 16 << 20

func newPacker() (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxBlob))
	if err != nil {
		return nil, err
	}
	return &packer{enc: enc, dec: dec}, nil
}

// Pack implements ledger.Store.
func (p *packer) Pack(data []byte) (ledger.Blob, error) {
	if len(data) > maxBlob {
		return ledger.Blob{}, fmt.Errorf("blob has %d bytes, at most %d are kept", len(data), maxBlob)
	}
	sum := ledger.Hash(sha256.Sum256(data))
	b, known := p.recall(sum)
	if !known {
		b = ledger.Blob{Sum: sum, Size: int64(len(data)), Packed: p.enc.EncodeAll(data, nil)}
		p.keep(b)
	}
	return b, nil
}

func (p *packer) recall(sum ledger.Hash) (ledger.Blob, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.now[sum]; ok {
		return b, true
	}
	b, ok := p.old[sum]
	if ok {
		p.add(b)
	}
	return b, ok
}

func (p *packer) keep(b ledger.Blob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(b)
}

func (p *packer) add(b ledger.Blob) {
	size := len(b.Packed) + 256 // of the entry itself
	if size > maxPacked/8 {
		return
	}
	if p.now == nil || p.size+size > maxPacked {
		p.now, p.old, p.size = map[ledger.Hash]ledger.Blob{}, p.now, 0
	}
	p.now[b.Sum] = b
	p.size += size
}

func (p *packer) unpack(packed []byte, size int64) ([]byte, error) {
	if size < 0 || size > maxBlob {
		return nil, fmt.Errorf("%w: blob has size %d", ledger.ErrCorrupt, size)
	}
	data, err := p.dec.DecodeAll(packed, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("%w: unpacking blob: %w", ledger.ErrCorrupt, err)
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("%w: blob unpacks to %d bytes, expected %d", ledger.ErrCorrupt, len(data), size)
	}
	return data, nil
}

// checkBlob returns what is wrong with a stored blob, or "".
func (p *packer) checkBlob(sum []byte, size int64, packed []byte) string {
	data, err := p.unpack(packed, size)
	if err != nil {
		return fmt.Sprintf("blob %x: %v", sum, err)
	}
	if got := sha256.Sum256(data); string(got[:]) != string(sum) {
		return fmt.Sprintf("blob %x: it has the hash %x", sum, got)
	}
	return ""
}
