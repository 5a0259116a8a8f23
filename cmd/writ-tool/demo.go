package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

// demo shows the whole of Writ on this machine. Each step is checked; the first
// that does not happen ends it with an error.
func (d *dev) demo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	fmt.Fprintf(d.out, "Writ demo: domain dev.invalid, token_life = %s, enforcement level %s, on this machine only\n\n", d.options.life, d.level)
	var jobs []*job
	steps := []struct {
		name string
		run  func() (string, error)
	}{
		{"provision", func() (string, error) { return d.demoProvision(ctx) }},
		{"reference", func() (string, error) { return d.publish(ctx) }},
		{"attest", func() (string, error) { return d.demoAttest(ctx) }},
		{"work", func() (text string, err error) { jobs, text, err = d.demoWork(ctx); return text, err }},
		{"tamper", func() (string, error) { return d.demoTamper(ctx, jobs[1]) }},
		{"revoke", func() (string, error) { return d.demoRevoke(ctx, jobs[2]) }},
		{"partition", func() (string, error) { return d.demoPartition(ctx, jobs[0]) }},
		{"offline", func() (string, error) { return d.demoOffline(ctx) }},
	}
	began := time.Now()
	for i, s := range steps {
		t := time.Now()
		text, err := s.run()
		took := time.Since(t).Round(time.Millisecond)
		if ctx.Err() != nil {
			return exit(exitFailed, fmt.Errorf("interrupted in step %d (%s)", i+1, s.name), "")
		}
		if err != nil {
			fmt.Fprintf(d.out, "%d. %-10s FAILED after %s\n", i+1, s.name, took)
			return fmt.Errorf("step %d (%s): %w", i+1, s.name, err)
		}
		fmt.Fprintf(d.out, "%d. %-10s %s  [%s]\n", i+1, s.name, strings.ReplaceAll(text, "\n", "\n              "), took)
	}
	fmt.Fprintf(d.out, "\nall of it happened, in %s\n", time.Since(began).Round(100*time.Millisecond))
	return nil
}

func (d *dev) demoProvision(ctx context.Context) (string, error) {
	if err := d.startVerifier(ctx); err != nil {
		return "", err
	}
	if err := d.bootAll(ctx); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "a verifier and %d software-TPM nodes; each proved by credential activation that its EK and AK share a TPM, then was approved", len(d.nodes))
	for i, n := range d.nodes {
		if err := d.provision(ctx, n); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n%s is %s, booted from %s (%s)", n.name, n.id, n.boot, machines[i].what)
	}
	return b.String(), nil
}

// publish learns a reference set for each class from evidence collected on its
// good machine, signs and publishes it.
func (d *dev) publish(ctx context.Context) (string, error) {
	var b strings.Builder
	b.WriteString("learnt from good boots whose quotes and replays verify, signed, published, in force")
	for _, n := range d.nodes {
		sample, err := d.sample(ctx, n)
		if err != nil {
			return "", err
		}
		set, _, err := reference.Learn(n.class, []reference.Sample{sample}, nil)
		if err != nil {
			return "", err
		}
		env, err := reference.Sign(set, d.refKey)
		if err != nil {
			return "", err
		}
		file := filepath.Join(d.dir, n.class+".signed.json")
		if err := os.WriteFile(file, append(env, '\n'), 0o644); err != nil {
			return "", err
		}
		if _, err := d.operate(ctx, "reference", "publish", file); err != nil {
			return "", err
		}
		events := 0
		for _, p := range set.PCRs {
			events += len(p.Events)
		}
		fmt.Fprintf(&b, "\n%s: %d boot events, %s, Secure Boot %s", n.class, events, files(set), set.SecureBoot)
	}
	return b.String(), nil
}

// sample takes evidence of a node with `writ collect` and proves it.
func (d *dev) sample(ctx context.Context, n *devNode) (reference.Sample, error) {
	file := filepath.Join(n.dir, "good.writ.json")
	if _, err := d.writ(ctx, append([]string{"collect", "-o", file, "--nonce", strings.Repeat("5a", 32)}, n.tpmArgs()...)...); err != nil {
		return reference.Sample{}, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return reference.Sample{}, err
	}
	c, err := bundle.Parse(raw)
	if err != nil {
		return reference.Sample{}, err
	}
	s, findings := appraisal.Examine(c.Input)
	if len(findings) > 0 {
		return s, fmt.Errorf("%s: %s: expected %s, found %s", n.name, findings[0].Code, findings[0].Expected, findings[0].Found)
	}
	s.Name = n.name
	return s, nil
}

