package store

import (
	"bytes"
	"crypto/rand"
	"testing"
)

// TestPackedAgain: a blob packed before is the same, also once it was forgotten,
// and what is remembered stays bounded.
func TestPackedAgain(t *testing.T) {
	p, err := newPacker()
	if err != nil {
		t.Fatal(err)
	}
	log := bytes.Repeat([]byte("a log of a class "), 1000)
	first, err := p.Pack(log)
	if err != nil {
		t.Fatal(err)
	}
	other := make([]byte, 1<<20)
	for i := range 3 * maxPacked >> 20 {
		rand.Read(other)
		if _, err := p.Pack(other); err != nil {
			t.Fatal(err)
		}
		again, err := p.Pack(log)
		if err != nil || again.Sum != first.Sum || again.Size != first.Size || !bytes.Equal(again.Packed, first.Packed) {
			t.Fatalf("after %d others it is another blob (%v)", i, err)
		}
		if back, err := p.unpack(again.Packed, again.Size); err != nil || !bytes.Equal(back, log) {
			t.Fatalf("it unpacks to something else (%v)", err)
		}
	}
	kept := 0
	for _, b := range p.now {
		kept += len(b.Packed)
	}
	for _, b := range p.old {
		kept += len(b.Packed)
	}
	if kept > 2*maxPacked {
		t.Errorf("%d bytes are remembered, at most %d should be", kept, 2*maxPacked)
	}
}
