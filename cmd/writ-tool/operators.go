package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func newOperator() *cobra.Command {
	cmd := &cobra.Command{Use: "operator", Short: "Revoke the certificates of operators", RunE: needsCommand}
	cmd.AddCommand(newOperatorRevoke(), newOperatorList())
	return cmd
}

func newOperatorRevoke() *cobra.Command {
	var reason string
	cmd := operatorCommand("revoke NAME", "Agree to revoke an operator's certificates", `Agree to revoke all certificates that the operator of a name was given so far. They
are refused from the moment on at which as many approvers have agreed as the domain's
approvals say: commands, sessions of the console, feeds of gates. What the operator
agreed to and is not in force yet counts no more. Your own certificates you revoke
alone, whatever your roles.

Another certificate for the same name is made beside the verifier: writd operator.
The verifier does not know which names were given out: see that yours is spelt
right. `+asks+`

Exit codes: 0 revoked; 8 waiting for further approvers; 3 refused.`, wantArgs("NAME"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		if err := o.confirm(cmd, func(context.Context) (string, error) {
			return fmt.Sprintf("To revoke what certificates operator %s has is for ever.", args[0]), nil
		}); err != nil {
			return err
		}
		out, err := c.RevokeOperator(cmd.Context(), protocol.OperatorRevocation{Operator: args[0], Reason: reason})
		if err != nil {
			return err
		}
		switch {
		case o.json:
			err = writeJSON(cmd.OutOrStdout(), out)
		case out.Revoked:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is revoked: no certificate of that name that was made before now counts\n", out.Operator)
		default:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is not revoked yet: %d of %d approvers have agreed; the others run writ operator revoke %[1]s, too\n", out.Operator, out.Approvals, out.Needed)
		}
		if err == nil && !out.Revoked {
			return exit(exitPartial, nil, "")
		}
		return err
	})
	addYes(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`why`; the log holds a commitment to it")
	cmd.Example = "  writ operator revoke bob --reason 'laptop stolen'"
	return cmd
}

func newOperatorList() *cobra.Command {
	cmd := operatorCommand("list", "List the operators whose certificates are revoked", "", wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		revoked, err := c.RevokedOperators(cmd.Context())
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), revoked)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "OPERATOR\tREVOKED UP TO\tENTRY")
		for _, r := range revoked {
			fmt.Fprintf(w, "%s\t%s\t%d\n", r.Operator, second(r.At), r.Entry)
		}
		return w.Flush()
	})
	cmd.Example = "  writ operator list --json"
	return cmd
}
