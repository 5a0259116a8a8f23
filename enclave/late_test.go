//go:build !vmtest

package enclave

import "time"

// late is how long after the deadline the last instruction may come on a busy
// machine. The benchmark measures; the tests only tell stopping from running on.
const late = 150 * time.Millisecond
