package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func newKeys() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Show, rotate and withdraw the domain's token keys", RunE: needsCommand}
	list := operatorCommand("list", "List the token keys", "List every token key the domain has had, and what it is for now.", wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		keys, err := c.TokenKeys(cmd.Context())
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), keys)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "KEY\tSTATE\tSIGNS FROM\tPUBLISHED UNTIL")
		for _, k := range keys.Keys {
			until := "-"
			if k.Until != 0 {
				until = second(k.Until)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.KID, k.State, second(k.From), until)
		}
		return w.Flush()
	})
	list.Example = "  writ keys list"
	rotate := operatorCommand("rotate", "Agree to another token key", `Agree to another token key. When enough different approvers agree, the verifier
makes one and publishes it; it signs once everybody had time to fetch it
(token_key_overlap), and the one before stays published until its last token has
expired. Other verifiers of the domain need its file before then:
keys/token-KEY.pem.

Exit codes: 0 introduced; 8 waiting for further approvers; 3 refused.`, wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		return changeKeys(cmd, c, o, protocol.KeyAct{Act: "rotate"})
	})
	rotate.Example = "  writ keys rotate"
	var reason string
	withdraw := operatorCommand("withdraw KEY", "End a token key and all it signed, at once", `End a token key that others may hold, and every token it signed. If it was the one
that signs, another signs from now on; relying parties refuse its tokens until they
fetch the key set. One operator can. `+asks, wantArgs("KEY"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		if err := o.confirm(cmd, func(ctx context.Context) (string, error) { return keyAtStake(ctx, c, args[0]) }); err != nil {
			return err
		}
		return changeKeys(cmd, c, o, protocol.KeyAct{Act: "withdraw", KID: args[0], Reason: reason})
	})
	addYes(withdraw)
	withdraw.Flags().StringVar(&reason, "reason", "", "`why`; the log holds a commitment to it")
	withdraw.Example = "  writ keys withdraw KEY --reason 'ticket 4711'"
	cmd.AddCommand(list, rotate, withdraw)
	return cmd
}

func changeKeys(cmd *cobra.Command, c *client.Client, o *operatorFlags, act protocol.KeyAct) error {
	change, err := c.ChangeKeys(cmd.Context(), act)
	if err != nil {
		return err
	}
	switch {
	case o.json:
		err = writeJSON(cmd.OutOrStdout(), change)
	case change.KID == "":
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "nothing changed yet: %d of %d approvers have agreed to another key; the others run writ keys rotate, too\n", change.Approvals, change.Needed)
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s signs from %s, epoch %d\n", change.KID, second(change.From), change.Epoch)
	}
	if err == nil && change.KID == "" {
		return exit(exitPartial, nil, "")
	}
	return err
}

func second(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
