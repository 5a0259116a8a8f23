package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// operatorFlags are the flags of every command that governs a domain.
type operatorFlags struct {
	operator, verifier string
	json, yes          bool
}

func (o *operatorFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.operator, "operator", "", "the operator's certificate and key, `file` (the first one is operator.pem beside writd's data)")
	f.StringVar(&o.verifier, "verifier", "", "`URL` of a verifier")
	f.BoolVar(&o.json, "json", false, "print JSON")
}

// dial connects as the operator.
func (o *operatorFlags) dial(cmd *cobra.Command) (*client.Client, error) {
	if o.operator == "" || o.verifier == "" {
		return nil, usageError(cmd, "--operator FILE and --verifier URL are needed (or WRIT_OPERATOR and WRIT_VERIFIER)")
	}
	raw, err := os.ReadFile(o.operator)
	if err != nil {
		hint := "a verifier's first start writes one, operator.pem in its data directory; writd operator issues more"
		if errors.Is(err, fs.ErrPermission) {
			hint = "it holds a private key and is its owner's alone; run this as that user, or have writd operator issue another one"
		}
		return nil, exit(exitUsage, fmt.Errorf("reading the operator's file %s: %w", o.operator, unwrapPath(err)), hint)
	}
	id, err := keys.ParseIdentity(raw)
	if err != nil {
		return nil, exit(exitUsage, fmt.Errorf("%s: %w", o.operator, err), "a verifier's first start writes one, operator.pem; writd operator issues more")
	}
	c, err := client.New(client.Config{URL: o.verifier, Operator: id})
	if err != nil {
		return nil, exit(exitUsage, err, "")
	}
	return c, nil
}

// operatorCommand makes a command that does one thing as an operator.
func operatorCommand(use, short, long string, args cobra.PositionalArgs, run func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error) *cobra.Command {
	o := new(operatorFlags)
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		c, err := o.dial(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		return remoteError(run(cmd, c, o, args))
	}}
	o.add(cmd)
	return cmd
}

func newNode() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "List, approve, suspend and revoke nodes", RunE: needsCommand}
	cmd.AddCommand(newNodeList(), newNodeShow(),
		newNodeAct("approve", "active", "Let a node be granted tokens", "Let a pending or suspended node be granted tokens. Evidence alone never does."),
		newNodeAct("suspend", "suspended", "End a node's tokens until it is approved again", `End a node's tokens until it is approved again. Its work stops at once where its
agent listens, at the deadline otherwise.`),
		newNodeAct("revoke", "revoked", "End a node's tokens for ever", `End a node's tokens for ever: no act and no evidence bring it back. Its work stops
at once where its agent listens, at the deadline otherwise. `+asks),
		newNodeAct("retire", "retired", "Take a node out of service for ever", `Take a node out of service for ever, as when its hardware is given away. What it
still runs stops as after revoke. `+asks))
	return cmd
}

func newNodeList() *cobra.Command {
	cmd := operatorCommand("list", "List the domain's nodes", "", wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		nodes := []protocol.Node{}
		for after := ""; ; {
			page, err := c.Nodes(cmd.Context(), after, 500)
			if err != nil {
				return err
			}
			nodes = append(nodes, page.Nodes...)
			if after = page.Next; after == "" {
				break
			}
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), nodes)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "NODE\tCLASS\tSTATUS\tSTATE\tSEQ\tLAST")
		for _, n := range nodes {
			last := "-"
			if n.Last != nil {
				last = fmt.Sprintf("%s %s", time.Unix(n.Last.At, 0).UTC().Format(time.RFC3339), n.Last.Decision)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", n.ID, n.Class, n.Status, n.State, n.Seq, last)
		}
		return w.Flush()
	})
	cmd.Example = `  writ node list
  writ node list --json | jq -r '.[] | select(.state != "synchronized") | .id'`
	return cmd
}

func newNodeShow() *cobra.Command {
	cmd := operatorCommand("show NODE", "Show a node and its last decision", "", wantArgs("NODE"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		n, err := c.Node(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), n)
		}
		return printNode(cmd.OutOrStdout(), n)
	})
	cmd.ValidArgsFunction = completeNode
	cmd.Example = `  writ node show 5f0d2c9e8b7a61534f0d2c9e8b7a6153`
	return cmd
}

