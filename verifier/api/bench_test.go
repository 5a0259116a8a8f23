package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// benchDir makes the test binary a verifier in that directory: the load is in
// another process, so that what the verifier uses can be told from it.
const benchDir = "WRIT_BENCH_VERIFIER"

// benchProfile names the file for a profile of that verifier: what makes
// cmd/writd/default.pgo.
const benchProfile = "WRIT_BENCH_PROFILE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(benchDir); dir != "" {
		if err := serveBench(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveBench serves until its input ends. It prints its address and that of its
// admin API, and at each line it reads the processor time it has used (ns).
func serveBench(dir string) error {
	stop, err := profile(os.Getenv(benchProfile))
	if err != nil {
		return err
	}
	defer stop()
	root, err := os.ReadFile(filepath.Join(dir, "root.der"))
	if err != nil {
		return err
	}
	v, err := open(dir, root)
	if err != nil {
		return err
	}
	defer v.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- v.srv.Serve(l) }()
	go func() { ended <- v.srv.ServeAdmin(admin) }()
	fmt.Println(l.Addr(), admin.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return err
		}
		fmt.Println(u.Utime.Nano() + u.Stime.Nano())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(v.srv.Shutdown(ctx), <-ended, <-ended)
}

// profile writes a CPU profile to path until stop, and all that was allocated to
// path.allocs; "": neither.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
		if f, err := os.Create(path + ".allocs"); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(f, 0)
			f.Close()
		}
	}, nil
}

// rig is a verifier in its own process with enrolled nodes, each on its own
// connection.
type rig struct {
	*domain
	in    *os.File
	out   *bufio.Scanner
	hands []*hand
}

type hand struct {
	n    *node
	c    *client.Client
	next []byte // nonce of the next attestation
	tok  string // the last one's

	fresh chan string // each token that the node is to follow its events with
	base  *eventlog.Log
}

func newRig(b *testing.B) *rig {
	b.Helper()
	d := &domain{t: b, name: domainName, maker: newMaker(b), sign: signer()}
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "root.der"), d.maker.root.Raw, 0o600); err != nil {
		b.Fatal(err)
	}
	r := &rig{domain: d}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), benchDir+"="+dir)
	cmd.Stderr = os.Stderr
	in, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stdin, r.in = in, w
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	in.Close()
	b.Cleanup(func() {
		w.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	r.out = bufio.NewScanner(out)
	public, admin, _ := strings.Cut(r.line(), " ")
	d.url, d.admin = "https://"+public, "http://"+admin
	file, err := os.ReadFile(filepath.Join(dir, keys.OperatorFile))
	if err != nil {
		b.Fatal(err)
	}
	id, err := keys.ParseIdentity(file)
	if err != nil {
		b.Fatal(err)
	}
	d.first = d.client(client.Config{Operator: id})
	return r
}

func (r *rig) line() string {
	r.t.Helper()
	if !r.out.Scan() {
		r.t.Fatalf("the verifier has ended: %v", r.out.Err())
	}
	return r.out.Text()
}

// cpu is the processor time the verifier has used.
func (r *rig) cpu() time.Duration {
	r.t.Helper()
	if _, err := fmt.Fprintln(r.in); err != nil {
		r.t.Fatal(err)
	}
	ns, err := strconv.ParseInt(r.line(), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return time.Duration(ns)
}

// crew enrols nodes and lets each attest once.
func (r *rig) crew(size int) {
	r.t.Helper()
	for range size {
		h := &hand{n: r.machine("c-grub-sb")}
		if len(r.hands) == 0 {
			r.learn("grub", h.n)
		}
		join, err := r.first.MintJoinToken(context.Background(), protocol.NewJoinToken{Class: "grub", EK: fmt.Sprintf("%x", sha256.Sum256(h.n.ek.Public))})
		if err != nil {
			r.t.Fatal(err)
		}
		if h.c, err = client.Join(context.Background(), r.url, join.Token); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(h.c.Close)
		r.provision(h.n, h.c, join.Token)
		if h.base, err = eventlog.Parse(h.n.log); err != nil {
			r.t.Fatal(err)
		}
		h.next = h.n.nonce(h.c)
		if err := h.attest(false); err != nil {
			r.t.Fatal(err)
		}
		r.hands = append(r.hands, h)
	}
}

// attest is one round trip.
func (h *hand) attest(brief bool) error {
	s := h.n.shot(h.next)
	s.brief = brief
	body, err := s.marshal(h.n)
	if err != nil {
		return err
	}
	out, err := h.c.Attest(context.Background(), body)
	if err != nil {
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Denied != nil {
			return fmt.Errorf("denied: %s", r.Denied.Verdict)
		}
		return err
	}
	h.next, h.tok = out.Challenge.Nonce, out.Token
	return nil
}

// reboot starts the same boot anew, so that everything is sent.
func (h *hand) reboot() { h.n.resets++ }

// differ is a boot whose log nobody has seen: one event, which the reference set
// does not judge, is of this boot alone.
func (h *hand) differ() error {
	h.reboot()
	data := make([]byte, 32)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	e := eventlog.Event{PCR: sparePCR, Type: eventlog.EventTag, Data: data}
	for _, alg := range h.base.Algs {
		f, ok := alg.Hash()
		if !ok {
			return fmt.Errorf("no hash for %s", alg)
		}
		d := f.New()
		d.Write(data)
		e.Digests = append(e.Digests, eventlog.Digest{Alg: alg, Sum: d.Sum(nil)})
		if alg.String() == "sha256" {
			sum := sha256.Sum256(d.Sum(make([]byte, 32)))
			h.n.pcrs[sparePCR] = sum[:]
		}
	}
	l := *h.base
	l.Events = append(slices.Clone(l.Events), e)
	h.n.log = l.Marshal()
	return nil
}

// load runs b.N operations from c nodes at once and reports what the load and
// the verifier saw.
func (r *rig) load(b *testing.B, c int, op func(*hand) error) {
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, c)
	for len(r.hands) < c {
		r.crew(1)
	}
	cpu := r.cpu()
	b.ResetTimer()
	for _, h := range r.hands[:c] {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				start := time.Now()
				if err := op(h); err != nil {
					failed <- err
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	cpu = r.cpu() - cpu
	close(failed)
	for err := range failed {
		b.Fatal(err)
	}
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "server-cpu-us")
	b.ReportMetric(float64(took[(len(took)*99-1)/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkAttest is a boot's first attestation, every log in full: of a boot
// the verifier knows from other nodes, and of one it has never seen.
func BenchmarkAttest(b *testing.B) {
	r := newRig(b)
	for _, kind := range []struct {
		name string
		boot func(*hand) error
	}{
		{"first", func(h *hand) error { h.reboot(); return nil }},
		{"unseen", (*hand).differ},
	} {
		for _, c := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/c=%d", kind.name, c), func(b *testing.B) {
				r.load(b, c, func(h *hand) error {
					if err := kind.boot(h); err != nil {
						return err
					}
					return h.attest(false)
				})
			})
		}
	}
}

// BenchmarkRenewal is the steady state: the boot log by its digest, the list from
// its last entry, the nonce from the last answer.
func BenchmarkRenewal(b *testing.B) {
	r := newRig(b)
	for _, c := range []int{1, 16} {
		b.Run(fmt.Sprintf("c=%d", c), func(b *testing.B) {
			r.load(b, c, func(h *hand) error { return h.attest(true) })
		})
	}
}
