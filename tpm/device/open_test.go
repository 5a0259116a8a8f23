package device_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// wantNoTPM fails unless opening path fails with a hint that contains want.
func wantNoTPM(t testing.TB, path, want string) {
	t.Helper()
	dev, err := device.Open(path)
	if err == nil {
		dev.Close()
		t.Fatalf("opened %s", path)
	}
	var none *device.NoTPMError
	if !errors.As(err, &none) || !strings.Contains(none.Hint, want) {
		t.Fatalf("error %v, want a NoTPMError with the hint %q", err, want)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantNoTPM(t, filepath.Join(dir, "tpmrm0"), "enable it in the firmware setup")
	wantNoTPM(t, plain, "give /dev/tpmrm0")
	wantNoTPM(t, "swtpm:"+filepath.Join(dir, "none"), "start the software TPM first")
	wantNoTPM(t, "swtpm:"+strings.Repeat("x", 108), "use a shorter one")
	if os.Getuid() != 0 { // root may open anything
		locked := filepath.Join(dir, "locked")
		if err := os.Mkdir(locked, 0); err != nil {
			t.Fatal(err)
		}
		wantNoTPM(t, filepath.Join(locked, "tpm0"), "run as root")
	}
}

// swtpm's own socket serves one client: the next one's connection is accepted by
// the kernel and then nothing comes.
func TestOpenOfBusyTPM(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	silent, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	wantNoTPM(t, "swtpm:"+path, "one client at a time")
}

// A device that answers every read with nothing.
func TestOpenOfDevNull(t *testing.T) {
	t.Parallel()
	wantNoTPM(t, "/dev/null", "check that a TPM 2.0 is there")
}

func TestServedTPM(t *testing.T) {
	t.Parallel()
	i, ca := manufacture(t, swtpm.Options{})
	path := filepath.Join(t.TempDir(), "s")
	server, err := i.Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := device.Open("swtpm:" + path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := device.Open("swtpm:" + path)
	if err != nil {
		t.Fatal(err)
	}
	ak, p := makeAK(t, dev)
	quote(t, ak, p)
	eks, err := second.EKs()
	if err != nil {
		t.Fatal(err)
	}
	enrol(t, dev, eks[0], ak, p, ca)

	// Clients that vanish leave nothing behind.
	for range 4 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		makeAK(t, device.New(device.NewStream(conn)))
		conn.Close()
	}
	if err := errors.Join(dev.Close(), second.Close(), server.Close(), server.Close()); err != nil {
		t.Fatal(err)
	}
	open(t, i) // asserts that nothing leaked
	wantNoTPM(t, "swtpm:"+path, "start the software TPM first")
}

func TestSocketPathTooLong(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	_, err := i.Serve(filepath.Join(t.TempDir(), strings.Repeat("x", 100)))
	if err == nil || !strings.Contains(err.Error(), "107 are allowed") {
		t.Fatalf("error %v, want one about the path's length", err)
	}
}
