package appraisal_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// machine is the recorded machine c-grub-sb with a TPM of our own, so that it can
// measure what a test likes.
type machine struct {
	in    *appraisal.Input
	key   *ecdsa.PrivateKey
	boots []byte // its IMA list up to the boot_aggregate
	extra []byte
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{in: recorded(t, "c-grub-sb")}
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	ak := tpm.AKTemplate("lab.invalid", 1)
	m.key.X.FillBytes(ak[len(ak)-66 : len(ak)-34])
	m.key.Y.FillBytes(ak[len(ak)-32:])
	m.in.Prior.AK = ak
	list, err := ima.Parse(m.in.Evidence.Item(evidence.IMALog).Content)
	if err != nil {
		t.Fatal(err)
	}
	m.boots = slices.Clone(m.in.Evidence.Item(evidence.IMALog).Content[:list.Entries[0].End])
	m.quote(t, 1)
	return m
}

func (m *machine) list() []byte { return slices.Concat(m.boots, m.extra) }

// quote measures the list and signs, at a clock of the TPM.
func (m *machine) quote(t testing.TB, clock uint64) *appraisal.Input {
	t.Helper()
	l, err := ima.Parse(m.list())
	if err != nil {
		t.Fatal(err)
	}
	return m.quoteValue(t, clock, l.Replay(tpm.AlgSHA256))
}

func (m *machine) quoteValue(t testing.TB, clock uint64, pcr10 []byte) *appraisal.Input {
	t.Helper()
	in := *m.in
	q := m.in.Evidence.Quote
	values := map[int][]byte{}
	h := sha256.New()
	var pcrs []int
	for p := range 16 {
		values[p], pcrs = q.Values[p], append(pcrs, p)
		if p == 10 {
			values[p] = pcr10
		}
		h.Write(values[p])
	}
	q.Values = values
	q.Attest = (&tpm.Quote{ExtraData: in.Challenge.Nonce, Clock: clock, ResetCount: 1, Safe: true, Bank: tpm.AlgSHA256, PCRs: pcrs, PCRDigest: h.Sum(nil)}).Marshal()
	sum := sha256.Sum256(q.Attest)
	r, s, signErr := ecdsa.Sign(rand.Reader, m.key, sum[:])
	if signErr != nil {
		t.Fatal(signErr)
	}
	q.Signature = slices.Concat([]byte{0, 0x18, 0, 0x0b, 0, 32}, r.FillBytes(make([]byte, 32)), []byte{0, 32}, s.FillBytes(make([]byte, 32)))
	in.Evidence = evidence.New(q)
	in.Evidence.Set(evidence.UEFILog, m.in.Evidence.Item(evidence.UEFILog))
	list := m.list()
	in.Evidence.Set(evidence.IMALog, evidence.Item{Content: list})
	var err error
	if in.Evidence, err = in.Evidence.Full(evidence.IMALog, list); err != nil { // as a verifier completes a list sent in part
		t.Fatal(err)
	}
	return &in
}

func (m *machine) measure(template string, fields ...string) {
	m.extra = append(m.extra, imaRecord(template, fields...)...)
}

// run measures a file as ima-ng does.
func (m *machine) run(path, content string) {
	d := sha256.Sum256([]byte(content))
	m.measure("ima-ng", "sha256:\x00"+string(d[:]), path+"\x00")
}

// imaRecord writes one record as the kernel does.
func imaRecord(template string, fields ...string) []byte {
	le := binary.LittleEndian
	var data []byte
	for _, f := range fields {
		data = append(le.AppendUint32(data, uint32(len(f))), f...)
	}
	sum := sha1.Sum(data)
	out := append(le.AppendUint32(nil, 10), sum[:]...)
	out = append(le.AppendUint32(out, uint32(len(template))), template...)
	return append(le.AppendUint32(out, uint32(len(data))), data...)
}

func of(content string) string {
	d := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(d[:])
}

