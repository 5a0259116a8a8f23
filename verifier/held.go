package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// held keeps the proven IMA lists of nodes, and boot logs, in memory, so that a
// renewal does not read them from the store. It is a cache of stored blobs, nothing
// more.
type held struct {
	mu    sync.Mutex
	lists map[string]heldList // by node id
	size  int

	logs  map[string][]byte // by digest; nodes of a class share most
	bytes int
}

// heldList is a list by the blobs it is made of: lists of two boots can have one
// length.
type heldList struct {
	chunks []string
	list   []byte
}

// maxHeld bounds each cache (bytes); past it everything is dropped and read anew.
const maxHeld = 256 << 20

func (h *held) init() { h.lists, h.logs = map[string]heldList{}, map[string][]byte{} }

func (h *held) log(sum string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs[sum]
}

func (h *held) putLog(sum string, log []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bytes += len(log); h.bytes > maxHeld {
		h.logs, h.bytes = map[string][]byte{}, len(log)
	}
	h.logs[sum] = log
}

func (h *held) get(node string, chunks []string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lists[node]; slices.Equal(l.chunks, chunks) {
		return l.list
	}
	return nil
}

func (h *held) put(node string, chunks []string, list []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size += len(list) - len(h.lists[node].list)
	if h.size > maxHeld {
		h.lists, h.size = map[string]heldList{}, len(list)
	}
	h.lists[node] = heldList{chunks, list}
}

func (s *Service) blob(ctx context.Context, hexSum string) ([]byte, error) {
	b, err := hex.DecodeString(hexSum)
	if err != nil || len(b) != 32 {
		return nil, fmt.Errorf("reading blob %.80q: not a SHA-256 digest", hexSum)
	}
	return s.log.Blob(ctx, [32]byte(b))
}

// bootLog is the boot log with a digest.
func (s *Service) bootLog(ctx context.Context, sum string) ([]byte, error) {
	if log := s.held.log(sum); log != nil {
		return log, nil
	}
	log, err := s.blob(ctx, sum)
	if err == nil {
		s.held.putLog(sum, log)
	}
	return log, err
}

// provenIMA is the prefix of the node's IMA list that earlier quotes proved.
func (s *Service) provenIMA(ctx context.Context, n *Node) ([]byte, error) {
	if n.Boot == nil || n.Boot.IMA == nil {
		return nil, nil
	}
	if l := s.held.get(n.ID, n.IMAChunks); l != nil {
		return l, nil
	}
	list, err := s.join(ctx, n.IMAChunks)
	if err != nil {
		return nil, fmt.Errorf("reading the IMA list of node %s: %w", n.ID, err)
	}
	s.held.put(n.ID, n.IMAChunks, list)
	return list, nil
}

func (s *Service) join(ctx context.Context, chunks []string) ([]byte, error) {
	var list []byte
	for _, c := range chunks {
		b, err := s.blob(ctx, c)
		if err != nil {
			return nil, err
		}
		list = append(list, b...)
	}
	return list, nil
}

// hold keeps the list that a decision proved, where it is known to be what the
// blobs hold.
func (s *Service) hold(a *appraised, n *Node) {
	if n.Doubt || n.Boot == nil || n.Boot.IMA == nil || a.resumes() && !a.shared {
		return
	}
	end := n.Boot.IMA.Offset
	s.held.put(n.ID, n.IMAChunks, a.in.Evidence.Item(evidence.IMALog).Content[:end:end])
}

// complete returns the evidence with every log in full, from what is held for
// this node alone.
func (s *Service) complete(ctx context.Context, n *Node, ev *evidence.Evidence) (*evidence.Evidence, error) {
	if it := ev.Item(evidence.UEFILog); it.Digest != nil {
		if n.Boot == nil || n.Boot.BootLog != hex.EncodeToString(it.Digest) {
			return nil, protocol.Refuse(protocol.LogNotHeld, "no boot log with this digest is held for the node; send the log itself")
		}
		log, err := s.bootLog(ctx, n.Boot.BootLog)
		if err != nil {
			return nil, err
		}
		if ev, err = ev.Full(evidence.UEFILog, log); err != nil {
			return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: err.Error()}
		}
	}
	if it := ev.Item(evidence.IMALog); it.Offset > 0 {
		list, err := s.provenIMA(ctx, n)
		if err != nil {
			return nil, err
		}
		if it.Offset > uint64(len(list)) {
			return nil, protocol.Refuse(protocol.LogNotHeld, "the IMA list is proven up to byte %d only; send it from there", len(list))
		}
		full := append(list[:it.Offset:it.Offset], it.Content...)
		if ev, err = ev.Full(evidence.IMALog, full); err != nil {
			return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: err.Error()}
		}
	}
	return ev, nil
}
