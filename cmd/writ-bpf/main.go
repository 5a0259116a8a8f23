// Command writ-bpf makes the kernel's deadline of enforcement level E4 for a keeper,
// which finds it beside itself: it loads the programs, hands them over and ends.
package main

import (
	"fmt"
	"os"

	"github.com/writ-attestation/writ/enclave/bpf"
)

func main() {
	if err := bpf.Main(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "writ-bpf: error: %v\n", err)
		os.Exit(2)
	}
}