// with is the set learnt from c-grub-sb with another IMA section.
func with(t testing.TB, section *reference.IMA) *reference.Signed {
	t.Helper()
	set := *learn(t, "c-grub-sb").Set
	set.IMA = section
	if section.Files == nil {
		section.Files = []reference.File{}
	}
	return signed(t, &set)
}

// withList is that set with an allow list of these lines, and no files of its own.
func withList(t testing.TB, lines []string) *reference.Signed {
	t.Helper()
	l, err := reference.NewList(lines)
	if err != nil {
		t.Fatal(err)
	}
	sum := l.Digest()
	set, err := with(t, &reference.IMA{Lists: []reference.ListRef{{Digest: hex.EncodeToString(sum[:]), Name: "distribution"}}}).Complete(nil, []*reference.List{l})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func codes(v appraisal.Verdict) []string {
	var out []string
	for _, f := range v.Findings {
		if !strings.HasPrefix(f.Code, "claim/") {
			out = append(out, f.Code)
		}
	}
	return out
}

func judge(t testing.TB, m *machine, set *reference.Signed, want ...string) appraisal.Verdict {
	t.Helper()
	in := m.quote(t, 1)
	in.References.Set = set
	v := appraisal.Appraise(in)
	if got := codes(v); !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q\n%s", got, want, v.Marshal())
	}
	if v.Granted() != (len(want) == 0) {
		t.Errorf("granted: %v with findings %q", v.Granted(), codes(v))
	}
	return v
}