func (d *dev) demoAttest(ctx context.Context) (string, error) {
	var b strings.Builder
	b.WriteString("quote, boot log and IMA list judged; each verdict is in the Merkle log, each receipt checked offline")
	for _, n := range d.nodes {
		if err := d.attest(ctx, n); err != nil {
			return "", err
		}
		r, err := d.verifyBundle(ctx, n)
		if err != nil {
			return "", err
		}
		if r.Result != bundle.ResultVerified {
			return "", fmt.Errorf("%s: the bundle is %s: %+v", n.name, r.Result, r.Checks)
		}
		node, err := d.operator.Node(ctx, n.id)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n%s: %s at entry %d; executables %d, hardware %d, configuration %d", n.name, node.State, node.Last.Index, r.Verdict.Vector.Executables, r.Verdict.Vector.Hardware, r.Verdict.Vector.Configuration)
	}
	return b.String(), nil
}

func (n *devNode) bundleFile() string { return filepath.Join(n.dir, "decision.writ.json") }

// verifyBundle saves the node's latest decision and checks it offline.
func (d *dev) verifyBundle(ctx context.Context, n *devNode) (*bundle.Report, error) {
	if _, err := d.operate(ctx, "bundle", n.id, "-o", n.bundleFile()); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(n.bundleFile())
	if err != nil {
		return nil, err
	}
	return n.check(raw)
}

// check runs `writ verify` on bytes, with the node's trust file.
func (n *devNode) check(raw []byte) (*bundle.Report, error) {
	var out, messages bytes.Buffer
	code := run(context.Background(), []string{"verify", "-", "--json", "--trust", filepath.Join(n.state(), "trust.json")}, bytes.NewReader(raw), &out, &messages)
	if out.Len() == 0 {
		return nil, fmt.Errorf("writ verify: exit %d: %s", code, strings.TrimSpace(messages.String()))
	}
	r := new(bundle.Report)
	return r, json.Unmarshal(out.Bytes(), r)
}

// job is work under `writ run`.
type job struct {
	*child
	node   *devNode
	record string
	ended  chan time.Time // when the last process that held the work's standard output was gone
}

// hostile is work that does not want to stop: daemons of their own sessions that
// ignore every signal they can, beside the program itself.
const hostile = `trap '' TERM INT HUP QUIT
for i in 1 2 3 4; do
  setsid sh -c "trap '' TERM INT HUP QUIT; while :; do sleep 0.05; done" &
done
echo running
while :; do sleep 0.05; done`

// work starts hostile work on a node; its messages go to the log called name.
func (d *dev) work(ctx context.Context, n *devNode, name string) (*job, error) {
	j := &job{node: n, record: filepath.Join(n.dir, name+".stop.json"), ended: make(chan time.Time, 1)}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	j.child, err = d.start(name, w, d.self, "run", "--level", d.level.String(), "--state", n.state(), "--socket", n.socket(), "--record", j.record, "--", "sh", "-c", hostile)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	j.last = syscall.SIGKILL // its keeper would pass SIGTERM on, and the work ignores it
	line, err := firstLine(ctx, r, 15*time.Second)
	if err != nil || string(line) != "running\n" {
		r.Close()
		return nil, fmt.Errorf("starting work on %s: %w%s", n.name, err, d.lastWords(name))
	}
	go func() { // every process of the work holds the other end
		_ = r.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, r)
		j.ended <- time.Now()
		r.Close()
	}()
	return j, nil
}

