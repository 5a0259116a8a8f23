package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/packages"
	"github.com/writ-attestation/writ/verifier/reference"
)

func newImport() *cobra.Command {
	var name, events, out string
	var pkgs []string
	var merged bool
	cmd := &cobra.Command{
		Use:   "import (--eventlog-yaml FILE --name CLASS | --package FILE...) -o OUT",
		Short: "Make reference values from other tools' files",
		Long: `Make reference values from what other tools write.

--eventlog-yaml reads the YAML of tpm2_eventlog into a set for the class --name.
It proves nothing, names no TPM vendor and judges no files: complete and read the
set before it is signed.

--package reads the files of Debian and RPM packages (and tar archives) into an
allow list with their SHA-256. Check the packages' signatures first. A .deb may be
compressed with xz, zstd, gzip or bzip2.
--merged-usr lists files of /bin, /sbin and /lib* below /usr too.`,
		Example: `  writ reference import --package coreutils.deb --package bash.deb --merged-usr -o debian.list
  writ reference import --eventlog-yaml events.yaml --name web -o web.json`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case out == "" || (events == "") == (len(pkgs) == 0):
				return usageError(cmd, "-o and either --eventlog-yaml or --package are needed")
			case events != "" && name == "":
				return usageError(cmd, "--name CLASS is needed")
			case events != "":
				return importEvents(cmd, events, name, out)
			}
			return importPackages(cmd, pkgs, merged, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&events, "eventlog-yaml", "", "`file` with tpm2_eventlog's output (- for standard input)")
	f.StringVar(&name, "name", "", "machine `class` the set is for")
	f.StringArrayVar(&pkgs, "package", nil, "Debian or RPM package, or tar archive, in `file` (repeatable)")
	f.BoolVar(&merged, "merged-usr", false, "list files of /bin, /sbin and /lib* below /usr too")
	f.StringVarP(&out, "output", "o", "", "write to `file` (- for standard output)")
	return cmd
}

func importEvents(cmd *cobra.Command, path, name, out string) error {
	raw, err := readInput(cmd, path, reference.MaxSize)
	if err != nil {
		return err
	}
	set, notes, err := reference.ImportEvents(name, raw)
	if err != nil {
		return exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "")
	}
	for _, n := range notes {
		mark := "note    "
		if n.Question {
			mark = "question"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s PCR %d: %s\n", mark, n.PCR, n.Text)
	}
	return writeOutput(cmd, out, append(set.Marshal(), '\n'), 0o644)
}

func importPackages(cmd *cobra.Command, paths []string, merged bool, out string) error {
	var lines []string
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return inputError(path, err)
		}
		files, err := packages.Read(f)
		f.Close()
		if err != nil {
			return exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "")
		}
		lines = append(lines, packages.Lines(files, merged)...)
	}
	l, err := reference.NewList(lines)
	if err != nil {
		return exit(exitInvalid, err, "")
	}
	if err := writeOutput(cmd, out, l.Marshal(), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d files of %d packages, digest %x: name it in ima.lists of a set\n", l.Len(), len(paths), l.Digest())
	return nil
}
