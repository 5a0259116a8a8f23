package supervisor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"syscall"
	"testing"
)

// What a supervisor says is believed of the file that this process was executed from, as
// it was then, and of no other; and silence is not believed.
func TestMeasurementOfAnotherFile(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	own := sha256.Sum256(program)
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	self, err := identify(f)
	if err != nil {
		t.Fatal(err)
	}
	self.SHA256 = [32]byte{0xab} // told from what this process finds itself
	for name, c := range map[string]struct {
		change func(m *measurement)
		cut    int
		want   [32]byte
	}{
		"this file":              {func(*measurement) {}, 0, self.SHA256},
		"another file":           {func(m *measurement) { m.Ino++ }, 0, own},
		"on another file system": {func(m *measurement) { m.Dev++ }, 0, own},
		"before it was changed":  {func(m *measurement) { m.Nsec ^= 1 }, 0, own},
		"of another size":        {func(m *measurement) { m.Size++ }, 0, own},
		"cut off":                {func(*measurement) {}, 1, own},
		"nothing":                {func(*measurement) {}, binary.Size(self), own},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := self
			c.change(&m)
			var said bytes.Buffer
			if err := binary.Write(&said, binary.NativeEndian, m); err != nil {
				t.Fatal(err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := w.Write(said.Bytes()[:said.Len()-c.cut]); err != nil {
				t.Fatal(err)
			}
			w.Close()
			fd, err := syscall.Dup(int(r.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Digest(fd); err != nil || got != "sha256:"+hex.EncodeToString(c.want[:]) {
				t.Errorf("%s, %v; expected %x", got, err, c.want)
			}
		})
	}
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	r, err := measure("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(r.Fd()))
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	said, err := Digest(fd)
	if own, err2 := Digest(0); err != nil || err2 != nil || said != own {
		t.Errorf("%s (%v), expected %s (%v)", said, err, own, err2)
	}
	if r, err = measure("/no/such/program"); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, _ := r.Read(make([]byte, 1)); n != 0 {
		t.Error("something is said of a program that is not there")
	}
}
