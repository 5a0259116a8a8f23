package enclave

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestProveHalt(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"E4", "E3", "E2"} {
		a := newAgent(t, 60*time.Second)
		cmd := exec.Command(keeperPath, "-prove-halt", "00112233445566778899aabbccddeeff", "-level", level, "-socket", a.socket, "-trust", a.trust)
		if level == "E2" {
			cmd.SysProcAttr = nobody()
		}
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", level, err, out, errs.String())
		}
		var s Stop
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatal(err)
		}
		if s.Cause != CauseProveHalt || !s.Confirmed || s.Level != level || s.Halt == nil || s.Halt.Nonce != "00112233445566778899aabbccddeeff" || len(s.Halt.Keys) < 4 {
			t.Fatalf("%s: %s", level, out)
		}
		byKernel := level != "E4"
		for _, k := range s.Halt.Keys {
			if level == "E4" && k.Key == keyKernel {
				byKernel = true
			}
			if !k.Halted || k.LatencyUS < 0 || k.LatencyUS > 2e6 {
				t.Errorf("%s: %+v", level, k)
			}
		}
		if !byKernel {
			t.Errorf("the kernel's deadline was not tried: %s", out)
		}
		a.set(func() {
			if len(a.stops) != 1 || a.stops[0].Halt == nil || !strings.HasPrefix(a.asked[0].Execution, "prove-halt-") {
				t.Errorf("%s: the agent was told %+v", level, a.stops)
			}
		})
		sweepAll()
	}
}

// A machine on which a key does not work says so: here nothing is done when the
// deadline comes.
func TestProveHaltFails(t *testing.T) {
	t.Parallel()
	_, err := tryKey("none", E3)
	if err == nil || !strings.Contains(err.Error(), "runs on") {
		t.Errorf("without any key: %v", err)
	}
	sweepAll()
}

func TestProveHaltWithoutToken(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	a.answers(unavailable)
	cmd := exec.Command(keeperPath, "-prove-halt", "0011223344556677", "-socket", a.socket, "-trust", a.trust)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "run/no-token") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.Command(keeperPath, "-prove-halt", "xyz", "-socket", a.socket, "-trust", a.trust).CombinedOutput(); err == nil {
		t.Errorf("a nonce that is none: %s", out)
	}
}
