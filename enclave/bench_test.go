package enclave

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkLapse lets 300 hostile processes lapse and reports, in milliseconds
// after the deadline, when the last of them executed its last instruction and
// when the last had gone.
func BenchmarkLapse(b *testing.B) {
	for name, act := range map[string]func(e *execution){
		"normal": func(*execution) {},
		"keeper-stopped": func(e *execution) {
			if err := e.cmd.Process.Signal(unix.SIGSTOP); err != nil {
				b.Fatal(err)
			}
		},
		"keeper-killed": func(e *execution) {
			if err := e.cmd.Process.Kill(); err != nil {
				b.Fatal(err)
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			var last, gone []float64
			for b.Loop() {
				a := newAgent(b, 3*time.Second)
				e := a.prepare(b).hydra(nil, 300, "sleep")
				a.answers(unavailable)
				now := Now()
				act(e)
				<-e.ended
				deadline := a.until() // at most a request's way later than the keeper's own
				switch name {
				case "keeper-killed":
					deadline = now
				case "normal":
					s := e.stop(CauseDeadline)
					deadline = s.Deadline
					gone = append(gone, float64(s.LatencyUS)/1e3)
				}
				time.Sleep(20 * time.Millisecond)
				last = append(last, float64(e.last().Sub(deadline))/1e6)
			}
			b.ReportMetric(percentile(last, 50), "last-p50-ms")
			b.ReportMetric(percentile(last, 99), "last-p99-ms")
			if len(gone) > 0 {
				b.ReportMetric(percentile(gone, 99), "gone-p99-ms")
			}
			b.ReportMetric(0, "ns/op") // it waits for a deadline
		})
	}
}

func percentile(v []float64, p int) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)*p/100, len(v)-1)]
}

// BenchmarkKeeper is what it costs to hold an execution that does nothing, with a
// token of 60 s. CPU is that of keeper and init, in millionths of a processor,
// measured with ten times the renewals and spread over their usual distance; RSS
// is each's own.
func BenchmarkKeeper(b *testing.B) {
	for b.Loop() {
		a := newAgent(b, 6*time.Second)
		e := a.prepare(b).start(nil, "sleep", "60")
		e.eventually("the work runs", func() bool { return len(a.requests()) > 0 })
		time.Sleep(500 * time.Millisecond)
		keeper, init := e.cmd.Process.Pid, e.initPID()
		used, since := cpuTime(b, keeper)+cpuTime(b, init), Now()
		time.Sleep(6 * time.Second)
		used = cpuTime(b, keeper) + cpuTime(b, init) - used
		b.ReportMetric(float64(used)*1e5/float64(Now().Sub(since)), "cpu-ppm")
		b.ReportMetric(rss(b, keeper), "keeper-rss-MiB")
		b.ReportMetric(rss(b, init), "init-rss-MiB")
		b.ReportMetric(float64(len(a.requests())-1), "renewals")
		_ = e.cmd.Process.Signal(unix.SIGTERM)
		<-e.ended
	}
	b.ReportMetric(0, "ns/op")
}

// cpuTime sums what the threads of a process have run (proc_pid_schedstat).
func cpuTime(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, f := range files {
		var ns int64
		text, err := os.ReadFile(f)
		if err == nil {
			_, err = fmt.Sscan(string(text), &ns)
		}
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

func rss(b *testing.B, pid int) float64 {
	b.Helper()
	var pages, resident float64
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err == nil {
		_, err = fmt.Sscan(string(text), &pages, &resident)
	}
	if err != nil {
		b.Fatal(err)
	}
	return resident * float64(os.Getpagesize()) / (1 << 20)
}

// BenchmarkLease compares what a program pays to ask with one clock read.
func BenchmarkLease(b *testing.B) {
	var l Lease
	if err := l.Renew(Now().Add(time.Hour)); err != nil {
		b.Fatal(err)
	}
	defer l.Revoke()
	b.Run("fast", func(b *testing.B) {
		for b.Loop() {
			if !l.Fast() {
				b.Fatal("lapsed")
			}
		}
	})
	b.Run("valid", func(b *testing.B) {
		for b.Loop() {
			if !l.Valid() {
				b.Fatal("lapsed")
			}
		}
		var valid, bare time.Duration // in turn, so that both see the same machine
		for range 200 {
			t := Now()
			for range 100 {
				_ = l.Valid()
			}
			u := Now()
			for range 100 {
				_ = Now()
			}
			valid, bare = valid+u.Sub(t), bare+Now().Sub(u)
		}
		b.ReportMetric(float64(valid)/float64(bare), "x-bareclock")
	})
	b.Run("bareclock", func(b *testing.B) {
		for b.Loop() {
			if Now() == 0 {
				b.Fatal("no clock")
			}
		}
	})
}

// BenchmarkRunTrue is what `writ run -- true` costs more than `true`, and what
// the keeper alone does.
func BenchmarkRunTrue(b *testing.B) {
	a := newAgent(b, time.Minute)
	writ := filepath.Join(a.dir, "writ")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", writ, "../cmd/writ")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for name, command := range map[string][]string{
		"keeper": {keeperPath, "-socket", a.socket, "-trust", a.trust, "--", "true"},
		"writ":   {writ, "run", "--socket", a.socket, "--trust", a.trust, "--", "true"},
	} {
		b.Run(name, func(b *testing.B) {
			var held, plain []float64
			for b.Loop() {
				held = append(held, timed(b, command...))
				plain = append(plain, timed(b, "true"))
			}
			b.ReportMetric(percentile(held, 50)-percentile(plain, 50), "overhead-ms")
		})
	}
}

// timed runs a command and returns how long it took, in milliseconds.
func timed(b *testing.B, command ...string) float64 {
	b.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "WRIT_KEEPER="+keeperPath)
	t := Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%q: %v", command, err)
	}
	return float64(Now().Sub(t)) / 1e6
}
