package appraisal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

// The adversary takes evidence that is granted and changes it. What must come of
// it:
//
//   - A change of anything the quote signs, of the signature, the key, the nonce or
//     a PCR value, and of any digest, order or count of measurements in a PCR that
//     is judged: denied.
//   - A change of what no digest covers (the attributes of a key that another tool
//     recorded and nobody enrolled, an event's type or label, the data behind a
//     digest, another bank, the order across PCRs, a PCR that the set ignores, what
//     follows the proven part of the IMA list): denied, or the same decision byte
//     for byte, because nothing rested on it ("unchanged"), or a decision that
//     lacks only what rested on it ("lowered": the command line's text says which
//     IMA policy ran; changed, it says nothing, and executables is 3, not 2).
//
// What is covered is judged by decoders of this test's own.

// scale multiplies the samples; the whole-range kinds are whole at any scale.
func scale(t testing.TB) int {
	n := 1
	if s := os.Getenv("WRIT_SOAK"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("WRIT_SOAK is %q, expected a number above 0", s)
		}
	}
	return n
}

// checker is what is under attack.
type checker func(*appraisal.Input) appraisal.Verdict

// outcome counts what came of the attacks of one kind.
type outcome struct{ tried, denied, unchanged, lowered int }

// hunt is one machine under attack.
type hunt struct {
	name   string
	in     *appraisal.Input // granted as it is
	base   appraisal.Verdict
	truth  covered
	judge  checker
	quick  checker // for most of the flips that end at the signature
	scale  int
	few    bool // samples of the kinds that are whole otherwise
	rnd    *rand.Rand
	counts map[string]*outcome
	broken []string
}

func newHunt(t testing.TB, name string, in *appraisal.Input, j checker, scale int) *hunt {
	t.Helper()
	sum := fnv.New64()
	sum.Write([]byte(name))
	h := &hunt{name: name, in: in, judge: j, quick: j, scale: scale, rnd: rand.New(rand.NewPCG(1, sum.Sum64())), counts: map[string]*outcome{}}
	if h.base = appraisal.Appraise(in); !h.base.Granted() {
		t.Fatalf("%s: untouched it is denied, so attacks on it would show nothing: %q", name, listed(h.base))
	}
	h.truth = coveredBy(in)
	return h
}

// try judges the input after a change.
func (h *hunt) try(kind, what string, change func(*appraisal.Input)) {
	in := *h.in
	change(&in)
	if in.Evidence == h.in.Evidence && in.Challenge.Nonce == nil {
		panic("the attack " + kind + " does nothing")
	}
	c := h.counts[kind]
	if c == nil {
		c = new(outcome)
		h.counts[kind] = c
	}
	c.tried++
	v, crash := h.appraise(&in)
	switch {
	case crash != nil:
		h.broken = append(h.broken, fmt.Sprintf("%s: %s: panic: %v", kind, what, crash))
	case !v.Granted():
		c.denied++
	case !h.truth.equal(coveredBy(&in)):
		h.broken = append(h.broken, fmt.Sprintf("%s: %s: granted, though it changes what is covered", kind, what))
	case bytes.Equal(decision(v), decision(h.base)):
		c.unchanged++
	case lower(v, h.base):
		c.lowered++
	default:
		h.broken = append(h.broken, fmt.Sprintf("%s: %s: granted with another decision: %s\nwas %s", kind, what, decision(v), decision(h.base)))
	}
}

func (h *hunt) appraise(in *appraisal.Input) (v appraisal.Verdict, crash any) {
	defer func() { crash = recover() }()
	return h.judge(in), nil
}

// decision is the verdict without the names of the bytes it rests on.
func decision(v appraisal.Verdict) []byte {
	v.Inputs.Evidence, v.Inputs.Prior = "", ""
	if v.Boot != nil {
		b := *v.Boot
		b.BootLog = ""
		if b.IMA != nil {
			list := *b.IMA
			list.Offset = 0 // a template has names of several lengths, which nothing covers
			b.IMA = &list
		}
		v.Boot = &b
	}
	return v.Marshal()
}

