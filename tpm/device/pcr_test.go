package device_test

import (
	"encoding/hex"
	"strings"
	"sync"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// allocateSHA384 leaves only the sha384 bank active, as some firmware is set up:
// TPM2_PCR_Allocate by the platform, for which go-tpm has no command.
func allocateSHA384(t testing.TB, i *swtpm.Instance) {
	t.Helper()
	const cmd = "8002" + "00000037" + "0000012b" + "4000000c" + // TPM_RH_PLATFORM
		"00000009" + "40000009" + "0000" + "00" + "0000" + // empty password
		"00000004" + "000403000000" + "000b03000000" + "000c03ffffff" + "000d03000000"
	b, err := hex.DecodeString(cmd)
	if err != nil {
		t.Fatal(err)
	}
	response, err := i.Send(b)
	if err != nil || hex.EncodeToString(response[6:10]) != "00000000" {
		t.Fatalf("TPM2_PCR_Allocate: response %x, %v", response, err)
	}
	if err := i.PowerCycle(true); err != nil {
		t.Fatal(err)
	}
}

// A TPM without the bank answers, with an empty selection: no proof of anything.
func TestInactiveBank(t *testing.T) {
	t.Parallel()
	i := start(t, t.TempDir())
	allocateSHA384(t, i)
	dev := open(t, i)
	if _, err := dev.PCRs(tpm.AlgSHA384, pcrs16); err != nil {
		t.Error(err)
	}
	if _, err := dev.PCRs(tpm.AlgSHA256, pcrs16); err == nil || !strings.Contains(err.Error(), "bank is not active") {
		t.Errorf("error %v, want that the bank is not active", err)
	}
	ak, _ := makeAK(t, dev)
	defer ak.Close()
	if _, _, err := ak.Quote(nil, pcrs16); err == nil || !strings.Contains(err.Error(), "bank is not active") {
		t.Errorf("error %v, want that the bank is not active", err)
	}
}

func TestPCRSelection(t *testing.T) {
	t.Parallel()
	i := start(t, t.TempDir())
	dev := open(t, i)
	ak, p := makeAK(t, dev)
	defer ak.Close()
	for _, bad := range [][]int{nil, {24}, {-1}} {
		if _, _, err := ak.Quote(nil, bad); err == nil {
			t.Errorf("PCRs %v quoted", bad)
		}
	}
	attest, sig, err := ak.Quote(nil, []int{23, 7, 7, 0})
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.VerifyQuote(attest, sig)
	if err != nil {
		t.Fatal(err)
	}
	values, err := dev.PCRs(tpm.AlgSHA256, []int{7, 23, 0})
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.CheckPCRs(q, values); err != nil {
		t.Fatal(err)
	}
}

// Quotes, reads and extends from many goroutines: they take turns.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	i, ca := manufacture(t, swtpm.Options{})
	dev := open(t, i)
	ak, p := makeAK(t, dev)
	eks, err := dev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { quote(t, ak, p) })
		wg.Go(func() { enrol(t, dev, eks[0], ak, p, ca) })
		wg.Go(func() {
			if err := i.Extend(10, eventlog.Digest{Alg: tpm.AlgSHA256, Sum: make([]byte, 32)}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := dev.PCRs(tpm.AlgSHA256, pcrs16); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := ak.Close(); err != nil {
		t.Fatal(err)
	}
}
