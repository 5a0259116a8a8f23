// Command writ-keeper holds one execution for `writ run`, which finds it beside
// itself and becomes it. It is small because it holds the kill switch: it is
// the keeper, the namespace init and the stub that becomes the work, and its
// own digest goes into every request for a token.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/writ-attestation/writ/enclave"
)

const about = `writ-keeper holds one execution: it gets the token that lets work run, renews it,
and kills the work when it ends. It is started by writ run, writ enclave prove-halt
and writ-nri, which give it what follows; start those, not this.

Usage:
  writ-keeper [flags] -- COMMAND...

Exit codes: those of writ run (writ run --help).

Flags:
`

func main() {
	if exit, ok := enclave.Reenter(); ok {
		os.Exit(exit)
	}
	var cfg enclave.Config
	flags := flag.NewFlagSet("writ-keeper", flag.ContinueOnError) // and not the one that a test shares
	var level string
	flags.StringVar(&level, "level", enclave.E3.String(), "least enforcement level")
	flags.StringVar(&cfg.Socket, "socket", "", "agent socket")
	flags.StringVar(&cfg.Trust, "trust", "", "trust file")
	flags.StringVar(&cfg.Audience, "audience", "", "audience of the token; default the domain's enclave")
	flags.StringVar(&cfg.Parent, "parent", "", "execution that starts this one")
	flags.StringVar(&cfg.Image, "image", "", "digest of the image the work is from")
	flags.StringVar(&cfg.ArgvPolicy, "argv-policy", "", "file of the command lines that may be started")
	flags.DurationVar(&cfg.DrainBefore, "drain-before", 0, "SIGTERM this long before the deadline when renewing fails")
	flags.DurationVar(&cfg.FreezeFor, "freeze-for", 0, "hold the work still this long at its deadline before it is killed")
	flags.DurationVar(&cfg.Partition, "stop-on-partition", 0, "stop this long after the last answer of a verifier")
	flags.IntVar(&cfg.Pids, "pids", 0, "most processes and threads")
	flags.StringVar(&cfg.Record, "record", "", "file for the stop record")
	flags.BoolVar(&cfg.JSONStop, "json-stop", false, "stop record to stderr")
	flags.IntVar(&cfg.Memo, "memo", 0, "descriptor by which the supervisor learns the deadline")
	flags.IntVar(&cfg.Measured, "measured", 0, "descriptor by which the supervisor says this program's digest")
	flags.StringVar(&cfg.Adopt, "adopt", "", "cgroup directory to hold, in which something waits to execute the command, instead of starting it")
	flags.StringVar(&cfg.Path, "path", "", "PATH by which what -adopt names finds the command")
	flags.BoolVar(&cfg.Sole, "sole", false, "the supervisor is PID 1 of a container")
	flags.IntVar(&cfg.Line, "line", 0, "descriptor by which the supervisor is told what the service manager should know")
	prove := flags.String("prove-halt", "", "nonce: show that this machine can halt work, instead of running a command")
	net := flags.String("net", "host", "host, or none: a network namespace of its own, with loopback only")
	flags.BoolVar(&cfg.PrivateTmp, "private-tmp", false, "/tmp, /var/tmp and /dev/shm of its own")
	flags.Func("landlock-ro", "path the work may read and execute; repeatable", func(s string) error { cfg.ReadOnly = append(cfg.ReadOnly, s); return nil })
	flags.Func("landlock-rw", "path the work may also write; repeatable", func(s string) error { cfg.ReadWrite = append(cfg.ReadWrite, s); return nil })
	flags.SetOutput(io.Discard)
	if err := flags.Parse(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		fmt.Print(about)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return
	} else if err != nil {
		usage(err.Error())
	}
	if cfg.NoNet = *net == "none"; !cfg.NoNet && *net != "host" {
		usage("--net is host or none")
	}
	var err error
	if cfg.Level, err = enclave.ParseLevel(level); err != nil {
		usage(err.Error())
	}
	if *prove != "" {
		os.Exit(enclave.ProveHalt(cfg, *prove))
	}
	if cfg.Command = flags.Args(); len(cfg.Command) == 0 || cfg.Socket == "" || cfg.Trust == "" {
		usage("a command, --socket and --trust are required; `writ run` gives them")
	}
	os.Exit(enclave.Keep(cfg))
}

func usage(what string) {
	fmt.Fprintf(os.Stderr, "writ: run/usage: %s\n  hint: see 'writ run --help'; it starts writ-keeper\n", what)
	os.Exit(enclave.ExitRefused)
}
