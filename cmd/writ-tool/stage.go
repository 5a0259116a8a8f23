package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/writ-attestation/writ/enclave"
)

// stage is what the page /demo of `writ dev` plays on: a domain of its own,
// demo.invalid, with one node and one job, begun anew whenever the reader asks. Its
// verifier can be killed and its history split; the domain whose verifier serves the
// page does not notice.
//
// Acts run one at a time, on the goroutine of runDev: what they start dies with it.
// Others see the stage through its view and its entries alone.
type stage struct {
	socket string // where writd dev finds the handler
	dir    string
	self   string
	level  enclave.Level
	server *http.Server
	asked  chan string // acts that were accepted

	mu      sync.Mutex
	view    view
	changed chan struct{} // closed when the view is no longer the latest
	kept    map[string]keptEntry
	trust   []byte

	// What follows belongs to the acts.
	plays int // and jobs: numbers for names of files
	jobs  int
	dev   *dev // nil: the stage is empty
	job   *job // nil: nothing runs
	watch *follower
}

// demoLife is how long tokens of the demonstration live: as long as a reader waits.
const demoLife = 6 * time.Second

// newStage makes an empty stage and serves its handler.
func newStage(d *dev) (*stage, error) {
	s := &stage{socket: filepath.Join(d.dir, "demo.sock"), dir: d.dir, self: d.self, level: d.level, asked: make(chan string, 1), changed: make(chan struct{}), kept: map[string]keptEntry{}}
	s.view = view{Acts: []string{"start"}, Life: demoLife.Seconds(), Level: d.level.String(), Story: []chapter{}, Log: []logLine{}}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		return nil, fmt.Errorf("serving the demonstration: %w", err)
	}
	if err := os.Chmod(s.socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s.server = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.server.Serve(l) }() // until close
	return s, nil
}

func (s *stage) close() error {
	err := errors.Join(s.clear(), s.server.Close())
	if rm := os.Remove(s.socket); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// clear empties the stage.
func (s *stage) clear() error {
	s.watch.stop()
	s.watch, s.job = nil, nil
	if s.dev == nil {
		return nil
	}
	err := s.dev.close()
	s.dev = nil
	return err
}

// perform plays one act and writes down what came of it.
func (s *stage) perform(ctx context.Context, act string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	c, err := s.play(ctx, act)
	c.Act, c.At, c.TookMS = act, began.UnixMilli(), time.Since(began).Milliseconds()
	if err != nil {
		c.Trouble = err.Error()
	}
	s.update(func(v *view) {
		v.Doing, v.Now = "", ""
		v.Story = append(v.Story, c)
		v.Acts = v.possible()
	})
}

func (s *stage) play(ctx context.Context, act string) (chapter, error) {
	switch act {
	case "start":
		return s.start(ctx)
	case "work":
		return s.work(ctx)
	case "tamper":
		return s.tamper(ctx)
	case "revoke":
		return s.revoke(ctx)
	case "stop":
		return s.stopVerifier(ctx)
	case "split":
		return s.split(ctx)
	}
	return chapter{}, fmt.Errorf("there is no act %q", act)
}

// possible are the acts that can be asked for next.
func (v *view) possible() []string {
	tampered := func(c chapter) bool { return c.Act == "tamper" } // until it reboots, which it does not
	switch {
	case v.Node == nil || len(v.Story) > 0 && v.Story[len(v.Story)-1].Trouble != "":
		return []string{"start"}
	case v.Job == "runs":
		return []string{"tamper", "revoke", "stop", "split", "start"}
	case v.Verifier == "runs" && v.Node.Status == "active" && !slices.ContainsFunc(v.Story, tampered):
		return []string{"work", "start"}
	}
	return []string{"start"}
}

// say tells what is being waited for.
func (s *stage) say(format string, args ...any) {
	s.update(func(v *view) { v.Now = fmt.Sprintf(format, args...) })
}

// start begins anew: verifier, TPM, boot, enrolment, reference, token, job.
func (s *stage) start(ctx context.Context) (chapter, error) {
	s.say("clearing the stage")
	if err := s.clear(); err != nil {
		return chapter{}, err
	}
	s.plays++
	s.mu.Lock()
	s.kept, s.trust = map[string]keptEntry{}, nil
	s.mu.Unlock()
	s.update(func(v *view) {
		v.Node, v.Verifier, v.Job, v.Story, v.Log = nil, "", "", []chapter{}, []logLine{}
	})
	d := &dev{options: &devOptions{life: demoLife, set: []string{`domain = "demo.invalid"`}}, out: io.Discard, dir: filepath.Join(s.dir, fmt.Sprintf("demo-%d", s.plays)), self: s.self, level: s.level}
	s.dev = d
	m := machines[0]
	var n *devNode
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"starting a verifier of a domain of its own, demo.invalid", func() error {
			if err := os.MkdirAll(d.dir, 0o755); err != nil {
				return err
			}
			return d.startVerifier(ctx)
		}},
		{"making a software TPM and booting a recorded machine on it: " + m.what, func() error {
			booted, err := bootMachine(ctx, filepath.Join(d.dir, "node-1"), m.name, m.boot, d.maker)
			n = &devNode{machine: booted, class: m.class}
			if err == nil {
				d.nodes = append(d.nodes, n)
			}
			return err
		}},
		{"enrolling it: its keys must be of one TPM", func() error { return d.provision(ctx, n) }},
		{"learning what a good boot is, and putting that into force", func() error { _, err := d.publish(ctx); return err }},
		{"attesting: a quote, the boot log and the list of what ran are judged", func() error { return d.attest(ctx, n) }},
		{"reading the log", func() error { return s.follow(ctx) }},
	} {
		s.say("%s", step.what)
		if err := step.do(); err != nil {
			return chapter{Title: "The stage could not be set"}, err
		}
	}
	c, err := s.work(ctx)
	c.Title = "A node proved its boot, got a token, and its job runs"
	c.Proof = s.lines(0, "node.enrolled", "reference.activated", "legitimacy.issued", "execution.admitted")
	return c, err
}

