package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/tpm/ekroots"
)

func newEKRoots() *cobra.Command {
	return &cobra.Command{
		Use: "ek-roots", Short: "List the bundle of TPM makers' roots that ek_roots = [\"vendors\"] selects", Example: "  writd ek-roots", Args: wantArgs(),
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			roots, err := ekroots.Roots()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "bundle %s, from %s: %d roots, %d intermediates\n\n", ekroots.Version, ekroots.Source, len(roots), len(ekroots.Intermediates()))
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "VENDOR\tSHA-256\tNAME\tSOURCE")
			for _, r := range roots {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Vendor, r.SHA256, r.Name, r.Source)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "\nno root of: %s\nTheir nodes stay pending; add their root's PEM file to ek_roots.\n", strings.Join(ekroots.Missing(), " "))
			return err
		}),
	}
}
