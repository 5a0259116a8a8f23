package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// keyIDs are the ids of log keys of this domain.
func (c *config) keyIDs(vkeys []string) ([]string, error) {
	var out []string
	for _, vkey := range vkeys {
		id, err := ledger.KeyID(c.Domain+"/log", vkey)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// logKeys are the keys whose checkpoints are the domain's, this verifier's first.
func (c *config) logKeys(k *keys.Keys) ([]string, error) {
	own, err := ledger.VerifierKey(c.Domain+"/log", k.Log.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return append([]string{own}, c.Peers...), nil
}

func newInvite() *cobra.Command {
	var out string
	cmd := dataCommand("invite -o FILE", "Write what a further verifier of the domain needs", `Write an invitation for a further verifier on the same PostgreSQL: the keys that
all verifiers of the domain share (tokens, both authorities, challenges), the log
keys to know, printed as well, and the latest checkpoint. The file is as secret
as the keys folder; delete it after writd join.`, "  writd invite --config writd.toml -o second.invitation", func(cmd *cobra.Command, c *config) error {
		if out == "" {
			return misuse("-o FILE is needed")
		}
		k, err := keysOf(c, false)
		if err != nil {
			return err
		}
		vkeys, err := c.logKeys(k)
		if err != nil {
			return err
		}
		s, err := c.readDatabase(cmd.Context())
		if err != nil {
			return err
		}
		defer s.Close()
		head, err := s.Head(cmd.Context())
		if err != nil {
			return err
		}
		if _, err := ledger.OpenCheckpoint(head.Note, vkeys...); err != nil {
			return err
		}
		raw, err := keys.Invite(c.Data, c.Domain, vkeys, head.Note)
		if err != nil {
			return err
		}
		for _, vkey := range vkeys {
			fmt.Fprintln(cmd.OutOrStdout(), vkey)
		}
		return durable.WriteFile(out, raw, 0o600)
	})
	cmd.Flags().StringVarP(&out, "output", "o", "", "`file` to write, mode 0600")
	return cmd
}

func newJoin() *cobra.Command {
	var in string
	cmd := dataCommand("join --invitation FILE", "Make the data directory of a further verifier", `Make the keys of a further verifier from an invitation, with a log key of its own,
and a guard file that begins at the invitation's checkpoint. Printed is its public
log key. The other verifiers come to know it by their configuration: list it under
peers of every one of them and restart them, and list their keys under peers here.
Until one of them has recorded it, this verifier does not start.`, "  writd join --config writd.toml --invitation second.invitation", func(cmd *cobra.Command, c *config) error {
		if in == "" {
			return misuse("--invitation FILE is needed")
		}
		raw, err := os.ReadFile(in)
		if err != nil {
			return unusable(err)
		}
		inv, err := keys.ParseInvitation(raw, c.Domain)
		if err != nil {
			return unusable(err)
		}
		guard := filepath.Join(c.Data, guardFile)
		if _, err := os.Stat(guard); err == nil {
			return unusable(fmt.Errorf("%s is there already; join with an empty data directory", guard))
		}
		k, err := inv.Join(c.Data)
		if err != nil {
			return unusable(err)
		}
		if err := ledger.SeedGuard(guard, []byte(inv.Checkpoint), inv.Log...); err != nil {
			return unusable(err)
		}
		vkeys, err := c.logKeys(k)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), vkeys[0])
		return err
	})
	cmd.Flags().StringVar(&in, "invitation", "", "`file` that writd invite has written")
	return cmd
}
