package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestKindsHaveOneWriter: every kind of log entry is written by exactly one
// function of the product. Reading one (a comparison, a case, a list to look
// through) is for everybody.
func TestKindsHaveOneWriter(t *testing.T) {
	root := os.DirFS("../..")
	kinds := kindsOf(t, root)
	if len(kinds) < 15 {
		t.Fatalf("%d kinds found in verifier/bundle/record.go", len(kinds))
	}
	writers := map[string][]string{}
	files, err := fs.Glob(root, "verifier/*.go")
	if err != nil {
		t.Fatal(err)
	}
	api, err := fs.Glob(root, "verifier/api/*.go")
	if err != nil {
		t.Fatal(err)
	}
	commands, err := fs.Glob(root, "cmd/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(files, api, commands) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			for _, kind := range written(fn, kinds) {
				if at := name + " " + fn.Name.Name; !slices.Contains(writers[kind], at) {
					writers[kind] = append(writers[kind], at)
				}
			}
		}
	}
	for _, kind := range kinds {
		if n := len(writers[kind]); n != 1 {
			t.Errorf("kind %s is written by %d functions, expected 1: %v", kind, n, writers[kind])
		}
	}
}

// kindsOf are the names of the constants of kinds of entries.
func kindsOf(t *testing.T, root fs.FS) (out []string) {
	t.Helper()
	src, err := fs.ReadFile(root, "verifier/bundle/record.go")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "record.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
			for _, s := range g.Specs {
				out = append(out, s.(*ast.ValueSpec).Names[0].Name)
			}
		}
	}
	return out
}

// written are the kinds that a function uses otherwise than to compare with.
func written(fn *ast.FuncDecl, kinds []string) (out []string) {
	var walk func(n ast.Node) bool
	walk = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				return false
			}
		case *ast.CaseClause:
			for _, s := range n.Body {
				ast.Inspect(s, walk)
			}
			return false
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "bundle" && slices.Contains(kinds, n.Sel.Name) {
				out = append(out, n.Sel.Name)
			}
		}
		return true
	}
	ast.Inspect(fn.Body, walk)
	return out
}