func (d *dev) demoWork(ctx context.Context) ([]*job, string, error) {
	var jobs []*job
	for i, n := range d.nodes {
		j, err := d.work(ctx, n, fmt.Sprintf("node-%d-work", i+1))
		if err != nil {
			return nil, "", err
		}
		jobs = append(jobs, j)
	}
	select { // long enough for a renewal
	case <-time.After(d.options.life / 2):
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	for _, j := range jobs {
		select {
		case at := <-j.ended:
			return nil, "", fmt.Errorf("the work on %s ended at %s, before anything was done to it%s", j.node.name, at.Format(time.TimeOnly), d.lastWords(j.name))
		default:
		}
	}
	return jobs, fmt.Sprintf("running on each node: a program and four daemons that ignore every signal, under level %s; leases were renewed meanwhile", d.level), nil
}

// stopRecord is the keeper's record of a stop.
type stopRecord struct {
	Cause     string `json:"cause"`
	LatencyUS int64  `json:"latency_us"`
	Confirmed bool   `json:"confirmed"`
}

// died waits for a job's last process and returns what its keeper recorded.
func (j *job) died(ctx context.Context, within time.Duration) (time.Time, stopRecord, error) {
	var rec stopRecord
	var at time.Time
	select {
	case at = <-j.ended:
	case <-time.After(within):
		return at, rec, fmt.Errorf("the work on %s still runs after %s", j.node.name, within)
	case <-ctx.Done():
		return at, rec, ctx.Err()
	}
	<-j.done
	if code := j.ProcessState.ExitCode(); code != 124 {
		return at, rec, fmt.Errorf("writ run on %s ended with %d, want 124 (legitimacy lapsed)", j.node.name, code)
	}
	raw, err := os.ReadFile(j.record)
	if err != nil {
		return at, rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return at, rec, fmt.Errorf("reading the stop record: %w", err)
	}
	return at, rec, nil
}

func (r stopRecord) String() string {
	word := "confirmed"
	if !r.Confirmed {
		word = "NOT confirmed"
	}
	return fmt.Sprintf("%s by the keeper, %.1f ms after the order or deadline", word, float64(r.LatencyUS)/1000)
}

func (d *dev) demoTamper(ctx context.Context, j *job) (string, error) {
	n := j.node
	event, err := n.loadForeign("foreign.efi")
	if err != nil {
		return "", err
	}
	began := time.Now()
	at, rec, err := j.died(ctx, 2*d.options.life)
	if err != nil {
		return "", err
	}
	node, err := d.operator.Node(ctx, n.id)
	if err != nil {
		return "", err
	}
	var findings []appraisal.Finding
	if err := json.Unmarshal(node.Last.Findings, &findings); err != nil {
		return "", err
	}
	for _, f := range findings {
		if f.Code == "boot/unknown-event" && f.PCR != nil && *f.PCR == 4 && f.Event != nil && *f.Event == event {
			return fmt.Sprintf("%s measured a foreign boot application: denied at entry %d with %s, PCR 4 event %d\nwork dead %d ms after the measurement (next renewal), %s", n.name, node.Last.Index, f.Code, event, at.Sub(began).Milliseconds(), rec), nil
		}
	}
	return "", fmt.Errorf("no finding names PCR 4 event %d: %s", event, node.Last.Findings)
}

func (d *dev) demoRevoke(ctx context.Context, j *job) (string, error) {
	began := time.Now()
	if _, err := d.operate(ctx, "node", "revoke", j.node.id, "--reason", "demo"); err != nil {
		return "", err
	}
	at, rec, err := j.died(ctx, d.options.life)
	if err != nil {
		return "", err
	}
	if rec.Cause != enclave.CauseRevoked && rec.Cause != enclave.CauseDenied {
		return "", errors.New("the work ended at its deadline: the revocation did not reach it")
	}
	return fmt.Sprintf("%s revoked by the operator: work dead %d ms after the command was typed, %s", j.node.name, at.Sub(began).Milliseconds(), rec), nil
}

func (d *dev) demoPartition(ctx context.Context, j *job) (string, error) {
	d.verifier.stop(syscall.SIGKILL)
	began := time.Now()
	at, rec, err := j.died(ctx, 2*d.options.life)
	if err != nil {
		return "", err
	}
	if at.Sub(began) > d.options.life+time.Second {
		return "", fmt.Errorf("the work outlived its token: it ended %s after the verifier", at.Sub(began))
	}
	return fmt.Sprintf("verifier killed: %s's work died at its deadline, %.1f s later, %s", j.node.name, at.Sub(began).Seconds(), rec), nil
}

func (d *dev) demoOffline(context.Context) (string, error) {
	n := d.nodes[0]
	raw, err := os.ReadFile(n.bundleFile())
	if err != nil {
		return "", err
	}
	good, err := n.check(raw)
	if err != nil {
		return "", err
	}
	if good.Result != bundle.ResultVerified {
		return "", fmt.Errorf("the saved bundle is %s: %+v", good.Result, good.Checks)
	}
	at := bytes.Index(raw, []byte(`application/vnd.writ.tcg-event-log"`))
	if at < 0 {
		return "", errors.New("the saved bundle holds no boot log")
	}
	at += 1000 // inside its base64
	if raw[at] == 'A' {
		raw[at] = 'B'
	} else {
		raw[at] = 'A'
	}
	bad, err := n.check(raw)
	if err != nil {
		return "", err
	}
	var failed []string
	for _, c := range bad.Checks {
		if c.Result == bundle.Fail {
			failed = append(failed, c.Name)
		}
	}
	if bad.Result != bundle.ResultInvalid || len(failed) == 0 {
		return "", fmt.Errorf("one byte of the boot log was changed and the bundle is %s", bad.Result)
	}
	return fmt.Sprintf("with no verifier left, %s's bundle: %s, %d checks passed\nthe same with one byte of the boot log changed: %s (%s failed; %s)", n.name, good.Result, len(good.Checks), bad.Result, strings.Join(failed, ", "), bad.Verdict.Findings[0].Code), nil
}
