package appraisal_test

import (
	"crypto"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-attestation/attest"
	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// large are real boot logs of 38 and 41 KB.
var large = []struct{ size, name string }{
	{"38KB", "go-tpm-tools/ubuntu-2104-no-secure-boot.bin"},
	{"41KB", "keylime/binary_bios_measurements-secureboot"},
}

// booted is a subject whose log is a real machine's, quoted by a key that is a
// file here, with references learnt from it.
func booted(t testing.TB, name string) *subject {
	t.Helper()
	raw, err := os.ReadFile("../../testdata/logs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	s := boot(t, "c-grub-sb")
	s.log, s.list = raw, nil
	s.replay()
	s.sign()
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	set, _, err := reference.Learn("lab", []reference.Sample{{Name: "it", Vendor: "WRIT", Log: log, PCRs: s.values}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	set.SecureBoot = "any"
	s.in.References.Set = signed(t, set)
	return s
}

// enrolled is a memory that knows what enrolment learnt, the certificate chain of
// the EK, and forgets logs: each is seen for the first time.
type enrolled struct{ memory }

func (e enrolled) Keep(key string, fact any) {
	if !strings.HasPrefix(key, "log/") {
		e.memory.Keep(key, fact)
	}
}

// BenchmarkAppraise judges machines with real logs of 38 and 41 KB: "first" checks
// the quote, parses, replays, extracts and appraises a log never seen; "again" is
// the node's renewal, its log unchanged.
func BenchmarkAppraise(b *testing.B) {
	for _, l := range large {
		first := booted(b, l.name).in
		first.Memory = enrolled{memory{}}
		v := appraisal.Appraise(first)
		again := *first
		again.Memory = memory{}
		again.Prior.Boot = v.Next()
		again.Prior.Boot.Clock--
		for _, c := range []struct {
			name string
			in   *appraisal.Input
		}{{"first/" + l.size, first}, {"again/" + l.size, &again}} {
			if v := appraisal.Appraise(c.in); !v.Granted() {
				b.Fatalf("denied: %s", v.Marshal())
			}
			b.Run(c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if v := appraisal.Appraise(c.in); !v.Granted() {
						b.Fatal("denied")
					}
				}
			})
		}
	}
}

// BenchmarkAppraisePeer is what others do with the same quote and log. Neither
// holds it against references.
func BenchmarkAppraisePeer(b *testing.B) {
	for _, l := range large {
		s := booted(b, l.name)
		q := s.in.Evidence.Quote
		parsed, err := tpm.ParseQuote(q.Attest)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("go-attestation/"+l.size, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := goAttestation(s, parsed.ExtraData); err != nil {
					b.Fatal(err)
				}
			}
		})
		attestation := &pb.Attestation{EventLog: s.log, Quotes: []*tpmpb.Quote{{
			Quote: q.Attest, RawSig: q.Signature,
			Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: map[uint32][]byte{}},
		}}}
		for p, v := range s.values {
			attestation.Quotes[0].Pcrs.Pcrs[uint32(p)] = v
		}
		opts := server.VerifyOpts{Nonce: parsed.ExtraData, TrustedAKs: []crypto.PublicKey{s.key.Public()}, Loader: server.GRUB}
		attestation.AkPub = s.in.Prior.AK
		b.Run("go-tpm-tools/"+l.size, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := server.VerifyAttestation(attestation, opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// goAttestation is what go-attestation's verifier example does.
func goAttestation(s *subject, nonce []byte) error {
	ak, err := attest.ParseAKPublic(s.in.Prior.AK)
	if err != nil {
		return err
	}
	var pcrs []attest.PCR
	for _, p := range slices.Sorted(maps.Keys(s.values)) {
		pcrs = append(pcrs, attest.PCR{Index: p, Digest: s.values[p], DigestAlg: crypto.SHA256})
	}
	q := s.in.Evidence.Quote
	if err := ak.Verify(attest.Quote{Quote: q.Attest, Signature: q.Signature}, pcrs, nonce); err != nil {
		return err
	}
	l, err := attest.ParseEventLog(s.log)
	if err != nil {
		return err
	}
	events, err := l.Verify(pcrs)
	if err != nil {
		return err
	}
	_, err = attest.ParseSecurebootState(events)
	return err
}
