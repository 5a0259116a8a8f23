//go:build patient

package enclave

import "time"

// fuseGrace of the keepers that tests start: on a machine that runs all tests at once,
// a real-time thread may wait for a processor longer than where a keeper belongs, and
// then the kernel is first and nobody is left to say how it ended.
const fuseGrace = 100 * time.Millisecond
