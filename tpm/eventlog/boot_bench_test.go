package eventlog_test

import (
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-eventlog/extract"
	state "github.com/google/go-eventlog/proto/state"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tpmeventlog"
	"github.com/google/go-tpm-tools/server"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// large are real logs of 38 and 41 KB.
var large = []struct{ size, name string }{
	{"38KB", "logs/go-tpm-tools/ubuntu-2104-no-secure-boot.bin"},
	{"41KB", "logs/keylime/binary_bios_measurements-secureboot"},
}

// BenchmarkExtract is all that is done with a log that was not seen before.
func BenchmarkExtract(b *testing.B) {
	for _, f := range large {
		raw := read(b, f.name)
		b.Run(f.size, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				l, err := eventlog.Parse(raw)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := l.Replay(tpm.AlgSHA256); err != nil {
					b.Fatal(err)
				}
				if boot := l.Extract(tpm.AlgSHA256); !boot.SecureBoot.Known {
					b.Fatal("nothing extracted")
				}
			}
		})
	}
}

// BenchmarkExtractPeer is the same by others, with PCR values known to be right:
// go-attestation's ParseEventLog, Verify and ParseSecurebootState; what
// go-tpm-tools' VerifyAttestation does with the log once the quote is checked.
func BenchmarkExtractPeer(b *testing.B) {
	for _, f := range large {
		raw := read(b, f.name)
		values, err := parse(b, raw).Replay(tpm.AlgSHA256)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("go-attestation/"+f.size, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := attestState(raw, tpm.AlgSHA256, values); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("go-tpm-tools/"+f.size, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				s, err := tpmeventlog.ReplayAndExtract(raw, bank(tpm.AlgSHA256, values), extract.Opts{Loader: extract.GRUB})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := server.ConvertToMachineState(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// attestState is what go-attestation makes of a log.
func attestState(raw []byte, alg tpm.Alg, values map[int][]byte) (*attest.SecurebootState, error) {
	hash, _ := alg.Hash()
	var pcrs []attest.PCR
	for i, v := range values {
		pcrs = append(pcrs, attest.PCR{Index: i, Digest: v, DigestAlg: hash})
	}
	l, err := attest.ParseEventLog(raw)
	if err != nil {
		return nil, err
	}
	events, err := l.Verify(pcrs)
	if err != nil {
		return nil, err
	}
	return attest.ParseSecurebootState(events)
}

// bank is PCR values as go-eventlog wants them.
func bank(alg tpm.Alg, values map[int][]byte) register.PCRBank {
	hash, _ := alg.Hash()
	out := register.PCRBank{TCGHashAlgo: state.HashAlgo(alg)}
	for i, v := range values {
		out.PCRs = append(out.PCRs, register.PCR{Index: i, Digest: v, DigestAlg: hash})
	}
	return out
}
