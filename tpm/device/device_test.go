package device_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

var pcrs16 = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// manufacture returns a running TPM and its maker. It ends with the test.
func manufacture(t testing.TB, opts swtpm.Options) (*swtpm.Instance, *swtpm.CA) {
	t.Helper()
	ca, err := swtpm.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := swtpm.Manufacture(t.Context(), dir, ca, opts); err != nil {
		t.Fatal(err)
	}
	return start(t, dir), ca
}

func start(t testing.TB, dir string) *swtpm.Instance {
	t.Helper()
	i, err := swtpm.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// open returns the TPM of i; at the end of the test nothing may be left in it.
func open(t testing.TB, i *swtpm.Instance) *device.TPM {
	t.Helper()
	dev := device.New(transportOnly{i})
	t.Cleanup(func() {
		if n, err := dev.Leaks(); n != 0 || err != nil {
			t.Errorf("%d handles leaked, %v", n, err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// transportOnly hides that an Instance can be closed.
type transportOnly struct{ i *swtpm.Instance }

func (l transportOnly) Send(cmd []byte) ([]byte, error) { return l.i.Send(cmd) }

func makeAK(t testing.TB, dev *device.TPM) (*device.AK, *tpm.Public) {
	t.Helper()
	ak, err := dev.AK("test.invalid", 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tpm.ParsePublic(ak.Public())
	if err != nil {
		t.Fatal(err)
	}
	return ak, p
}

// quote returns a checked quote over PCR 0-15.
func quote(t testing.TB, ak *device.AK, p *tpm.Public) *tpm.Quote {
	t.Helper()
	nonce := make([]byte, 32)
	rand.Read(nonce)
	attest, sig, err := ak.Quote(nonce, pcrs16)
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.VerifyQuote(attest, sig)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckSigner(q); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(q.ExtraData, nonce) {
		t.Fatalf("extraData %x, want %x", q.ExtraData, nonce)
	}
	return q
}

func TestQuoteIsOneCommand(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	dev := open(t, i)
	var codes []uint32
	dev.Trace = func(c device.Command) { codes = append(codes, c.Code) }
	ak, p := makeAK(t, dev)
	defer ak.Close()
	if err := tpm.CheckAK(p, "test.invalid", 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Name(), ak.Name()) {
		t.Fatalf("name %x, the TPM says %x", p.Name(), ak.Name())
	}
	for range 3 {
		codes = nil
		q := quote(t, ak, p)
		if len(codes) != 1 || codes[0] != 0x158 {
			t.Fatalf("commands %x, want one TPM2_Quote (158)", codes)
		}
		values, err := dev.PCRs(tpm.AlgSHA256, pcrs16)
		if err != nil {
			t.Fatal(err)
		}
		if err := tpm.CheckPCRs(q, values); err != nil {
			t.Fatal(err)
		}
	}
}

func TestActivation(t *testing.T) {
	t.Parallel()
	i, ca := manufacture(t, swtpm.Options{RSA: true})
	dev := open(t, i)
	ak, p := makeAK(t, dev)
	defer ak.Close()
	eks, err := dev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	if len(eks) != 2 {
		t.Fatalf("%d EKs, want P-256 and RSA-2048", len(eks))
	}
	for _, ek := range eks {
		enrol(t, dev, ek, ak, p, ca)
	}
}