// TestSignedFile: a listed key's signature over the file's own digest allows it
// where the set says so, and in no other case.
func TestSignedFile(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pemOf := func(k *ecdsa.PrivateKey) string {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	parsed, err := ima.ParseKey(pemOf(key))
	if err != nil {
		t.Fatal(err)
	}
	signature := func(k *ecdsa.PrivateKey, content string) string {
		d := sha256.Sum256([]byte(content))
		v, err := k.Sign(rand.Reader, d[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return string((&ima.Signature{Alg: tpm.AlgSHA256, KeyID: parsed.IDs[0], Value: v}).Marshal())
	}
	digest := func(content string) string {
		d := sha256.Sum256([]byte(content))
		return "sha256:\x00" + string(d[:])
	}
	allow := &reference.IMA{Signed: reference.SignedFiles, Keys: []string{pemOf(key)}}
	for _, c := range []struct {
		name      string
		section   *reference.IMA
		template  string
		digest    string
		signature string
		want      []string
	}{
		{"signed", allow, "ima-sig", digest("new"), signature(key, "new"), nil},
		{"modsig template", allow, "ima-modsig", digest("new"), signature(key, "new"), nil},
		{"set does not say so", &reference.IMA{Keys: []string{pemOf(key)}}, "ima-sig", digest("new"), signature(key, "new"), []string{"ima/unknown-file"}},
		{"no key listed", &reference.IMA{Signed: reference.SignedFiles}, "ima-sig", digest("new"), signature(key, "new"), []string{"ima/unknown-file"}},
		{"a stranger with our key's id", allow, "ima-sig", digest("new"), signature(stranger, "new"), []string{"ima/unknown-file"}},
		{"another file's signature", allow, "ima-sig", digest("new"), signature(key, "old"), []string{"ima/unknown-file"}},
		{"the digest of a verity descriptor", allow, "ima-sigv2", "verity:" + digest("new"), signature(key, "new"), []string{"ima/unknown-file"}},
		{"not a signature", allow, "ima-sig", digest("new"), "\x03\x02", []string{"ima/unknown-file"}},
		{"signed, but denied", &reference.IMA{Signed: reference.SignedFiles, Keys: []string{pemOf(key)},
			Files: []reference.File{{Path: "/old/name", Allow: []string{}, Deny: []string{of("new")}}}}, "ima-sig", digest("new"), signature(key, "new"), []string{"ima/denied-file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			fields := []string{c.digest, "/opt/new\x00", c.signature}
			if c.template == "ima-modsig" {
				fields = append(fields, c.digest, "pkcs7")
			}
			m.measure(c.template, fields...)
			judge(t, m, with(t, c.section), c.want...)
		})
	}
}

// TestBuffers: keys and command lines that the kernel measures are judged by
// their digest and name, and a file cannot pass for one.
func TestBuffers(t *testing.T) {
	section := func() *reference.IMA {
		return &reference.IMA{Buffers: []reference.File{{Path: "kexec-cmdline", Allow: []string{of("quiet")}}},
			Files: []reference.File{{Path: "/bin/sh", Allow: []string{of("sh")}}}}
	}
	raw := func(content string) string {
		d := sha256.Sum256([]byte(content))
		return "sha256:\x00" + string(d[:])
	}
	for _, c := range []struct {
		name   string
		fields []string
		want   []string
	}{
		{"known", []string{raw("quiet"), "kexec-cmdline\x00", "quiet"}, nil},
		{"other command line", []string{raw("init=/bin/sh"), "kexec-cmdline\x00", "init=/bin/sh"}, []string{"ima/unknown-buffer"}},
		{"other name", []string{raw("quiet"), ".ima\x00", "quiet"}, []string{"ima/unknown-buffer"}},
		{"digest of something else", []string{raw("quiet"), "kexec-cmdline\x00", "loud"}, []string{"ima/unknown-buffer"}},
		{"a file's name", []string{raw("sh"), "/bin/sh\x00", "sh"}, []string{"ima/unknown-buffer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.measure("ima-buf", c.fields...)
			judge(t, m, with(t, section()), c.want...)
		})
	}
}

// TestVerityDigestAsFileDigest: the digest of an fs-verity descriptor is not that
// of a file, whatever their bytes.
func TestVerityDigestAsFileDigest(t *testing.T) {
	d := sha256.Sum256([]byte("x"))
	for _, c := range []struct {
		allow, kind string
		want        []string
	}{
		{of("x"), "ima", nil},
		{of("x"), "verity", []string{"ima/unknown-file"}},
		{"verity:" + of("x"), "verity", nil},
		{"verity:" + of("x"), "ima", []string{"ima/unknown-file"}},
	} {
		m := newMachine(t)
		m.measure("ima-ngv2", c.kind+":sha256:\x00"+string(d[:]), "/x\x00")
		judge(t, m, with(t, &reference.IMA{Files: []reference.File{{Path: "/x", Allow: []string{c.allow}}}}), c.want...)
	}
}

// TestAllowedButDenied: what a set denies or calls vulnerable anywhere is so under the
// path that allows it too, in whichever of its places the two are said.
func TestAllowedButDenied(t *testing.T) {
	m := newMachine(t)
	m.run("/usr/bin/a", "a")
	sum := strings.TrimPrefix(of("a"), "sha256:")
	allow := reference.File{Path: "/usr/bin/a", Allow: []string{of("a")}}
	judge(t, m, with(t, &reference.IMA{Files: []reference.File{allow}}))
	judge(t, m, with(t, &reference.IMA{Files: []reference.File{{Path: "/old", Deny: []string{of("a")}}, allow}}), "ima/denied-file")
	judge(t, m, with(t, &reference.IMA{Files: []reference.File{allow, {Path: "/usr/bin/b", Vulnerable: []string{of("a")}}}}), "ima/vulnerable-file")
	both := allow
	both.Vulnerable = both.Allow
	judge(t, m, with(t, &reference.IMA{Files: []reference.File{both}}), "ima/vulnerable-file")
	set := *with(t, &reference.IMA{Files: []reference.File{allow}}).Set
	set.Deny = []reference.Listed{{Digest: sum, Why: "backdoored"}}
	judge(t, m, signed(t, &set), "ima/denied-file")

	listing := withList(t, []string{sum + "  /usr/bin/a"})
	judge(t, m, listing)
	denying := *listing.Set
	denying.Deny = set.Deny
	whole, err := signed(t, &denying).Complete(nil, listing.Lists())
	if err != nil {
		t.Fatal(err)
	}
	judge(t, m, whole, "ima/denied-file")
}

// TestOldAndNewPackage: two digests of one file are good at once, each in its
// time; the verdict lasts no longer than the window it used.
func TestOldAndNewPackage(t *testing.T) {
	set := with(t, &reference.IMA{Files: []reference.File{{Path: "/bin/app", Allow: []string{}, Valid: []reference.Dated{
		{Digest: of("old"), NotAfter: at + 600}, {Digest: of("new"), NotBefore: at - 600}, {Digest: of("next"), NotBefore: at + 600}, {Digest: of("gone"), NotAfter: at}}}}})
	for content, want := range map[string][]string{"old": nil, "new": nil, "next": {"ima/unknown-file"}, "gone": {"ima/unknown-file"}} {
		m := newMachine(t)
		m.run("/bin/app", content)
		v := judge(t, m, set, want...)
		if content == "old" && v.Until != at+600 || content == "new" && v.Until == at+600 {
			t.Errorf("%s: the verdict lasts %d seconds", content, v.Until-at)
		}
	}
}

// TestWindowEndsWhileResumed: a file that was good when it was first seen is
// judged again once its window is over (security rule 2).
func TestWindowEndsWhileResumed(t *testing.T) {
	set := with(t, &reference.IMA{Files: []reference.File{{Path: "/bin/app", Allow: []string{}, Valid: []reference.Dated{{Digest: of("old"), NotAfter: at + 600}}}}})
	m := newMachine(t)
	m.run("/bin/app", "old")
	v := judge(t, m, set)
	again := m.quote(t, 2)
	again.References.Set, again.Prior.Boot = set, v.Next()
	again.At = at + 599
	if v := appraisal.Appraise(again); !v.Granted() || v.Until != at+600 {
		t.Errorf("within the window: granted %v, until %d\n%s", v.Granted(), v.Until-at, v.Marshal())
	}
	again.At = at + 600
	if v := appraisal.Appraise(again); v.Granted() || !slices.Equal(codes(v), []string{"ima/unknown-file"}) {
		t.Errorf("past the window: %q", codes(v))
	}
}

// TestExcludedFile: an exclusion leaves files unjudged, never a denied one, and
// whoever uses one does not affirm what runs.
func TestExcludedFile(t *testing.T) {
	section := func() *reference.IMA {
		return &reference.IMA{Exclude: []reference.Exclude{{Pattern: "/var/log/**", Why: "logs"}},
			Files: []reference.File{{Path: "/bin/bad", Allow: []string{}, Deny: []string{of("bad")}}}}
	}
	m := newMachine(t)
	v := judge(t, m, with(t, section()))
	if v.Vector.Executables != 3 { // the boot_aggregate alone says nothing of what ran
		t.Errorf("executables %d", v.Vector.Executables)
	}
	m.run("/var/log/a/b", "text")
	v = judge(t, m, with(t, section()))
	if v.Vector.Executables != 3 || v.Boot.IMA.Excluded != 1 {
		t.Errorf("executables %d, %d excluded", v.Vector.Executables, v.Boot.IMA.Excluded)
	}
	again := m.quote(t, 2)
	again.References.Set, again.Prior.Boot = with(t, section()), v.Next()
	if v := appraisal.Appraise(again); v.Vector.Executables != 3 || v.Boot.IMA.Excluded != 1 {
		t.Errorf("resumed: executables %d, %d excluded", v.Vector.Executables, v.Boot.IMA.Excluded)
	}
	m.run("/var/logs", "text")
	judge(t, m, with(t, section()), "ima/unknown-file")
	m = newMachine(t)
	m.run("/var/log/bad", "bad")
	judge(t, m, with(t, section()), "ima/denied-file")
}

// TestSHA1FileDigest: what a SHA-1 or MD5 measures is not known, even if a set
// lists it; so is all of a legacy list.
func TestSHA1FileDigest(t *testing.T) {
	d := sha1.Sum([]byte("sh"))
	set := with(t, &reference.IMA{Files: []reference.File{{Path: "/bin/sh", Allow: []string{"sha1:" + hex.EncodeToString(d[:])}}}})
	m := newMachine(t)
	m.measure("ima-ng", "sha1:\x00"+string(d[:]), "/bin/sh\x00")
	judge(t, m, set, "ima/weak-digest")
	m = newMachine(t)
	m.measure("ima-ng", "md5:\x00"+string(d[:16]), "/bin/sh\x00")
	judge(t, m, set, "ima/weak-digest")

	legacy := recorded(t, "f-ima-legacy")
	legacy.References.Set = set
	v := appraisal.Appraise(legacy)
	if v.Granted() || !slices.Contains(codes(v), "ima/weak-digest") {
		t.Errorf("legacy list: granted %v, %q", v.Granted(), slices.Compact(codes(v)))
	}
}

// TestPaddedBank: SHA-1 and zeros in the SHA-256 bank prove nothing (security
// rule 21), and the verdict says why.
func TestPaddedBank(t *testing.T) {
	m := newMachine(t)
	m.run("/bin/sh", "sh")
	l, err := ima.Parse(m.list())
	if err != nil {
		t.Fatal(err)
	}
	pcr := make([]byte, 32)
	for i := range l.Entries {
		padded := append(slices.Clone(l.Entries[i].TemplateHash), make([]byte, 12)...)
		sum := sha256.Sum256(append(pcr, padded...))
		pcr = sum[:]
	}
	in := m.quoteValue(t, 1, pcr)
	in.References.Set = with(t, &reference.IMA{Files: []reference.File{{Path: "/bin/sh", Allow: []string{of("sh")}}}})
	v := appraisal.Appraise(in)
	if v.Granted() || !slices.Equal(codes(v), []string{"ima/padded-bank"}) || v.Boot.IMA != nil {
		t.Errorf("granted %v, %q", v.Granted(), codes(v))
	}
}

// BenchmarkIMA judges 500 and 10,000 files against a list of 10,000, and ten new
// ones behind them. The quote was checked before: that is BenchmarkQuoteCheck.
func BenchmarkIMA(b *testing.B) {
	m := newMachine(b)
	section := &reference.IMA{}
	grow := func(from, to int) {
		for i := from; i < to; i++ {
			m.run(fmt.Sprintf("/usr/lib/package/file-%05d", i), fmt.Sprint(i))
		}
	}
	var lines []string
	for i := range 10_010 {
		path, digest := fmt.Sprintf("/usr/lib/package/file-%05d", i), of(fmt.Sprint(i))
		section.Files = append(section.Files, reference.File{Path: path, Allow: []string{digest}})
		lines = append(lines, strings.TrimPrefix(digest, "sha256:")+"  "+path)
	}
	set, listing := with(b, section), withList(b, lines)
	grow(0, 500)
	short := m.quote(b, 3)
	short.References.Set, short.Memory = set, memory{}
	grow(500, 10_000)
	first := m.quote(b, 1)
	first.References.Set, first.Memory = set, memory{}
	v := appraisal.Appraise(first)
	list := *first
	list.References.Set = listing
	grow(10_000, 10_010)
	again := m.quote(b, 2)
	again.References.Set, again.Memory, again.Prior.Boot = set, memory{}, v.Next()
	for _, c := range []struct {
		name string
		in   *appraisal.Input
	}{{"500", short}, {"10000", first}, {"list10000", &list}, {"resume10", again}} {
		a, findings := appraisal.Authenticate(c.in)
		if a == nil {
			b.Fatalf("not authentic: %v", findings)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := a.Appraise(); !v.Granted() {
					b.Fatalf("denied: %.2000s", v.Marshal())
				}
			}
		})
	}
}
