package device_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// faultyLink answers chosen commands itself instead of passing them on.
type faultyLink struct {
	next transportOnly
	// answer returns the response code for the nth command (from 1) of code cc,
	// 0 to pass it on.
	answer func(n int, cc uint32) uint32
	n      int
}

func (l *faultyLink) Send(cmd []byte) ([]byte, error) {
	l.n++
	if rc := l.answer(l.n, binary.BigEndian.Uint32(cmd[6:])); rc != 0 {
		response := []byte{0x80, 0x01, 0, 0, 0, 10}
		return binary.BigEndian.AppendUint32(response, rc), nil
	}
	return l.next.Send(cmd)
}

const (
	ccFlushContext = 0x165
	ccQuote        = 0x158
	rcFailedNow    = 0x921 // TPM_RC_LOCKOUT
)

// TestLeaksOnErrors fails each command of enrolment and quoting in turn: whatever
// fails, nothing stays in the TPM.
func TestLeaksOnErrors(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{RSA: true})
	good := open(t, i)
	enrolAll := func(dev *device.TPM) error {
		eks, err := dev.EKs()
		if err != nil {
			return err
		}
		ak, err := dev.AK("test.invalid", 0)
		if err != nil {
			return err
		}
		defer ak.Close()
		if _, _, err := ak.Quote(nil, pcrs16); err != nil {
			return err
		}
		for _, ek := range eks {
			blob, enc, err := tpm.MakeCredential(rand.Reader, ek.Public, ak.Name(), []byte("secret"))
			if err != nil {
				return err
			}
			if _, err := dev.Activate(ak, ek, blob, enc); err != nil {
				return err
			}
		}
		_, err = dev.PCRs(tpm.AlgSHA256, pcrs16)
		return err
	}
	for fail := 1; ; fail++ {
		link := &faultyLink{next: transportOnly{i}, answer: func(n int, cc uint32) uint32 {
			if n == fail && cc != ccFlushContext {
				return rcFailedNow
			}
			return 0
		}}
		err := enrolAll(device.New(link))
		if n, leakErr := good.Leaks(); n != 0 || leakErr != nil {
			t.Fatalf("command %d failed (%v): %d handles leaked, %v", fail, err, n, leakErr)
		}
		if link.n < fail {
			if err != nil || fail < 20 {
				t.Fatalf("%d commands, %v", link.n, err)
			}
			return
		}
	}
}

func TestResend(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	open(t, i) // asserts that nothing leaks
	for _, rc := range []uint32{0x908, 0x90a, 0x922} {
		asked := 0
		link := &faultyLink{next: transportOnly{i}, answer: func(_ int, cc uint32) uint32 {
			if asked < 3 && cc == ccQuote {
				asked++
				return rc
			}
			return 0
		}}
		dev := device.New(link)
		sent := 0
		dev.Trace = func(c device.Command) {
			if c.Code == ccQuote {
				sent++
			}
		}
		ak, p := makeAK(t, dev)
		quote(t, ak, p)
		if sent != 4 {
			t.Errorf("response 0x%x three times: %d commands sent, want 4", rc, sent)
		}
		if err := ak.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestResendIsBounded(t *testing.T) {
	t.Parallel()
	link := &faultyLink{answer: func(int, uint32) uint32 { return 0x922 }}
	_, err := device.New(link).Clock()
	if err == nil || !strings.Contains(err.Error(), "TPM_RC_RETRY") || link.n != 16 {
		t.Fatalf("%d commands sent, %v, want 16 and TPM_RC_RETRY", link.n, err)
	}
}

// Any other refusal is final: the TPM may have executed the command.
func TestNoResendOnFailure(t *testing.T) {
	t.Parallel()
	link := &faultyLink{answer: func(int, uint32) uint32 { return 0x101 }}
	_, err := device.New(link).Clock()
	if err == nil || !strings.Contains(err.Error(), "power the machine off and on") || link.n != 1 {
		t.Fatalf("%d commands sent, %v, want 1 and a hint", link.n, err)
	}
}

// brokenLink fails, then has a late response in the pipe.
type brokenLink struct {
	failed bool
	sent   int
}

func (l *brokenLink) Send([]byte) ([]byte, error) {
	l.sent++
	if !l.failed {
		l.failed = true
		return nil, errors.New("timeout")
	}
	return []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0}, nil
}

// A response that comes late must not be taken for that of the next command.
func TestLateResponse(t *testing.T) {
	t.Parallel()
	link := &brokenLink{}
	dev := device.New(link)
	for range 2 {
		_, err := dev.Clock()
		var none *device.NoTPMError
		if !errors.As(err, &none) || none.Hint == "" {
			t.Fatalf("error %v, want a NoTPMError with a hint", err)
		}
	}
	if link.sent != 1 {
		t.Fatalf("%d commands sent over a broken connection, want 1", link.sent)
	}
}

func TestEKCertificateFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault swtpm.Fault
		want  string
	}{
		{"WrongCA", swtpm.FaultWrongCA, "signed by unknown authority"},
		{"Expired", swtpm.FaultExpired, "expired"},
		{"MissingEKU", swtpm.FaultMissingEKU, "2.23.133.8.1"},
		{"IsCA", swtpm.FaultIsCA, "CA's certificate"},
		{"KeyMismatch", swtpm.FaultOtherKey, "issued for another key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i, ca := manufacture(t, swtpm.Options{Fault: c.fault})
			eks, err := open(t, i).EKs()
			if err != nil {
				t.Fatal(err)
			}
			var chain []*x509.Certificate
			for _, der := range eks[0].Chain {
				issuer, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, issuer)
			}
			cert, err := tpm.CheckEKCertificate(eks[0].Certificate, []*x509.Certificate{ca.Root()}, chain, time.Now())
			if err == nil {
				err = tpm.CheckEK(eks[0].Public, cert)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// A credential made for another key, or for a key of another TPM, stays shut.
func TestActivationOfAnotherKey(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	dev := open(t, i)
	ak, _ := makeAK(t, dev)
	defer ak.Close()
	other, err := dev.AK("other.invalid", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if bytes.Equal(other.Public(), ak.Public()) {
		t.Fatal("two domains have one key")
	}
	eks, err := dev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	blob, enc, err := tpm.MakeCredential(rand.Reader, eks[0].Public, other.Name(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := dev.Activate(ak, eks[0], blob, enc); err == nil {
		t.Fatalf("secret %q for another key", secret)
	}

	foreign, _ := manufacture(t, swtpm.Options{})
	foreignDev := open(t, foreign)
	foreignEKs, err := foreignDev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	blob, enc, err = tpm.MakeCredential(rand.Reader, foreignEKs[0].Public, ak.Name(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := dev.Activate(ak, eks[0], blob, enc); err == nil {
		t.Fatalf("secret %q for another TPM's EK", secret)
	}
}