// lower reports whether a decision says less than another and nothing more.
func lower(v, than appraisal.Verdict) bool {
	for _, name := range appraisal.Names() {
		if v.Vector.Claim(name) < than.Vector.Claim(name) { // among affirming values a greater one says less
			return false
		}
	}
	v.Vector = than.Vector
	return bytes.Equal(decision(v), decision(than))
}

// samples calls f with n*scale of the numbers below of, or with all of them.
func (h *hunt) samples(n, of int, f func(int)) {
	if n *= h.scale; n >= of {
		for i := range of {
			f(i)
		}
		return
	}
	for range n {
		f(h.rnd.IntN(of))
	}
}

// covered is all that a signature or a digest vouches for in an input.
type covered struct {
	signed string            // everything but the logs
	boot   map[uint32]string // by judged PCR: where it starts, then what extended it
	ima    string            // what extended PCR 10 up to its quoted value; "" if nothing gives it
}

func (c covered) equal(o covered) bool {
	return c.signed == o.signed && c.ima == o.ima && maps.Equal(c.boot, o.boot)
}

func coveredBy(in *appraisal.Input) covered {
	q := in.Evidence.Quote
	key := fmt.Sprintf("%x", in.Prior.AK)
	if ak, err := tpm.ParsePublic(in.Prior.AK); err == nil && in.Challenge.Binding == appraisal.BoundRaw {
		key = fmt.Sprint(ak.Key()) // enrolled by nobody: it is believed as far as it verifies
	}
	c := covered{signed: fmt.Sprintf("%x %x %x %s %v %x", q.Attest, q.Signature, in.Challenge.Nonce, key, q.Bank, q.Values), boot: bootCovered(in.Evidence.Item(evidence.UEFILog).Content)}
	maps.DeleteFunc(c.boot, func(p uint32, _ string) bool {
		rule := in.References.Set.Set.PCR(int(p))
		return rule == nil || rule.Rule == reference.Ignore
	})
	if in.References.Set.Set.IMA != nil {
		c.ima = imaCovered(in.Evidence.Item(evidence.IMALog).Content, q.Values[10])
	}
	return c
}

// fields takes numbers and bytes off the front.
type fields []byte

func (f *fields) take(n int) []byte {
	n = min(n, len(*f))
	b := (*f)[:n]
	*f = (*f)[n:]
	return b
}

func (f *fields) u32() int {
	if len(*f) < 4 {
		*f = nil
		return 0
	}
	return int(binary.LittleEndian.Uint32(f.take(4)))
}

// bootCovered reads a crypto-agile log as far as it goes: what each PCR starts at
// and is extended with in the SHA-256 bank.
func bootCovered(log []byte) map[uint32]string {
	f, start, extended := fields(log), "", map[uint32][]byte{}
	f.take(28)
	f.take(f.u32())
	for len(f) > 0 {
		pcr, typ := uint32(f.u32()), f.u32()
		var digest []byte
		for n := f.u32(); n > 0 && len(f) > 2; n-- {
			alg := tpm.Alg(binary.LittleEndian.Uint16(f.take(2)))
			if sum := f.take(alg.Size()); alg == tpm.AlgSHA256 {
				digest = sum
			}
		}
		data := f.take(f.u32())
		switch {
		case eventlog.Type(typ) == eventlog.NoAction && pcr == 0 && bytes.HasPrefix(data, []byte("StartupLocality\x00")) && len(data) == 17:
			if data[16] != 0 {
				start += fmt.Sprintf("from locality %d ", data[16])
			}
		case eventlog.Type(typ) == eventlog.NoAction || pcr > 23:
		default:
			if eventlog.Type(typ) == eventlog.HCRTM && pcr == 0 {
				start += "from H-CRTM "
			}
			extended[pcr] = append(append(extended[pcr], byte(len(digest))), digest...)
		}
	}
	out := map[uint32]string{0: start}
	for pcr, b := range extended {
		out[pcr] += string(b)
	}
	return out
}

