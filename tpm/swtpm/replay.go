package swtpm

import (
	"bytes"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
)

// Extend extends one PCR in the banks of digests. Banks that a fresh swtpm does
// not have (it has sha1, sha256, sha384 and sha512) are left out; none left is
// an error.
func (i *Instance) Extend(pcr int, digests ...eventlog.Digest) error {
	var list []tpm2.TPMTHA
	for _, d := range digests {
		switch d.Alg {
		case tpm.AlgSHA1, tpm.AlgSHA256, tpm.AlgSHA384, tpm.AlgSHA512:
			list = append(list, tpm2.TPMTHA{HashAlg: tpm2.TPMIAlgHash(d.Alg), Digest: d.Sum})
		}
	}
	if pcr < 0 || pcr > 23 || len(list) == 0 {
		return fmt.Errorf("extending PCR %d with %d digests for the TPM's banks, want PCR 0 to 23 and a digest", pcr, len(list))
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: list},
	}.Execute(i)
	if err != nil {
		return fmt.Errorf("extending PCR %d: %w", pcr, err)
	}
	return nil
}

// ReplayLog extends what a boot log says was extended, in every bank it has
// digests for, so that PCRs of a TPM that was just started become those of the
// recorded machine. A log whose PCR 0 did not start at zero (StartupLocality,
// H-CRTM) is refused before anything is extended: extends cannot repeat it.
func (i *Instance) ReplayLog(log *eventlog.Log) error {
	for n := range log.Events {
		if e := &log.Events[n]; startsPCR0(e) {
			return fmt.Errorf("replaying boot log: event %d (%s) starts PCR 0 at another value than zero, which only firmware can: use another machine's log", n, e.Type)
		}
	}
	for n := range log.Events {
		e := &log.Events[n]
		if !e.Measured() {
			continue
		}
		if err := i.Extend(int(e.PCR), e.Digests...); err != nil {
			return fmt.Errorf("replaying boot log: event %d: %w", n, err)
		}
	}
	return nil
}

// ReplayIMA extends what a measurement list says was extended, as the kernel does
// on a TPM with the sha1, sha256 and sha384 banks in use: the hash of the template data
// in each bank, ff..ff for a violation.
func (i *Instance) ReplayIMA(list *ima.List) error {
	for n := range list.Entries {
		e := &list.Entries[n]
		err := i.Extend(int(e.PCR),
			eventlog.Digest{Alg: tpm.AlgSHA1, Sum: e.Digest(tpm.AlgSHA1)},
			eventlog.Digest{Alg: tpm.AlgSHA256, Sum: e.Digest(tpm.AlgSHA256)},
			eventlog.Digest{Alg: tpm.AlgSHA384, Sum: e.Digest(tpm.AlgSHA384)})
		if err != nil {
			return fmt.Errorf("replaying IMA list: entry %d: %w", n, err)
		}
	}
	return nil
}

// startsPCR0 tells whether e says that PCR 0 started at the locality of
// TPM2_Startup or of an H-CRTM (TPM 2.0 Part 1, 34.3; PFP 10.4.5.3).
func startsPCR0(e *eventlog.Event) bool {
	locality, ok := bytes.CutPrefix(e.Data, []byte("StartupLocality\x00"))
	return e.PCR == 0 && (e.Type == eventlog.HCRTM || e.Type == eventlog.NoAction && ok && !bytes.Equal(locality, []byte{0}))
}