func printNode(w io.Writer, n *protocol.Node) error {
	fmt.Fprintf(w, "node      %s\nclass     %s\nstatus    %s\nstate     %s\nseq       %d\nboots     %d\nenrolled  %s\n", n.ID, n.Class, n.Status, n.State, n.Seq, n.BootCount, time.Unix(n.Enrolled, 0).UTC().Format(time.RFC3339))
	for _, ek := range n.EKs {
		fmt.Fprintf(w, "ek        %s\n", ek)
	}
	if n.Device != "" {
		fmt.Fprintf(w, "device    %q\n", n.Device)
	}
	if n.Last == nil {
		return nil
	}
	fmt.Fprintf(w, "last      entry %d at %s: %s, %s\n", n.Last.Index, time.Unix(n.Last.At, 0).UTC().Format(time.RFC3339), n.Last.Decision, n.Last.Tier)
	var findings []struct{ Code, Expected, Found, Next string }
	if err := json.Unmarshal(n.Last.Findings, &findings); err != nil {
		return nil
	}
	for _, f := range findings {
		fmt.Fprintf(w, "  %s\n    expected %s\n    found    %s\n    next     %s\n", f.Code, f.Expected, f.Found, f.Next)
	}
	return nil
}

func newNodeAct(verb, status, short, long string) *cobra.Command {
	var reason string
	final := status == "revoked" || status == "retired"
	cmd := operatorCommand(verb+" NODE", short, long, wantArgs("NODE"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		if final {
			if err := o.confirm(cmd, func(ctx context.Context) (string, error) { return nodeAtStake(ctx, c, args[0], verb) }); err != nil {
				return err
			}
		}
		n, err := c.SetStatus(cmd.Context(), args[0], protocol.StatusChange{Status: status, Reason: reason})
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), n)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", n.ID, n.Status)
		return err
	})
	cmd.Flags().StringVar(&reason, "reason", "", "`why`; the log holds a commitment to it")
	if final {
		addYes(cmd)
	}
	cmd.ValidArgsFunction = completeNode
	cmd.Example = fmt.Sprintf("  writ node %s 5f0d2c9e8b7a61534f0d2c9e8b7a6153 --reason 'ticket 4711'", verb)
	return cmd
}

func newJoinToken() *cobra.Command {
	cmd := &cobra.Command{Use: "join-token", Short: "Make and revoke the tokens nodes enrol with", RunE: needsCommand}
	var req protocol.NewJoinToken
	var life time.Duration
	create := operatorCommand("create --class CLASS", "Make a join token, good once", `Make a join token for a node of a machine class. It is printed once. With --ek,
the SHA-256 of the node's EK public area (writ provision --show-ek prints it on the
machine), only that TPM can use it and it enrols without an approval.`, wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		if req.Class == "" {
			return usageError(cmd, "--class is needed")
		}
		req.Life = int64(life.Seconds())
		j, err := c.MintJoinToken(cmd.Context(), req)
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), j)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "join token %s, for one node of class %s, until %s\n", j.ID, j.Class, time.Unix(j.Expires, 0).UTC().Format(time.RFC3339))
		_, err = fmt.Fprintln(cmd.OutOrStdout(), j.Token)
		return err
	})
	create.Example = `  writ join-token create --class web > join.txt
  writ join-token create --class web --ek $(ssh node writ provision --show-ek)`
	create.Flags().StringVar(&req.Class, "class", "", "machine `class` of the node: names its reference set")
	create.Flags().StringVar(&req.EK, "ek", "", "`digest` of the only EK that may use it")
	create.Flags().DurationVar(&life, "life", 24*time.Hour, "how long it is good, at most 24h")
	list := operatorCommand("list", "List join tokens, without their secrets", "", wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		tokens, err := c.JoinTokens(cmd.Context())
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), tokens)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tCLASS\tEXPIRES\tUSED BY\tREVOKED")
		for _, t := range tokens {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\n", t.ID, t.Class, time.Unix(t.Expires, 0).UTC().Format(time.RFC3339), t.UsedBy, t.Revoked)
		}
		return w.Flush()
	})
	revoke := operatorCommand("revoke ID", "End a join token", "", wantArgs("ID"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		return c.RevokeJoinToken(cmd.Context(), args[0])
	})
	list.Example = `  writ join-token list`
	revoke.Example = `  writ join-token revoke af1633bc15c76f20`
	cmd.AddCommand(create, list, revoke)
	return cmd
}

