// Package packages lists the files of Debian and RPM packages with their
// SHA-256, for allow lists.
//
// What it reads is not authenticated here: check the package's or the
// repository's signature first. A list speaks of the files as they are shipped;
// what maintainer scripts write or change on the machine is not among them.
package packages

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Bounds: files of a package, bytes of all of them unpacked, and bytes of what a
// decompressor remembers.
const (
	maxFiles  = 500_000
	maxBytes  = 32 << 30
	maxWindow = 256 << 20
)

// File is a regular file of a package.
type File struct {
	Path string // absolute
	Sum  string // hexadecimal digest
}

// Lines writes files as lines of an allow list. With merged, a file below /bin,
// /sbin or /lib* is listed below /usr too, where the kernel sees it on systems
// whose /usr is merged.
func Lines(files []File, merged bool) []string {
	var out []string
	for _, f := range files {
		if strings.ContainsAny(f.Path, "\n\x00") {
			continue // no list can hold it, so it stays unknown
		}
		out = append(out, f.Sum+"  "+f.Path)
		if top, _, _ := strings.Cut(f.Path[1:], "/"); merged && (top == "bin" || top == "sbin" || strings.HasPrefix(top, "lib")) {
			out = append(out, f.Sum+"  /usr"+f.Path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Read lists the regular files of a .deb, an .rpm or a bare tar archive, told
// apart by their contents. Of an RPM the header is enough.
func Read(r io.Reader) ([]File, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	magic, err := b.Peek(8)
	if err != nil {
		return nil, fmt.Errorf("reading package: %w", err)
	}
	switch {
	case bytes.Equal(magic, []byte("!<arch>\n")):
		return readDeb(b)
	case bytes.HasPrefix(magic, []byte{0xed, 0xab, 0xee, 0xdb}):
		return readRPM(b)
	}
	return readTar(b)
}

// readDeb finds data.tar in the ar archive of a .deb (deb(5)).
func readDeb(r *bufio.Reader) ([]File, error) {
	if _, err := r.Discard(8); err != nil {
		return nil, fmt.Errorf("reading .deb: %w", err)
	}
	var h [60]byte
	for range 64 {
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return nil, fmt.Errorf("reading .deb: no data.tar in it: %w", err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
		if err != nil || size < 0 || h[58] != '`' || h[59] != '\n' {
			return nil, errors.New("reading .deb: malformed ar header")
		}
		name := strings.TrimSuffix(strings.TrimSpace(string(h[:16])), "/")
		if strings.HasPrefix(name, "data.tar") {
			return readData(name, io.LimitReader(r, size))
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("reading .deb: member %.16q: %w", name, err)
		}
	}
	return nil, errors.New("reading .deb: no data.tar among the first 64 members")
}

func readData(name string, r io.Reader) ([]File, error) {
	switch name {
	case "data.tar":
		return readTar(r)
	case "data.tar.gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		return readTar(z)
	case "data.tar.bz2":
		return readTar(bzip2.NewReader(r))
	case "data.tar.xz":
		z, err := xz.NewReader(r, maxWindow)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		return readTar(z)
	case "data.tar.zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		defer z.Close()
		return readTar(z)
	}
	return nil, fmt.Errorf("reading .deb: %s is compressed in a way not known here; unpack it with dpkg-deb --fsys-tarfile FILE.deb > FILE.tar and import that", name)
}

func readTar(r io.Reader) ([]File, error) {
	t := tar.NewReader(io.LimitReader(r, maxBytes))
	var out []File
	sums := map[string]string{}
	for {
		h, err := t.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading tar archive: %w", err)
		}
		if len(out) >= maxFiles {
			return nil, fmt.Errorf("reading tar archive: more than %d files", maxFiles)
		}
		name := path.Clean("/" + h.Name)
		var sum string
		switch h.Typeflag {
		case tar.TypeReg:
			s := sha256.New()
			if _, err := io.Copy(s, t); err != nil {
				return nil, fmt.Errorf("reading %.200q: %w", h.Name, err)
			}
			sum = fmt.Sprintf("%x", s.Sum(nil))
		case tar.TypeLink:
			if sum = sums[path.Clean("/"+h.Linkname)]; sum == "" {
				return nil, fmt.Errorf("reading %.200q: hard link to %.200q, which is not before it", h.Name, h.Linkname)
			}
		default:
			continue
		}
		sums[name] = sum
		out = append(out, File{name, sum})
	}
}