// imaCovered replays a list in the SHA-256 bank until it gives the value.
func imaCovered(list, want []byte) string {
	f, pcr := fields(list), make([]byte, 32)
	var out strings.Builder
	for {
		if bytes.Equal(pcr, want) {
			return out.String()
		}
		if len(f) == 0 {
			return ""
		}
		f.u32()
		hash := f.take(20)
		name := f.take(f.u32())
		var data []byte
		if string(name) == "ima" { // digest and name, hashed with the name padded
			data = slices.Clone(f.take(20))
			data = append(data, f.take(f.u32())...)
			data = append(data, make([]byte, max(0, 20+256-len(data)+1))...)
		} else {
			data = f.take(f.u32())
		}
		d := sha256.Sum256(data)
		if bytes.Equal(hash, make([]byte, 20)) {
			d = [32]byte(bytes.Repeat([]byte{0xff}, 32))
		}
		fmt.Fprintf(&out, "%x ", d)
		next := sha256.Sum256(append(slices.Clone(pcr), d[:]...))
		pcr = next[:]
	}
}

// legacy is the machine whose IMA list is refused whole, as its template has SHA-1
// digests alone. It is granted by a set that leaves the list unjudged.
const legacy = "f-ima-legacy"

func unjudged(set *reference.Set) {
	set.IMA = nil
	set.PCRs = append(set.PCRs, reference.PCR{PCR: 10, Rule: reference.Ignore, Why: "the list is not judged"})
	slices.SortFunc(set.PCRs, func(a, b reference.PCR) int { return a.PCR - b.PCR })
}

// TestAdversaryAtARefusedList: nothing done to a list makes it one that is accepted.
func TestAdversaryAtARefusedList(t *testing.T) {
	in := quarry(t, legacy)
	h := newHunt(t, legacy, in, appraisal.Appraise, scale(t))
	judged := *in
	judged.References.Set = learn(t, legacy)
	h.in, h.truth = &judged, covered{} // nothing explains a grant
	h.imaList(t, in.Evidence.Item(evidence.IMALog).Content)
	h.report(t)
}

// quarry is a recorded machine, quoted by its own TPM, with the references that it
// alone teaches; b-grub, which has no log, with its bare PCR values.
func quarry(t testing.TB, name string) *appraisal.Input {
	t.Helper()
	in := recorded(t, name)
	in.Memory = new(endorsed)
	if raw := in.Evidence.Item(evidence.UEFILog).Content; raw != nil {
		proveIMA(t, in)
		log, err := eventlog.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		list, err := ima.Parse(in.Evidence.Item(evidence.IMALog).Content)
		if err != nil {
			t.Fatal(err)
		}
		n, _, _ := list.Prefix(tpm.AlgSHA256, nil, in.Evidence.Quote.Values[10])
		set, _, err := reference.Learn("lab", []reference.Sample{{Name: name, Vendor: "id:00001014", Log: log, PCRs: in.Evidence.Quote.Values, IMA: list.Entries[:n]}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if name == legacy {
			unjudged(set)
		}
		in.References.Set = signed(t, set)
		return in
	}
	set := &reference.Set{V: 1, Name: "lab", Generation: 1, Bank: "sha256", Level: reference.QuoteOnly, SecureBoot: "any", Required: []string{reference.InstanceIdentity, reference.Hardware}}
	set.TPM.Vendors = []string{"id:00001014"}
	for p := range 16 {
		set.PCRs = append(set.PCRs, reference.PCR{PCR: p, Rule: reference.Match, Values: []string{hexed(in.Evidence.Quote.Values[p])}})
	}
	in.References.Set = signed(t, set)
	return in
}

// proveIMA gives PCR 10 the value that was quoted, as an agent does: read beside
// the quote, it is another one where the list grew meanwhile.
func proveIMA(t testing.TB, in *appraisal.Input) {
	t.Helper()
	q, err := tpm.ParseQuote(in.Evidence.Quote.Attest)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ima.Parse(in.Evidence.Item(evidence.IMALog).Content)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(list.Entries); tpm.CheckPCRs(q, in.Evidence.Quote.Values) != nil; n-- {
		if n == 0 {
			t.Fatal("no prefix of the IMA list gives the quoted values")
		}
		in.Evidence.Quote.Values[10] = (&ima.List{Entries: list.Entries[:n]}).Replay(tpm.AlgSHA256)
	}
}

// endorsed remembers certificate chains alone: what logs say is read anew.
type endorsed struct{ lockedMemory }

func (m *endorsed) Keep(key string, fact any) {
	if strings.HasPrefix(key, "ek/") {
		m.lockedMemory.Keep(key, fact)
	}
}

// twin is the machine with a key of the test's, bound as a verifier wants it: it
// quotes whatever it likes.
func twin(t testing.TB, name string) *subject {
	t.Helper()
	s, in := boot(t, name), quarry(t, name)
	s.in.Memory = new(endorsed)
	list, err := ima.Parse(s.list)
	if err != nil {
		t.Fatal(err)
	}
	if n, end, ok := list.Prefix(tpm.AlgSHA256, nil, in.Evidence.Quote.Values[10]); ok && n > 0 {
		s.list = s.list[:end] // what it had measured by then
		s.replay()
		s.sign()
	}
	set, err := reference.Parse(in.References.Set.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	set.TPM.Vendors = learnt().TPM.Vendors
	s.in.References.Set = signed(t, set)
	return s
}

func machines(t testing.TB) (names []string) {
	t.Helper()
	dirs, err := os.ReadDir(boots)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if d.IsDir() {
			names = append(names, d.Name())
		}
	}
	if len(names) < 15 {
		t.Fatalf("%d recorded machines, expected all of testdata/boots", len(names))
	}
	return names
}

// TestAdversary attacks every recorded machine in every way of attacks.
func TestAdversary(t *testing.T) {
	n := scale(t)
	var all [4]atomic.Int64
	names := machines(t)
	t.Run("machines", func(t *testing.T) {
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newHunt(t, name, quarry(t, name), appraisal.Appraise, n)
				h.quick = authenticOnly
				h.attack(t)
				for _, c := range h.report(t) {
					for i, k := range []int{c.tried, c.denied, c.unchanged, c.lowered} {
						all[i].Add(int64(k))
					}
				}
			})
		}
	})
	t.Logf("%d machines, %d attacks: %d denied; %d unchanged and %d lowered by what no digest covers",
		len(names), all[0].Load(), all[1].Load(), all[2].Load(), all[3].Load())
}

