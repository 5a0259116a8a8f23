package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func newPeer() *cobra.Command {
	cmd := &cobra.Command{Use: "peer", Short: "Recognise other domains, and end that", RunE: needsCommand}
	cmd.AddCommand(newPeerAdd(), newPeerList(), newPeerRemove())
	return cmd
}

func newPeerAdd() *cobra.Command {
	var trust, address, ca string
	var maxAge time.Duration
	cmd := operatorCommand("add --trust FILE --url URL --ca FILE", "Agree to recognise another domain", `Agree to recognise another domain by its trust file. It counts when as many
operators have agreed to the same as the domain's approvals say. From then on every
verifier follows that domain's checkpoints, and its tokens count here for the
audiences of this domain's configuration, and its executions as parents, as long as
each checkpoint extends the one before and the last is not older than --max-age.
A log that contradicts itself ends that for good.

Exit codes: 0 recognised; 8 waiting for further operators; 3 refused.`, wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		if trust == "" || address == "" || ca == "" {
			return usageError(cmd, "--trust FILE, --url URL and --ca FILE are needed")
		}
		raw, err := readInput(cmd, trust, 1<<20)
		if err != nil {
			return err
		}
		authority, err := readInput(cmd, ca, 1<<20)
		if err != nil {
			return err
		}
		if !json.Valid(raw) {
			return exit(exitInvalid, fmt.Errorf("%s is no JSON", trust), "the other domain serves it at /v1/domain")
		}
		p, err := c.Recognize(cmd.Context(), protocol.NewPeer{Trust: raw, URL: address, CA: string(authority), MaxAge: int64(maxAge.Seconds())})
		if err != nil {
			return err
		}
		switch {
		case o.json:
			err = writeJSON(cmd.OutOrStdout(), p)
		case p.Active:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: recognised\n", p.Domain)
		default:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: waiting: %d of %d operators have agreed to %s\n", p.Domain, p.Approvals, p.Needed, p.Digest)
		}
		if err == nil && !p.Active {
			return exit(exitPartial, nil, "")
		}
		return err
	})
	f := cmd.Flags()
	f.StringVar(&trust, "trust", "", "the other domain's trust `file`")
	f.StringVar(&address, "url", "", "`URL` of its verifier")
	f.StringVar(&ca, "ca", "", "PEM `file` with the authority of its verifiers")
	f.DurationVar(&maxAge, "max-age", 5*time.Minute, "how long it may be silent")
	cmd.Example = "  writ peer add --trust b.trust.json --url https://writ.b.example:8443 --ca b-ca.pem"
	return cmd
}

func newPeerList() *cobra.Command {
	cmd := operatorCommand("list", "List the domains that are recognised, and whether they count now", "", wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		peers, err := c.PeerDomains(cmd.Context())
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), peers)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "DOMAIN\tSTATE\tSEEN\tURL\tWHY")
		for _, p := range peers {
			seen := "never"
			if p.Seen > 0 {
				seen = time.Unix(p.Seen, 0).UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Domain, p.State, seen, p.URL, p.Why)
		}
		return w.Flush()
	})
	cmd.Example = "  writ peer list --json | jq '.[] | select(.state != \"accepted\")'"
	return cmd
}

func newPeerRemove() *cobra.Command {
	cmd := operatorCommand("remove DOMAIN", "End the recognition of another domain at once", "", wantArgs("DOMAIN"), func(cmd *cobra.Command, c *client.Client, _ *operatorFlags, args []string) error {
		return c.Forget(cmd.Context(), args[0])
	})
	cmd.Example = "  writ peer remove b.example"
	return cmd
}

func newVerifier() *cobra.Command {
	cmd := &cobra.Command{Use: "verifier", Short: "Agree to further verifiers of the domain", RunE: needsCommand}
	admit := operatorCommand("admit KEY", "Agree to a further verifier of the domain", `Agree to a further verifier, by the log key that writd join has printed. Where the
domain's approvals are above one, as many operators must have agreed before a
verifier that lists the key under peers starts and records it.

Exit codes: 0 enough have agreed; 8 waiting for further operators; 3 refused.`, wantArgs("KEY"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		a, err := c.Admit(cmd.Context(), protocol.NewVerifier{LogKey: args[0]})
		if err != nil {
			return err
		}
		if o.json {
			err = writeJSON(cmd.OutOrStdout(), a)
		} else {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "log key %s: %d of %d operators have agreed\n", a.LogKey, a.Approvals, a.Needed)
		}
		if err == nil && a.Approvals < a.Needed {
			return exit(exitPartial, nil, "")
		}
		return err
	})
	admit.Example = "  writ verifier admit 'prod.example.org/log+8c1c6a5d+AfV...'"
	cmd.AddCommand(admit)
	return cmd
}
