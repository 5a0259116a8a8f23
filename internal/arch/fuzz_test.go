package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
)

// decoders are the doors of decoding that are not called Parse.
var decoders = map[string]string{
	"verifier/corim":     "Import",
	"verifier/ledger":    "OpenCheckpoint OpenCosigned",
	"verifier/packages":  "Read",
	"verifier/reference": "Read ImportEvents",
	"verifier/token":     "Verify VerifyEvent CheckProof",
}

// TestEveryParserIsFuzzed: what reads bytes of others is called by a fuzz target of
// its package.
func TestEveryParserIsFuzzed(t *testing.T) {
	root := os.DirFS("../..")
	parsers, fuzzed := map[string]string{}, map[string]bool{}
	for pkg, names := range decoders {
		for _, name := range strings.Fields(names) {
			parsers[pkg+"."+name] = pkg
		}
	}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if b := d.Name(); d.IsDir() && (b == "testdata" || b == "docs" || (strings.HasPrefix(b, ".") && b != ".") || name == "internal/interop") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, 0)
		if err != nil {
			return err
		}
		pkg := path.Dir(name)
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			switch {
			case !ok:
			case strings.HasSuffix(name, "_test.go") && strings.HasPrefix(fn.Name.Name, "Fuzz"):
				for _, called := range calls(fn) {
					fuzzed[pkg+"."+called] = true
				}
			case fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Parse") && !strings.HasSuffix(name, "_test.go"):
				parsers[pkg+"."+fn.Name.Name] = name
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(parsers) < 30 {
		t.Errorf("%d parsers found", len(parsers))
	}
	for name, where := range parsers {
		if !fuzzed[name] {
			t.Errorf("%s: no fuzz target calls %s; write one with seeds from testdata", where, name)
		}
	}
}

func calls(fn *ast.FuncDecl) (names []string) {
	ast.Inspect(fn, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			switch f := c.Fun.(type) {
			case *ast.Ident:
				names = append(names, f.Name)
			case *ast.SelectorExpr:
				names = append(names, f.Sel.Name)
			}
		}
		return true
	})
	return names
}
