package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/client"
)

func newSignIn() *cobra.Command {
	cmd := operatorCommand("sign-in", "Print a link that signs a browser in to the console", `Print a link to the verifier's page /console, with a code that signs one browser in
as this operator: once, within a minute. The session ends with the operator's
certificate or after 8 hours; it may act for 15 minutes, then sign in again. Open
the link yourself: whoever has it first acts in your name. It is known to this
verifier alone and ends when that is restarted. The page must be open
(public.pages = ["console"]).`, wantArgs(), func(cmd *cobra.Command, c *client.Client, o *operatorFlags, _ []string) error {
		s, err := c.SignIn(cmd.Context())
		if err != nil {
			return err
		}
		link := c.URL() + "/console#sign-in=" + s.Code
		if o.json {
			return writeJSON(cmd.OutOrStdout(), struct {
				Link    string `json:"link"`
				Expires int64  `json:"expires"`
			}{link, s.Expires})
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "good once, until %s\n", time.Unix(s.Expires, 0).UTC().Format(time.RFC3339))
		_, err = fmt.Fprintln(cmd.OutOrStdout(), link)
		return err
	})
	cmd.Example = `  writ sign-in
  xdg-open "$(writ sign-in)"`
	return cmd
}
