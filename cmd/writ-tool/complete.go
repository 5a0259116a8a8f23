package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/launch"
)

// choices are the values of flags that take few.
var choices = map[string][]string{
	"level":      {"E0", "E1", "E2", "E3", "E4"},
	"bank":       {"sha256", "sha384"},
	"pop":        {"lease", "tpm"},
	"log-format": {"text", "json"},
	"net":        {"host", "none"},
	"on-lapse":   {"kill", "freeze:"},
	"status":     {"required", "optional", "off"},
}

// complete tells shells what can follow: choices, directories, and no files where a
// command takes no argument.
func complete(cmd *cobra.Command) {
	if cmd.Args != nil && cmd.ValidArgsFunction == nil && cmd.Args(cmd, nil) == nil && cmd.Args(cmd, []string{"x"}) != nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for name, values := range choices { // what has no such flag fails
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, name := range []string{"dir", "recorded", "state"} {
		_ = cmd.MarkFlagDirname(name)
	}
	for _, c := range cmd.Commands() {
		complete(c)
	}
}

// completeNode asks the verifier for the ids of nodes.
func completeNode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	f := cmd.Flags()
	config, _ := f.GetString("config") // what is not set is empty
	if len(args) > 0 || launch.Settle(f, config) != nil {
		return nil, none
	}
	var o operatorFlags
	o.operator, _ = f.GetString("operator")
	o.verifier, _ = f.GetString("verifier")
	c, err := o.dial(cmd)
	if err != nil {
		return nil, none
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // somebody waits with a finger on Tab
	defer cancel()
	page, err := c.Nodes(ctx, "", 1000)
	if err != nil {
		return nil, none
	}
	var out []string
	for _, n := range page.Nodes {
		out = append(out, n.ID+"\t"+n.Class+", "+n.Status+", "+n.State)
	}
	return out, none
}
