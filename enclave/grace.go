//go:build !patient

package enclave

import "time"

// fuseGrace is how long after the deadline the kernel kills a keeper that has not done
// it itself, at E3 and above.
const fuseGrace = 2 * time.Millisecond
