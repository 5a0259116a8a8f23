package packages_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/packages"
)

const (
	sumA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // of "a"
	sumB = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d" // of "b"
)

func archive(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "./", Typeflag: tar.TypeDir}, "")
	add(tar.Header{Name: "./bin/a", Typeflag: tar.TypeReg}, "a")
	add(tar.Header{Name: "./usr/share/b", Typeflag: tar.TypeReg}, "b")
	add(tar.Header{Name: "./usr/bin/link", Typeflag: tar.TypeLink, Linkname: "./bin/a"}, "")
	add(tar.Header{Name: "./usr/bin/symlink", Typeflag: tar.TypeSymlink, Linkname: "a"}, "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func member(name string, content []byte) []byte {
	b := fmt.Appendf(nil, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(content))
	b = append(b, content...)
	if len(content)%2 == 1 {
		b = append(b, '\n')
	}
	return b
}

var want = []packages.File{{Path: "/bin/a", Sum: sumA}, {Path: "/usr/share/b", Sum: sumB}, {Path: "/usr/bin/link", Sum: sumA}}

func TestDeb(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(archive(t))
	w.Close()
	start := slices.Concat([]byte("!<arch>\n"), member("debian-binary", []byte("2.0\n")), member("control.tar.gz", []byte("odd")))
	for name, b := range map[string][]byte{
		"gzip": slices.Concat(start, member("data.tar.gz", z.Bytes())),
		"none": slices.Concat(start, member("data.tar/", archive(t))),
		"tar":  archive(t),
	} {
		got, err := packages.Read(bytes.NewReader(b))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	_, err := packages.Read(bytes.NewReader(slices.Concat(start, member("data.tar.lzma", []byte("x")))))
	if err == nil || !strings.Contains(err.Error(), "dpkg-deb --fsys-tarfile") {
		t.Errorf("lzma: %v", err)
	}
	if got, err := packages.Read(bytes.NewReader(slices.Concat(start, member("data.tar.xz", []byte("x"))))); err == nil {
		t.Errorf("a broken xz stream: %v", got)
	}
}

// TestDpkgDeb reads what dpkg-deb builds.
func TestDpkgDeb(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for name, content := range map[string]string{"DEBIAN/control": "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.invalid>\nDescription: x\n", "usr/bin/x": "a"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, z := range []string{"xz", "zstd", "gzip", "none"} {
		deb := filepath.Join(dir, z+".deb")
		if out, err := exec.Command("dpkg-deb", "-Z"+z, "--build", root, deb).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		got, err := packages.Read(bytes.NewReader(b))
		if err != nil || !slices.Equal(got, []packages.File{{Path: "/usr/bin/x", Sum: sumA}}) {
			t.Errorf("%s: %v, %v", z, got, err)
		}
	}
}

// rpm writes a package with a header and no payload.
func rpm(algo uint32, digests ...string) []byte {
	be := binary.BigEndian
	var index, data []byte
	tag := func(id, kind, count uint32, content []byte) {
		for _, v := range []uint32{id, kind, uint32(len(data)), count} {
			index = be.AppendUint32(index, v)
		}
		data = append(data, content...)
	}
	n := uint32(len(digests))
	var names, modes, flags, dirs []byte
	for i := range digests {
		names = fmt.Appendf(names, "f%d\x00", i)
		mode := uint16(0o100755)
		if digests[i] == "" {
			mode = 0o040755
		}
		modes, flags, dirs = be.AppendUint16(modes, mode), be.AppendUint32(flags, 0), be.AppendUint32(dirs, 0)
	}
	tag(1037, 4, n, flags)
	tag(1116, 4, n, dirs)
	tag(5011, 4, 1, be.AppendUint32(nil, algo))
	tag(1030, 3, n, modes)
	tag(1035, 8, n, []byte(strings.Join(digests, "\x00")+"\x00"))
	tag(1117, 8, n, names)
	tag(1118, 8, 1, []byte("/usr/bin/\x00"))
	head := func(index, data []byte) []byte {
		b := be.AppendUint32([]byte{0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0}, uint32(len(index)/16))
		return slices.Concat(be.AppendUint32(b, uint32(len(data))), index, data)
	}
	lead := make([]byte, 96)
	copy(lead, []byte{0xed, 0xab, 0xee, 0xdb, 3})
	sig := head(be.AppendUint32(be.AppendUint32(be.AppendUint32(be.AppendUint32(nil, 1000), 4), 0), 1), make([]byte, 4))
	return slices.Concat(lead, sig, make([]byte, 4), head(index, data))
}

func TestRPM(t *testing.T) {
	got, err := packages.Read(bytes.NewReader(rpm(8, sumA, "", sumB)))
	if want := []packages.File{{Path: "/usr/bin/f0", Sum: sumA}, {Path: "/usr/bin/f2", Sum: sumB}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, b := range map[string][]byte{"MD5": rpm(1, sumA), "short digest": rpm(8, sumA[:40]), "cut": rpm(8, sumA)[:200]} {
		if _, err := packages.Read(bytes.NewReader(b)); err == nil {
			t.Errorf("read: %s", name)
		}
	}
}

func TestMergedUsr(t *testing.T) {
	got := packages.Lines(want, true)
	for _, l := range []string{sumA + "  /bin/a", sumA + "  /usr/bin/a", sumB + "  /usr/share/b"} {
		if !slices.Contains(got, l) {
			t.Errorf("%s is missing in %q", l, got)
		}
	}
	if len(got) != 4 || len(packages.Lines(want, false)) != 3 {
		t.Errorf("%q", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(rpm(8, sumA, sumB))
	f.Add(slices.Concat([]byte("!<arch>\n"), member("data.tar", archive(f))))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := packages.Read(bytes.NewReader(b))
		for _, file := range files {
			if err == nil && (!strings.HasPrefix(file.Path, "/") || len(file.Sum) != 64) {
				t.Errorf("%+v", file)
			}
		}
	})
}
