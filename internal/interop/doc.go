// Package interop holds tests and benchmarks of Writ against the programs it
// must agree with or is measured by, one subpackage for each.
//
// It is a module of its own so that what those peers require never reaches the
// module that is shipped. Its tests run without the race detector: most of the
// code they execute is not Writ's.
package interop
