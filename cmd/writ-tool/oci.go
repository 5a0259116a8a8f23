package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/attestor"
)

// maxState bounds the state that a runtime hands to a hook, annotations and all.
const maxState = 1 << 20

// containerState is what this hook needs of a container's state (OCI runtime-spec,
// runtime.md, "State"). Fields that it does not know are the runtime's own.
type containerState struct {
	Version string `json:"ociVersion"`
	ID      string `json:"id"`
	Status  string `json:"status"`
	Bundle  string `json:"bundle"`
}

// readState reads the state of a container that has not started.
func readState(r io.Reader) (*containerState, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("reading the container's state: %w", err)
	}
	if len(b) == 0 {
		return nil, errors.New("reading the container's state: nothing on standard input; a container runtime starts this hook, and gives it the state there")
	}
	if len(b) > maxState {
		return nil, fmt.Errorf("reading the container's state: more than %d bytes", maxState)
	}
	var s containerState
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("reading the container's state: %w", err)
	}
	if s.Version == "" || s.ID == "" || !filepath.IsAbs(s.Bundle) {
		return nil, errors.New("reading the container's state: expected ociVersion, id and an absolute bundle")
	}
	if s.Status != "creating" && s.Status != "created" {
		return nil, fmt.Errorf("container %.100q is %.20q: a hook that refuses must run before it starts; configure it as createRuntime", s.ID, s.Status)
	}
	return &s, nil
}

func newOCIHook() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "oci-hook",
		Short: "Refuse a container while this node is not legitimate",
		Long: `A createRuntime hook for runc, crun and other OCI runtimes: read the container's
state from standard input and ask the agent whether this node is legitimate. Any
exit code but 0 makes the runtime give up the container before its process starts.
No answer refuses, as does a state that cannot be read.

A hook looks once. It cannot stop a container that runs when the token lapses: for
that, let the container's process be started by writ run.

Exit codes: 0 legitimate; 2 no state of a container that has yet to start; 3 not
legitimate; 5 the agent does not answer.`,
		Example: `  writ oci-hook <state.json
  "hooks": {"createRuntime": [{"path": "/usr/bin/writ", "args": ["writ", "oci-hook"], "timeout": 30}]}`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := readState(cmd.InOrStdin())
			if err != nil {
				return exit(exitUsage, err, "")
			}
			var s attestor.Status
			if err := askAgent(cmd.Context(), socket, "/v1/status", &s); err != nil {
				return err
			}
			if !s.Legitimate || time.Now().Unix() >= s.Expires {
				return exit(exitDenied, fmt.Errorf("container %.100q: this node is not legitimate: %s", c.ID, s.Problem), "see writ status")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "socket", attestor.SocketPath(), "`path` of the agent's socket")
	return cmd
}
