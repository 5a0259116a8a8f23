package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// asks is what the help of acts says that cannot be taken back.
const asks = `On a terminal it says what dies by it and asks
first; --yes goes on without. A script is never asked: what stops work must not
wait for an answer.`

// addYes adds the flag that answers confirm.
func addYes(cmd *cobra.Command) {
	cmd.Flags().Bool("yes", false, "do not ask, though this is a terminal")
}

// confirm asks a person at a terminal whether to go on with what cannot be taken back;
// stake says what dies by it. Scripts are not asked: these acts only close, and one
// that is refused for want of a flag would leave open what was to be closed.
func (o *operatorFlags) confirm(cmd *cobra.Command, stake func(context.Context) (string, error)) error {
	if yes, err := cmd.Flags().GetBool("yes"); err != nil || yes || !terminal(cmd.InOrStdin()) || !terminal(cmd.ErrOrStderr()) {
		return err
	}
	text, err := stake(cmd.Context())
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s\nType yes to go on: ", text)
	answered := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // nothing is no yes
		answered <- line
	}()
	select {
	case line := <-answered:
		if strings.TrimSpace(line) == "yes" {
			return nil
		}
	case <-cmd.Context().Done():
		fmt.Fprintln(cmd.ErrOrStderr())
	}
	return exit(exitFailed, fmt.Errorf("%s: not confirmed; nothing was done", cmd.CommandPath()), "")
}

// terminal reports whether a person is at the other end.
func terminal(v any) bool {
	f, ok := v.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// nodeAtStake says what ends with a node.
func nodeAtStake(ctx context.Context, c *client.Client, id, verb string) (string, error) {
	n, err := c.Node(ctx, id)
	if err != nil {
		return "", err
	}
	alive, err := c.Alive(ctx, id)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("To %s node %s (class %s, %s, %s) is for ever. %s", verb, n.ID, n.Class, n.Status, n.State, dying(alive)), nil
}

// domainAtStake says what a freeze ends.
func domainAtStake(ctx context.Context, c *client.Client) (string, error) {
	nodes, legitimate := 0, 0
	for after := ""; ; {
		page, err := c.Nodes(ctx, after, 1000)
		if err != nil {
			return "", err
		}
		for _, n := range page.Nodes {
			if nodes++; n.State == "synchronized" || n.State == "elevated-assurance" {
				legitimate++
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	alive, err := c.Alive(ctx, "")
	if err != nil {
		return "", err
	}
	g, err := c.Governance(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("A freeze ends every token of the domain: %d of %d nodes are legitimate now. %s\nIt takes %d approvers to lift it.", legitimate, nodes, dying(alive), g.Needed), nil
}

// keyAtStake says what ends with a token key.
func keyAtStake(ctx context.Context, c *client.Client, kid string) (string, error) {
	alive, err := c.Alive(ctx, "")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("To withdraw key %s is for ever, and ends all that it signed. %s", kid, dying(alive)), nil
}

// dying names the executions that are alive.
func dying(alive *protocol.Alive) string {
	const named = 5
	n := len(alive.Executions)
	if n == 0 {
		return "No execution is alive."
	}
	count := fmt.Sprint(n)
	if alive.More {
		count = "More than " + count
	}
	text := count + " executions die:"
	if n == 1 && !alive.More {
		text = "1 execution dies:"
	}
	for i, x := range alive.Executions {
		if i == named {
			return fmt.Sprintf("%s\n  and %d more", text, n-named)
		}
		text += "\n  " + x.Exec
		if x.Workload != "" {
			text += fmt.Sprintf(" (program %.16s..., %s)", x.Workload, x.Level)
		}
	}
	return text
}
