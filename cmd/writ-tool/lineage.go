package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func newLineage() *cobra.Command {
	cmd := &cobra.Command{Use: "lineage", Short: "Tell the life of an execution from the log", RunE: needsCommand}
	cmd.AddCommand(newLineageExport())
	return cmd
}

func newLineageExport() *cobra.Command {
	var format, key, trust, out string
	cmd := operatorCommand("export EXEC --format FORMAT", "Export who let an execution run, on what, and how it ended", `Export the lineage of an execution from the domain's log: the decision it rests
on, its admission, renewals and end, and the executions that led to it. Digests of
the workload and of its keeper are "measured" when an entry of the node's IMA list,
proven by a quote of PCR 10, names them, else "asserted": the keeper's word alone.
The image is always asserted, by whoever called writ run --image.

A parent that this domain's log does not have is looked for in the logs of the
domains that it has recognised (writ peer list), where they let entries be read: as
long as they count, and only in a log that extends what this domain has seen of it.
Else it is "unresolved", and standard error says why.

native        Writ's own JSON, parents included
in-toto       a SLSA Verification Summary in a DSSE envelope, signed with --key
rfc-eg-0010   a chain of events bound by SHA3-512 and BLAKE2b-512`, wantArgs("EXEC"), func(cmd *cobra.Command, c *client.Client, _ *operatorFlags, args []string) error {
		if trust == "" {
			return usageError(cmd, "--trust FILE is needed: it names the domain")
		}
		if format == "in-toto" && key == "" {
			return usageError(cmd, "--key FILE is needed to sign an in-toto envelope")
		}
		t, err := readTrust(cmd, trust)
		if err != nil {
			return err
		}
		var log lineage.Log
		if err := auditEntries(cmd, c, 0, 0, func(index uint64, leaf ledger.Leaf) error { return log.Add(index, leaf) }); err != nil {
			return err
		}
		l, err := log.Of(t.Domain, args[0])
		if err != nil {
			return exit(exitFailed, err, "an execution's id is printed by writ run, and is exec in its token")
		}
		if l.Unresolved != "" {
			if err := continueLineage(cmd, c, l); err != nil {
				return err
			}
		}
		raw, err := exportLineage(cmd, l, format, key)
		if err != nil {
			return err
		}
		return writeOutput(cmd, out, append(raw, '\n'), 0o644)
	})
	f := cmd.Flags()
	f.StringVar(&format, "format", "native", "`format`: native, in-toto or rfc-eg-0010")
	f.StringVar(&key, "key", "", "Ed25519 key `file` that signs the envelope")
	f.StringVar(&trust, "trust", "", "trust `file` of the domain")
	f.StringVarP(&out, "output", "o", "-", "write to `file`")
	cmd.Example = `  writ lineage export 7b6c0c6e-run --format native --trust trust.json
  writ lineage export 7b6c0c6e-run --format in-toto --key signer.pem --trust trust.json -o lineage.dsse.json`
	return cmd
}

// continueLineage looks for parents in the logs of the domains that are recognised.
func continueLineage(cmd *cobra.Command, c *client.Client, l *lineage.Lineage) error {
	peers, err := c.PeerDomains(cmd.Context())
	if err != nil {
		return err
	}
	others := map[string]*lineage.Log{}
	for _, p := range peers {
		log, err := peerLineage(cmd, p)
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "writ: %s is left out: %v\n", p.Domain, err)
			continue
		}
		others[p.Domain] = log
	}
	l.Continue(others)
	if l.Unresolved != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "writ: execution %s is in no log that counts\n", l.Unresolved)
	}
	return nil
}

// peerLineage reads the whole log of a recognised domain, as far as its entries may be
// read. It must extend the checkpoint that our own domain has seen.
func peerLineage(cmd *cobra.Command, p protocol.PeerDomain) (*lineage.Log, error) {
	if p.State != protocol.PeerAccepted {
		return nil, errors.New(p.Why)
	}
	t, err := bundle.ParseTrust(p.Trust)
	if err != nil {
		return nil, err
	}
	seen, err := t.OpenCheckpoint([]byte(p.Checkpoint))
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{URL: p.URL, CA: []byte(p.CA), Domain: p.Domain})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := openRemote(cmd.Context(), fetchFrom(c), t)
	if err != nil {
		return nil, err
	}
	if err := r.Extends(cmd.Context(), seen); err != nil {
		return nil, err
	}
	log := new(lineage.Log)
	for i := uint64(0); i < r.Size; {
		leaves, err := r.Entries(cmd.Context(), i)
		if errors.Is(err, ledger.ErrPruned) {
			i += ledger.BundleEntries - i%ledger.BundleEntries
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, raw := range leaves {
			leaf, err := ledger.ParseLeaf(raw)
			if err == nil {
				err = log.Add(i, leaf)
			}
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			i++
		}
	}
	return log, nil
}

func exportLineage(cmd *cobra.Command, l *lineage.Lineage, format, key string) ([]byte, error) {
	switch format {
	case "native":
		return l.Native()
	case "rfc-eg-0010":
		return l.EG0010()
	case "in-toto":
		k, err := signingKey(cmd, key, false)
		if err != nil {
			return nil, err
		}
		raw, err := l.InToto(k)
		if errors.Is(err, lineage.ErrNoSubject) {
			return nil, exit(exitInvalid, err, "use --format native")
		}
		return raw, err
	}
	return nil, usageError(cmd, "--format %q: expected native, in-toto or rfc-eg-0010", format)
}