// report prints what was tried and fails for what was granted.
func (h *hunt) report(t *testing.T) map[string]*outcome {
	t.Helper()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(h.counts)) {
		c := h.counts[kind]
		fmt.Fprintf(&b, "\n%-28s %5d tried, %5d denied", kind, c.tried, c.denied)
		if c.unchanged+c.lowered > 0 {
			fmt.Fprintf(&b, ", %d unchanged, %d lowered", c.unchanged, c.lowered)
		}
	}
	t.Log(b.String())
	for i, what := range h.broken {
		if i == 20 {
			t.Errorf("and %d more", len(h.broken)-i)
			break
		}
		t.Error(what)
	}
	return h.counts
}

// TestWeakenedCheckerIsCaught: the suite can fail. Each judge here leaves one check
// out; attacks of the kinds named must find it.
func TestWeakenedCheckerIsCaught(t *testing.T) {
	const name = "c-grub-sb"
	good := quarry(t, name)
	bound := twin(t, name)
	logs, signatures := func(h *hunt) { h.attackLogs(t) }, (*hunt).attackSigned
	for about, weak := range map[string]struct {
		in    *appraisal.Input
		judge checker
		run   func(*hunt)
		kinds []string
	}{
		"the boot log is not replayed": {good, func(in *appraisal.Input) appraisal.Verdict {
			return appraisal.Appraise(withItem(in, evidence.UEFILog, good.Evidence.Item(evidence.UEFILog).Content))
		}, logs, []string{"boot log: bit", "boot log: events swapped", "boot log: event dropped", "boot log: event twice", "boot log: digest changed", "boot log: truncated", "boot log: hidden option ROM", "boot log: StartupLocality"}},
		"the IMA list is not replayed": {good, func(in *appraisal.Input) appraisal.Verdict {
			return appraisal.Appraise(withItem(in, evidence.IMALog, good.Evidence.Item(evidence.IMALog).Content))
		}, logs, []string{"IMA list: bit", "IMA list: entries swapped", "IMA list: truncated", "IMA list: prefix of another"}},
		"the PCR values are not proven": {good, func(in *appraisal.Input) appraisal.Verdict {
			return appraisal.Appraise(withQuote(in, func(q *evidence.Quote) { q.Values = good.Evidence.Quote.Values }))
		}, (*hunt).attackValues, []string{"PCR value: bit"}},
		"the signature is not checked": {bound.in, func(in *appraisal.Input) appraisal.Verdict {
			return appraisal.Appraise(withQuote(in, func(q *evidence.Quote) {
				q.Attest, q.Signature = bound.in.Evidence.Quote.Attest, bound.in.Evidence.Quote.Signature
			}))
		}, signatures, []string{"quote: bit", "signature: bit"}},
		"the nonce is not checked": {bound.in, func(in *appraisal.Input) appraisal.Verdict {
			c := *in
			c.Challenge.Nonce = bound.in.Challenge.Nonce
			return appraisal.Appraise(&c)
		}, signatures, []string{"nonce: bit"}},
		"the parser panics": {good, func(in *appraisal.Input) appraisal.Verdict {
			if b := in.Evidence.Item(evidence.UEFILog).Content; len(b)%2 == 0 {
				_ = b[len(b)]
			}
			return appraisal.Appraise(in)
		}, logs, []string{"boot log: truncated"}},
	} {
		t.Run(about, func(t *testing.T) {
			h := newHunt(t, name, weak.in, weak.judge, 1)
			h.few = true
			weak.run(h)
			for _, kind := range weak.kinds {
				if !slices.ContainsFunc(h.broken, func(s string) bool { return strings.HasPrefix(s, kind) }) {
					t.Errorf("no attack of kind %q noticed", kind)
				}
			}
		})
	}
}

