// Command spy stands in for the keeper and prints what it was given.
package main

import (
	"fmt"
	"os"

	"github.com/writ-attestation/writ/enclave"
)

func main() {
	if exit, ok := enclave.Reenter(); ok {
		os.Exit(exit)
	}
	for _, arg := range os.Args[1:] {
		fmt.Println(arg)
	}
	os.Exit(42)
}
