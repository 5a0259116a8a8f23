package verifier

import (
	"bytes"
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

	logs  map[string]evidence.Item // by digest; nodes of a class share most
	bytes int
}

// heldList is a list by the blobs it is made of: lists of two boots can have one
// length.
type heldList struct {
	chunks []string
	list   evidence.Item
}

// maxHeld bounds each cache (bytes); past it everything is dropped and read anew.
const maxHeld = 256 << 20

func (h *held) init() { h.lists, h.logs = map[string]heldList{}, map[string]evidence.Item{} }

func (h *held) log(sum string) evidence.Item {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs[sum]
}

func (h *held) putLog(sum string, log evidence.Item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	size := len(log.Content)
	if h.bytes += size - len(h.logs[sum].Content); h.bytes > maxHeld {
		h.logs, h.bytes = map[string]evidence.Item{}, size
	}
	h.logs[sum] = log
}

func (h *held) get(node string, chunks []string) evidence.Item {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lists[node]; slices.Equal(l.chunks, chunks) {
		return l.list
	}
	return evidence.Item{}
}

func (h *held) put(node string, chunks []string, list evidence.Item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	size := len(list.Content)
	if h.size += size - len(h.lists[node].list.Content); h.size > maxHeld {
		h.lists, h.size = map[string]heldList{}, size
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
func (s *Service) bootLog(ctx context.Context, sum string) (evidence.Item, error) {
	if log := s.held.log(sum); log.Present() {
		return log, nil
	}
	b, err := s.blob(ctx, sum)
	if err != nil {
		return evidence.Item{}, err
	}
	log := evidence.Whole(b)
	s.held.putLog(sum, log)
	return log, nil
}

// provenIMA is the prefix of the node's IMA list that earlier quotes proved.
func (s *Service) provenIMA(ctx context.Context, n *Node) (evidence.Item, error) {
	if n.Boot == nil || n.Boot.IMA == nil {
		return evidence.Item{}, nil
	}
	if l := s.held.get(n.ID, n.IMAChunks); l.Present() {
		return l, nil
	}
	b, err := s.join(ctx, n.IMAChunks)
	if err != nil {
		return evidence.Item{}, fmt.Errorf("reading the IMA list of node %s: %w", n.ID, err)
	}
	list := evidence.Whole(b)
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
	list, end := a.in.Evidence.Item(evidence.IMALog), n.Boot.IMA.Offset
	if end < uint64(len(list.Content)) {
		list = evidence.Whole(list.Content[:end:end])
	}
	s.held.put(n.ID, n.IMAChunks, list.Grow(nil)) // a list sent whole has no digest yet
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
		if ev, err = ev.Complete(evidence.UEFILog, log); err != nil {
			return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: err.Error()}
		}
	}
	if it := ev.Item(evidence.IMALog); it.Offset > 0 {
		list, err := s.provenIMA(ctx, n)
		if err != nil {
			return nil, err
		}
		if it.Offset > uint64(len(list.Content)) {
			return nil, protocol.Refuse(protocol.LogNotHeld, "the IMA list is proven up to byte %d only; send it from there", len(list.Content))
		}
		if more, ok := bytes.CutPrefix(it.Content, list.Content[it.Offset:]); ok {
			list = list.Grow(more)
		} else { // the node's word against what it proved: judged as it is sent
			list = evidence.Whole(slices.Concat(list.Content[:it.Offset], it.Content))
		}
		if ev, err = ev.Complete(evidence.IMALog, list); err != nil {
			return nil, &protocol.Refusal{Code: protocol.EvidenceMalformed, Detail: err.Error()}
		}
	}
	return ev, nil
}