// work starts the job, and waits for the entry that admitted it.
func (s *stage) work(ctx context.Context) (chapter, error) {
	c := chapter{Title: "The job runs again"}
	s.say("starting the job: a program and four daemons that ignore every signal")
	from := s.size()
	s.jobs++
	j, err := s.dev.work(ctx, s.dev.nodes[0], fmt.Sprintf("work-%d", s.jobs))
	if err != nil {
		return c, err
	}
	s.job = j
	s.update(func(v *view) { v.Job = "runs" })
	if err := s.written(ctx, from, "execution.admitted"); err != nil {
		return c, err
	}
	c.Proof = s.lines(from, "execution.admitted")
	c.Text = fmt.Sprintf("A program and four daemons of their own sessions run under level %s. They ignore every signal they can; their keeper renews the token until it may not.", s.level)
	return c, nil
}

// ended is closed when the job's keeper ends while no act waits for that.
func (s *stage) ended() <-chan struct{} {
	if s == nil || s.job == nil {
		return nil
	}
	return s.job.done
}

// lost writes down a job that ended by itself: a machine too busy to renew in time.
func (s *stage) lost(ctx context.Context) {
	s.update(func(v *view) { v.Doing = "lost" })
	began := time.Now()
	c, err := s.dies(ctx, began, demoLife)
	c.Act, c.At, c.Title = "lost", began.UnixMilli(), "The job ended before anything was done to it"
	if err != nil {
		c.Trouble = err.Error()
	}
	s.update(func(v *view) {
		v.Doing = ""
		v.Story = append(v.Story, c)
		v.Acts = v.possible()
	})
}

// dies waits until the job's last process is gone and tells how long that took.
func (s *stage) dies(ctx context.Context, since time.Time, within time.Duration) (chapter, error) {
	s.say("waiting for the job to stop")
	at, rec, err := s.job.died(ctx, within)
	if err != nil {
		return chapter{}, err
	}
	s.job = nil
	s.update(func(v *view) { v.Job = "stopped" })
	return chapter{Stop: &stopShown{DeadMS: max(0, at.Sub(since).Milliseconds()), stopRecord: rec}}, nil
}

// proven waits for the entry of the job's end and names it, with others of the act.
func (s *stage) proven(ctx context.Context, c chapter, from uint64, kinds ...string) (chapter, error) {
	s.say("waiting for the keeper's record of the stop to be in the log")
	err := s.written(ctx, from, "execution.terminated")
	c.Proof = s.lines(from, append(kinds, "execution.terminated")...)
	return c, err
}

func (s *stage) tamper(ctx context.Context) (chapter, error) {
	title, from := "The boot was tampered with: the job stopped", s.size()
	s.say("measuring a boot application that nobody knows, as firmware does")
	began := time.Now()
	event, err := s.dev.nodes[0].loadForeign("foreign.efi")
	if err != nil {
		return chapter{Title: title}, err
	}
	c, err := s.dies(ctx, began, 4*demoLife)
	c.Title = title
	if err != nil {
		return c, err
	}
	c.Text = fmt.Sprintf("foreign.efi was measured into PCR 4 as event %d. Nothing can take that back but a reboot. The next renewal was denied by that event, and the signed denial stopped the job.", event)
	return s.proven(ctx, c, from, "appraisal.decided")
}

func (s *stage) revoke(ctx context.Context) (chapter, error) {
	title, from := "An operator revoked the node: the job stopped", s.size()
	s.say("revoking the node")
	began := time.Now()
	if _, err := s.dev.operate(ctx, "node", "revoke", s.dev.nodes[0].id, "--reason", "demonstration"); err != nil {
		return chapter{Title: title}, err
	}
	c, err := s.dies(ctx, began, 4*demoLife)
	c.Title = title
	if err != nil {
		return c, err
	}
	c.Text = "The signed revocation was pushed to the node and to the job's keeper. Every token of the node is dead, whoever holds it."
	return s.proven(ctx, c, from, "legitimacy.revoked", "node.status")
}

// stopVerifier kills the verifier, and starts it again once the job is dead: only
// then can the record of the stop be written.
func (s *stage) stopVerifier(ctx context.Context) (chapter, error) {
	title, from := "The verifier was killed: the job stopped at its deadline", s.size()
	s.say("killing the verifier")
	s.dev.verifier.stop(syscall.SIGKILL)
	began := time.Now()
	s.update(func(v *view) { v.Verifier = "stopped" })
	c, err := s.dies(ctx, began, 4*demoLife)
	c.Title = title
	if err != nil {
		return c, err
	}
	c.Text = fmt.Sprintf("Nobody was left to renew the token or to say no. Tokens live %g seconds, and the keeper counts by itself. The verifier was started again afterwards, and the node handed in the keeper's record.", demoLife.Seconds())
	s.say("starting the verifier again")
	if err := s.dev.runVerifier(ctx, hostOf(s.dev.ready.Verifier)); err != nil {
		return c, err
	}
	s.update(func(v *view) { v.Verifier = "runs" })
	return s.proven(ctx, c, from, "verifier.started")
}
