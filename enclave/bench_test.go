package enclave

import (
	"os/exec"
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
	} {
		b.Run(name, func(b *testing.B) {
			var last, gone []float64
			for b.Loop() {
				a := newAgent(b, 3*time.Second)
				e := a.prepare(b).hydra(nil, 300, "sleep")
				a.answers(unavailable)
				act(e)
				<-e.ended
				deadline := a.until() // at most a request's way later than the keeper's own
				if name == "normal" {
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
	})
	b.Run("bareclock", func(b *testing.B) {
		for b.Loop() {
			if Now() == 0 {
				b.Fatal("no clock")
			}
		}
	})
}

// BenchmarkRunTrue is what `writ run -- true` costs more than `true`.
func BenchmarkRunTrue(b *testing.B) {
	a := newAgent(b, time.Minute)
	var held, plain []float64
	for b.Loop() {
		t := Now()
		a.prepare(b).start(nil, "true").exits(0, "")
		held = append(held, float64(Now().Sub(t))/1e6)
		t = Now()
		if err := exec.Command("true").Run(); err != nil {
			b.Fatal(err)
		}
		plain = append(plain, float64(Now().Sub(t))/1e6)
	}
	b.ReportMetric(percentile(held, 50)-percentile(plain, 50), "overhead-ms")
}