func newBundle() *cobra.Command {
	var out string
	var index int64
	cmd := operatorCommand("bundle NODE -o FILE", "Save a decision with everything it rested on", `Save the latest decision on a node, or the one at --index, as a bundle that writ
verify checks with no network. Denials too.`, wantArgs("NODE"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		if out == "" {
			return usageError(cmd, "-o FILE is needed")
		}
		raw, err := c.Bundle(cmd.Context(), args[0], index)
		if err != nil {
			return err
		}
		if _, err := bundle.Parse(raw); err != nil {
			return exit(exitInvalid, err, "")
		}
		return writeOutput(cmd, out, append(trimNewline(raw), '\n'), 0o644)
	})
	cmd.Flags().StringVarP(&out, "output", "o", "", "write the bundle to `file` (- for standard output)")
	cmd.ValidArgsFunction = completeNode
	cmd.Flags().Int64Var(&index, "index", -1, "log `index` of the decision (default the latest)")
	cmd.Example = `  writ bundle 5f0d2c9e8b7a61534f0d2c9e8b7a6153 -o node.writ.json
  writ bundle 5f0d2c9e8b7a61534f0d2c9e8b7a6153 --index 1234 -o denial.writ.json`
	return cmd
}

func newPublish() *cobra.Command {
	cmd := operatorCommand("publish FILE", "Publish a signed reference set", `Publish a signed reference set. It comes into force when as many operators have
published the same bytes as the domain's approvals say.

Exit codes: 0 in force; 8 waiting for further operators; 3 refused.`, wantArgs("FILE"), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, args []string) error {
		raw, err := readInput(cmd, args[0], 2*reference.MaxSize)
		if err != nil {
			return err
		}
		if err := wantJSON(args[0], raw, "a signed reference set", "sign it: writ reference sign"); err != nil {
			return err
		}
		if _, err := reference.Read(trimNewline(raw)); err != nil {
			return exit(exitInvalid, fmt.Errorf("%s: %w", args[0], err), "sign it: writ reference sign")
		}
		p, err := c.Publish(cmd.Context(), trimNewline(raw))
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), p)
		}
		state := "in force"
		if !p.Active {
			state = fmt.Sprintf("waiting: %d of %d operators have published it; another approver publishes the same file (writd operator makes one)", p.Approvals, p.Needed)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s generation %d, digest %s: %s\n", p.Name, p.Generation, p.Digest, state)
		if !p.Active {
			return exit(exitPartial, nil, "")
		}
		return nil
	})
	cmd.Example = `  writ reference publish web.signed.json`
	return cmd
}

func newFreeze(frozen bool) *cobra.Command {
	use, short, long := "freeze", "Stop the whole domain: no token is issued, every token ends", `Stop the whole domain: all work of all nodes ends. One operator can; lifting it
takes as many as the domain's approvals say. `+asks
	if !frozen {
		use, short, long = "unfreeze", "Agree to lift a freeze", `Agree to lift a freeze. It is lifted when enough different operators agree.

Exit codes: 0 lifted; 8 waiting for further operators; 3 refused.`
	}
	var reason string
	cmd := operatorCommand(use, short, long, wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		if frozen {
			if err := o.confirm(cmd, func(ctx context.Context) (string, error) { return domainAtStake(ctx, c) }); err != nil {
				return err
			}
		}
		g, err := c.Freeze(cmd.Context(), protocol.GovernanceChange{Frozen: frozen, Reason: reason})
		if err != nil {
			return err
		}
		switch {
		case o.json:
			if err = writeJSON(cmd.OutOrStdout(), g); err == nil && g.Frozen && !frozen {
				err = exit(exitPartial, nil, "")
			}
		case frozen:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the domain is frozen, epoch %d; %d approvers must agree to lift that: writ unfreeze\n", g.Epoch, g.Needed)
		case g.Frozen:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the domain is still frozen, epoch %d: %d of %d approvers have agreed to lift that\n", g.Epoch, g.Approvals, g.Needed)
			if err == nil {
				err = exit(exitPartial, nil, "")
			}
		default:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the domain is not frozen any more, epoch %d\n", g.Epoch)
		}
		return err
	})
	if frozen {
		addYes(cmd)
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`; the log holds a commitment to it")
	cmd.Example = fmt.Sprintf("  writ %s --reason 'ticket 4711'", use)
	return cmd
}
