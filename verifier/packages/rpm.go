package packages

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// The layout is that of RPM's docs/manual/format_v4.md: lead [96], signature
// header padded to 8, header, payload. Header: magic [3], version, reserved [4],
// entries u32, bytes of data u32, entries of (tag, type, offset, count) u32, data.
const (
	rpmLead    = 96
	maxEntries = 1 << 16
	maxHeader  = 256 << 20
)

// Tags and types of the header.
const (
	tagFileModes   = 1030
	tagFileDigests = 1035
	tagFileFlags   = 1037
	tagDirIndexes  = 1116
	tagBaseNames   = 1117
	tagDirNames    = 1118
	tagDigestAlgo  = 5011

	typeInt16       = 3
	typeInt32       = 4
	typeStringArray = 8

	ghostFile = 1 << 6 // RPMFILE_GHOST: owned, not shipped
	sha256PGP = 8      // PGPHASHALGO_SHA256
)

type rpmEntry struct{ kind, offset, count uint32 }

type rpmHeader struct {
	entries map[uint32]rpmEntry
	data    []byte
}

func readRPM(r io.Reader) ([]File, error) {
	if _, err := io.CopyN(io.Discard, r, rpmLead); err != nil {
		return nil, fmt.Errorf("reading .rpm: lead: %w", err)
	}
	signature, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("reading .rpm: signature header: %w", err)
	}
	if pad := (8 - len(signature.data)%8) % 8; pad > 0 {
		if _, err := io.CopyN(io.Discard, r, int64(pad)); err != nil {
			return nil, fmt.Errorf("reading .rpm: %w", err)
		}
	}
	h, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("reading .rpm: header: %w", err)
	}
	files, err := h.files()
	if err != nil {
		return nil, fmt.Errorf("reading .rpm: %w", err)
	}
	return files, nil
}

func readHeader(r io.Reader) (*rpmHeader, error) {
	var intro [16]byte
	if _, err := io.ReadFull(r, intro[:]); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	n, size := be.Uint32(intro[8:]), be.Uint32(intro[12:])
	if !bytes.HasPrefix(intro[:], []byte{0x8e, 0xad, 0xe8, 1}) || n > maxEntries || size > maxHeader {
		return nil, errors.New("not an RPM header of version 1")
	}
	index, err := io.ReadAll(io.LimitReader(r, int64(n)*16))
	if err != nil || len(index) != int(n)*16 {
		return nil, errors.New("the index is cut")
	}
	h := &rpmHeader{entries: make(map[uint32]rpmEntry, n)}
	if h.data, err = io.ReadAll(io.LimitReader(r, int64(size))); err != nil || len(h.data) != int(size) {
		return nil, errors.New("the data is cut")
	}
	for i := 0; i < len(index); i += 16 {
		h.entries[be.Uint32(index[i:])] = rpmEntry{be.Uint32(index[i+4:]), be.Uint32(index[i+8:]), be.Uint32(index[i+12:])}
	}
	return h, nil
}

// ints returns the numbers of a tag, nil if it is absent.
func (h *rpmHeader) ints(tag, kind uint32) ([]uint32, error) {
	e, ok := h.entries[tag]
	if !ok {
		return nil, nil
	}
	width := uint64(4)
	if kind == typeInt16 {
		width = 2
	}
	if e.kind != kind || uint64(e.offset)+uint64(e.count)*width > uint64(len(h.data)) {
		return nil, fmt.Errorf("tag %d is malformed", tag)
	}
	out := make([]uint32, e.count)
	for i := range out {
		b := h.data[uint64(e.offset)+uint64(i)*width:]
		if width == 2 {
			out[i] = uint32(binary.BigEndian.Uint16(b))
		} else {
			out[i] = binary.BigEndian.Uint32(b)
		}
	}
	return out, nil
}

func (h *rpmHeader) strings(tag uint32) ([]string, error) {
	e, ok := h.entries[tag]
	if !ok {
		return nil, nil
	}
	if e.kind != typeStringArray || uint64(e.offset) > uint64(len(h.data)) || e.count > maxFiles {
		return nil, fmt.Errorf("tag %d is malformed", tag)
	}
	var out []string
	rest := h.data[e.offset:]
	for range e.count {
		s, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return nil, fmt.Errorf("tag %d is cut", tag)
		}
		out, rest = append(out, string(s)), after
	}
	return out, nil
}

func (h *rpmHeader) files() ([]File, error) {
	names, err1 := h.strings(tagBaseNames)
	dirs, err2 := h.strings(tagDirNames)
	digests, err3 := h.strings(tagFileDigests)
	dirOf, err4 := h.ints(tagDirIndexes, typeInt32)
	modes, err5 := h.ints(tagFileModes, typeInt16)
	flags, err6 := h.ints(tagFileFlags, typeInt32)
	algo, err7 := h.ints(tagDigestAlgo, typeInt32)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return nil, err
	}
	n := len(names)
	if len(digests) != n || len(dirOf) != n || len(modes) != n || len(flags) != n {
		return nil, fmt.Errorf("%d files with %d digests, %d folders, %d modes and %d flags", n, len(digests), len(dirOf), len(modes), len(flags))
	}
	if n > 0 && (len(algo) != 1 || algo[0] != sha256PGP) {
		return nil, errors.New("file digests are not SHA-256, so they identify nothing")
	}
	var out []File
	for i, name := range names {
		if modes[i]&0o170000 != 0o100000 || flags[i]&ghostFile != 0 || digests[i] == "" {
			continue
		}
		sum, err := hex.DecodeString(digests[i])
		if err != nil || len(sum) != 32 || int64(dirOf[i]) >= int64(len(dirs)) || len(dirs[dirOf[i]]) == 0 || dirs[dirOf[i]][0] != '/' {
			return nil, fmt.Errorf("file %.200q is malformed", name)
		}
		out = append(out, File{dirs[dirOf[i]] + name, hex.EncodeToString(sum)})
	}
	return out, nil
}
