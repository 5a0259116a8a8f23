package enclave

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Causes of a Stop.
const (
	CauseExited    = "exited"      // the work ended by itself
	CauseFailed    = "not-started" // a token was got and the work could not be started
	CauseDeadline  = "deadline"    // the token was not renewed in time
	CauseRevoked   = "revoked"     // a signed revocation was pushed
	CauseDenied    = "denied"      // a renewal was denied, with a signed revocation
	CauseInitDied  = "init-died"   // somebody killed the namespace init
	CauseProveHalt = "prove-halt"  // there was no work: the machine showed that it can stop some
)

// A Stop is the record of how an execution ended. Instants are nanoseconds on
// the node's boot clock.
type Stop struct {
	Exec      string  `json:"exec"`
	Image     string  `json:"image,omitempty"` // as whoever started it said
	Cause     string  `json:"cause"`
	Deadline  Instant `json:"deadline"`         // of the last token
	Renewed   Instant `json:"renewed"`          // when that was asked for
	Frozen    Instant `json:"frozen,omitempty"` // since when it stood still
	Stopped   Instant `json:"stopped"`          // when the last process was found gone
	LatencyUS int64   `json:"latency_us"`       // from the deadline, or the order to stop, to Stopped; 0 if the work ended by itself
	Confirmed bool    `json:"confirmed"`        // the namespaces are gone and the cgroup is empty
	Level     string  `json:"level"`
	Admitted  uint64  `json:"admitted"` // index of the log entry of the last token
	Halt      *Halt   `json:"halt,omitempty"`
}

// String tells people how the work was stopped.
func (s Stop) String() string {
	took := fmt.Sprintf("the last process was gone %.1f ms later", float64(s.LatencyUS)/1000)
	if !s.Confirmed {
		took = "NOT CONFIRMED: a process has not died yet"
	}
	switch s.Cause {
	case CauseDeadline:
		at := time.Now().Add(s.Deadline.Sub(Now())).UTC()
		return fmt.Sprintf("stopped: lapsed at %s, not renewed in time; %s", at.Format("2006-01-02T15:04:05.000Z"), took)
	case CauseRevoked:
		return "stopped: revoked by the verifier's signed event; " + took
	case CauseDenied:
		return "stopped: denied by the verifier's signed event; " + took
	}
	return "stopped: " + s.Cause + "; " + took
}

// publish hands the record to whoever was asked to be told. The agent gets a
// second for it; the work is over whatever it says.
func (k *keeper) publish(s Stop) {
	b, err := json.Marshal(s)
	if err != nil {
		panic("enclave: a stop record does not marshal: " + err.Error())
	}
	b = append(b, '\n')
	if k.cfg.JSONStop {
		k.mayBeUnheard()
		_, _ = os.Stderr.Write(b)
	}
	if k.cfg.Record != "" {
		if err := os.WriteFile(k.cfg.Record, b, 0o600); err != nil {
			k.warn("writing the stop record: %v", err)
		}
	}
	statement, err := token.SignStatement(b[:len(b)-1], k.key, rand.Reader)
	if err != nil {
		k.warn("signing the stop record: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := k.agent.stopped(ctx, statement); err != nil {
		k.warn("%v", err)
	}
}
