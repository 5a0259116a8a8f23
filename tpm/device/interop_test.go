package device_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// run runs a program that must be installed.
func run(t testing.TB, pkg, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: install it with `apt-get install %s`", err, pkg)
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTPM2CheckquoteAcceptsOurQuote has tpm2-tools judge a quote of ours.
func TestTPM2CheckquoteAcceptsOurQuote(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{})
	if err := i.Extend(7, eventlog.Digest{Alg: tpm.AlgSHA256, Sum: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	dev := open(t, i)
	ak, p := makeAK(t, dev)
	defer ak.Close()
	nonce := []byte("0123456789abcdef0123456789abcdef")
	attest, sig, err := ak.Quote(nonce, pcrs16)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(p.Key())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{
		"-u", write(t, filepath.Join(dir, "ak.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"-m", write(t, filepath.Join(dir, "quote"), attest),
		"-s", write(t, filepath.Join(dir, "sig"), sig),
		"-g", "sha256",
	}
	run(t, "tpm2-tools", "tpm2_checkquote", append(args, "-q", hex.EncodeToString(nonce))...)

	// It does refuse: another nonce.
	path, err := exec.LookPath("tpm2_checkquote")
	if err != nil {
		t.Fatal(err)
	}
	if exec.Command(path, append(args, "-q", "00")...).Run() == nil {
		t.Fatal("tpm2_checkquote accepted another nonce")
	}
}

// TestSwtpmSetupEKs enrols a TPM that swtpm_setup manufactured: RSA-2048 in the
// low range and P-384 in the high range.
func TestSwtpmSetupEKs(t *testing.T) {
	t.Parallel()
	ca, dir := t.TempDir(), t.TempDir()
	localca := write(t, filepath.Join(ca, "localca.conf"), fmt.Appendf(nil,
		"statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca))
	options := write(t, filepath.Join(ca, "localca.options"), []byte("--platform-manufacturer Example\n--platform-version 1\n--platform-model Test\n"))
	setup := write(t, filepath.Join(ca, "setup.conf"), fmt.Appendf(nil,
		"create_certs_tool=swtpm_localca\ncreate_certs_tool_config=%s\ncreate_certs_tool_options=%s\nactive_pcr_banks=sha256\n", localca, options))
	run(t, "swtpm-tools", "swtpm_setup", "--tpm2", "--tpm-state", dir, "--create-ek-cert", "--lock-nvram", "--config", setup, "--vmid", "node-1", "--pcr-banks", "sha256")

	roots := []*x509.Certificate{readPEM(t, filepath.Join(ca, "swtpm-localca-rootca-cert.pem"))}
	issuers := []*x509.Certificate{readPEM(t, filepath.Join(ca, "issuercert.pem"))}
	i := start(t, dir)
	checkSetupEKs(t, i, roots, issuers)
	// Without its persistent handles the keys are derived from the templates.
	for _, h := range []tpm2.TPMHandle{0x81010001, 0x81010016} {
		public, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(i)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: h, Name: public.Name}, PersistentHandle: h}.Execute(i)
		if err != nil {
			t.Fatal(err)
		}
	}
	checkSetupEKs(t, i, roots, issuers)
}

func checkSetupEKs(t testing.TB, i *swtpm.Instance, roots, issuers []*x509.Certificate) {
	t.Helper()
	dev := open(t, i)
	ak, p := makeAK(t, dev)
	defer ak.Close()
	quote(t, ak, p)
	eks, err := dev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	if len(eks) != 2 {
		t.Fatalf("%d EKs, want P-384 and RSA-2048", len(eks))
	}
	for _, ek := range eks {
		cert, err := tpm.CheckEKCertificate(ek.Certificate, roots, issuers, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := tpm.CheckEK(ek.Public, cert); err != nil {
			t.Errorf("%x: %v", ek.Public.Marshal(), err)
		}
		activate(t, dev, ek, ak, p.Name())
	}
}

func readPEM(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
