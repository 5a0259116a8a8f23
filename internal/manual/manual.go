// Package manual holds docs/commands.md against the programs: a test of each command
// renders what it takes, and fails where the page says something else.
package manual

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Table lists every command below root that does something, with its flags.
func Table(root *cobra.Command) string {
	rows := "| command | what it does | flags |\n|---|---|---|\n"
	var add func(cmd *cobra.Command)
	add = func(cmd *cobra.Command) {
		if len(cmd.Commands()) == 0 && cmd.Name() != "help" && !cmd.Hidden {
			use := strings.ReplaceAll(strings.TrimSuffix(cmd.UseLine(), " [flags]"), "|", `\|`)
			rows += fmt.Sprintf("| `%s` | %s | %s |\n", use, cmd.Short, strings.Join(flags(cmd), " "))
		}
		for _, c := range cmd.Commands() {
			add(c)
		}
	}
	add(root)
	return rows
}

func flags(cmd *cobra.Command) (out []string) {
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		value, _ := pflag.UnquoteUsage(f)
		out = append(out, "`"+strings.TrimSpace("--"+f.Name+" "+value)+"`")
	})
	slices.Sort(out)
	return out
}

// Check holds the section of a program in the page at path against want. With
// WRIT_UPDATE set it writes the section instead.
func Check(t testing.TB, path, program, want string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+program+" -->\n", "<!-- end of "+program+" -->\n"
	before, rest, ok := strings.Cut(string(raw), begin)
	have, after, closed := strings.Cut(rest, end)
	switch {
	case !ok || !closed:
		t.Fatalf("%s has no section between %q and %q", path, begin, end)
	case have == want:
	case os.Getenv("WRIT_UPDATE") != "":
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s does not say what %s takes: WRIT_UPDATE=1 go test -run Manual ./cmd/... writes it anew. It lacks\n%s", path, program, missing(have, want))
	}
}

// missing are the lines of want that have has not.
func missing(have, want string) (out string) {
	for line := range strings.Lines(want) {
		if !strings.Contains("\n"+have, "\n"+line) {
			out += line
		}
	}
	return out
}

// Flags lists the flags in the help that package flag prints.
func Flags(help string) string {
	_, list, _ := strings.Cut(help, "Flags:\n")
	var out []string
	for line := range strings.Lines(list) {
		if name, ok := strings.CutPrefix(line, "  -"); ok {
			name, _, _ = strings.Cut(strings.TrimSpace(name), "\t")
			out = append(out, "`--"+name+"`")
		}
	}
	return strings.Join(out, ", ") + "\n"
}
