package store

import (
	"crypto/sha256"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// maxBlob bounds what a blob unpacks to, in bytes.
const maxBlob = 256 << 20

// packer compresses blobs. It is for many goroutines.
type packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newPacker() (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxBlob))
	if err != nil {
		return nil, err
	}
	return &packer{enc, dec}, nil
}

// Pack implements ledger.Store.
func (p *packer) Pack(data []byte) (ledger.Blob, error) {
	if len(data) > maxBlob {
		return ledger.Blob{}, fmt.Errorf("blob has %d bytes, at most %d are kept", len(data), maxBlob)
	}
	return ledger.Blob{Sum: sha256.Sum256(data), Size: int64(len(data)), Packed: p.enc.EncodeAll(data, nil)}, nil
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
