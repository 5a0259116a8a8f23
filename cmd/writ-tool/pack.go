package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/reference"
)

func newPack() *cobra.Command {
	var out string
	var with []string
	cmd := &cobra.Command{
		Use:   "pack FILE --with FILE... -o OUT",
		Short: "Put a signed reference set into one file with what it names",
		Long: `Put a signed reference set into one file with the allow lists it names, to be
published, or with the sets it builds on as well, for writ verify --reference and
writ reference test.

An allow list has the form of sha256sum, sorted: make one with
  sha256sum FILE... | LC_ALL=C sort -u`,
		Example: `  writ reference pack web.signed.json --with debian-12.list -o web.pack.json`,
		Args:    wantArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" || len(with) == 0 {
				return usageError(cmd, "-o and at least one --with are needed")
			}
			set, err := readSigned(cmd, args[0])
			if err != nil {
				return err
			}
			layers, lists, err := readParts(cmd, with)
			if err != nil {
				return err
			}
			raw := reference.Pack(set, layers, lists)
			if err := writeOutput(cmd, out, append(raw, '\n'), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "packed %s generation %d with %d sets and %d allow lists, %d bytes\n", set.Name, set.Generation, len(layers), len(lists), len(raw))
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `file` (- for standard output)")
	cmd.Flags().StringArrayVar(&with, "with", nil, "allow list or signed set in `file` (repeatable)")
	return cmd
}

// readParts reads what sets name: other sets, signed or not, and allow lists.
func readParts(cmd *cobra.Command, paths []string) (layers []*reference.Signed, lists []*reference.List, err error) {
	for _, path := range paths {
		raw, err := readInput(cmd, path, reference.MaxList)
		if err != nil {
			return nil, nil, err
		}
		if bytes.HasPrefix(raw, []byte("{")) {
			l, err := readCandidate(cmd, path, nil)
			if err != nil {
				return nil, nil, err
			}
			layers, lists = append(layers, l), append(lists, l.Lists()...)
			continue
		}
		l, err := reference.ParseList(raw)
		if err != nil {
			return nil, nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "sort it: LC_ALL=C sort -u")
		}
		lists = append(lists, l)
	}
	return layers, lists, nil
}

// readCandidate reads a set to judge by, signed or not, packed or with its parts
// beside it.
func readCandidate(cmd *cobra.Command, path string, with []string) (*reference.Signed, error) {
	raw, err := readInput(cmd, path, 2*reference.MaxList)
	if err != nil {
		return nil, err
	}
	set, layers, lists, err := reference.Open(trimNewline(raw))
	if err != nil {
		bare, bareErr := readSet(cmd, path)
		if bareErr != nil {
			return nil, bareErr
		}
		if set, err = unsigned(bare); err != nil {
			return nil, err
		}
	}
	moreLayers, moreLists, err := readParts(cmd, with)
	if err != nil {
		return nil, err
	}
	layers, lists = append(layers, moreLayers...), append(lists, moreLists...)
	if len(layers)+len(lists) == 0 {
		return set, nil
	}
	whole, err := set.Complete(layers, lists)
	if err != nil {
		return nil, exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "name each with --with")
	}
	return whole, nil
}

// nameLists adds allow lists to a set before it is signed.
func nameLists(cmd *cobra.Command, s *reference.Set, paths []string) error {
	if len(paths) > 0 && s.IMA == nil {
		s.IMA = &reference.IMA{Files: []reference.File{}}
	}
	for _, path := range paths {
		raw, err := readInput(cmd, path, reference.MaxList)
		if err != nil {
			return err
		}
		l, err := reference.ParseList(raw)
		if err != nil {
			return exit(exitInvalid, fmt.Errorf("%s: %w", path, err), "sort it: LC_ALL=C sort -u")
		}
		sum := l.Digest()
		ref := reference.ListRef{Digest: hex.EncodeToString(sum[:]), Name: filepath.Base(path)}
		if !slices.ContainsFunc(s.IMA.Lists, func(o reference.ListRef) bool { return o.Digest == ref.Digest }) {
			s.IMA.Lists = append(s.IMA.Lists, ref)
		}
	}
	return nil
}
