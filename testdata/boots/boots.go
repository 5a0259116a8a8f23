// Package boots holds the logs of recorded machines that `writ dev` boots its
// software TPMs from. See ../SOURCES.md for what each is.
package boots

import "embed"

// FS has eventlog.bin and ima.bin of each machine, by its name.
//
//go:embed c-grub-sb/eventlog.bin c-grub-sb/ima.bin d-uki-sb/eventlog.bin d-uki-sb/ima.bin a-direct/eventlog.bin a-direct/ima.bin
var FS embed.FS