// TestAdversaryWithTheKey: the machine signs what it likes, bound as verifiers ask
// it. Every bit of what is bound counts before any log is parsed, and a TPM that
// measured something its log hides is denied.
func TestAdversaryWithTheKey(t *testing.T) {
	for _, name := range machines(t) {
		if name == "b-grub" { // no log to hide anything from
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := twin(t, name)
			h := newHunt(t, name, s.in, authenticOnly, scale(t))
			h.attackSigned()
			for _, label := range []string{evidence.UEFILog, evidence.BindKey, evidence.Ask} {
				content := s.in.Evidence.Item(label).Content
				h.samples(300, 8*len(content), func(i int) {
					h.try("bound "+label+": bit", fmt.Sprint(i), func(in *appraisal.Input) { *in = *withItem(in, label, flipped(content, i)) })
				})
			}
			h.judge = appraisal.Appraise
			h.hide(t, s)
			h.report(t)
			for kind, c := range h.counts {
				if c.unchanged+c.lowered > 0 {
					t.Errorf("%s: %d granted", kind, c.unchanged+c.lowered)
				}
			}
		})
	}
}

// authenticOnly is the cheap half, as the service does it before anything else:
// what passes it is granted here.
func authenticOnly(in *appraisal.Input) appraisal.Verdict {
	a, findings := appraisal.Authenticate(in)
	if a == nil || len(findings) > 0 {
		return appraisal.Verdict{}
	}
	return appraisal.Appraise(in)
}

// TestAdversaryAtTheBundle: a file judged offline is denied as the evidence is.
func TestAdversaryAtTheBundle(t *testing.T) {
	in := quarry(t, "c-grub-sb")
	trust := &bundle.Trust{V: 1, Domain: "lab.invalid", EKRoots: []string{bundle.CertificatePEM(in.References.EKRoots[0])}}
	h := newHunt(t, "c-grub-sb", in, func(in *appraisal.Input) appraisal.Verdict {
		v := appraisal.Appraise(in)
		if r := bundle.Judge(in, trust); r.Verdict == nil || r.Verdict.Decision != v.Decision || (r.Result == bundle.ResultVerified && !v.Granted()) {
			panic(fmt.Sprintf("judged %s offline, decided %s", r.Result, v.Decision))
		}
		return v
	}, 1)
	h.attackLogs(t)
	h.report(t)
}
