// Package arch holds the test that keeps the layout in docs/design.md true: who
// may import whom, what pure packages may not touch, and which package owns
// each outside library.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/writ-attestation/writ/"

// layers says who may import whom. A package absent from the map, or an import
// absent from its line, is an error: the picture is changed on purpose or not
// at all. Commands may import anything but what unlinked forbids.
var layers = map[string]string{
	"evidence":                 "internal/jsonform tpm",
	"tpm":                      "",
	"tpm/eventlog":             "tpm",
	"tpm/ima":                  "tpm",
	"tpm/oslog":                "tpm",
	"tpm/device":               "tpm",
	"tpm/ekroots":              "tpm",
	"tpm/swtpm":                "tpm tpm/device tpm/eventlog tpm/ima",
	"verifier/reference":       "tpm tpm/eventlog tpm/ima verifier/rules",
	"verifier/appraisal":       "internal/jsonform tpm tpm/eventlog tpm/ima tpm/oslog evidence verifier/reference verifier/rules",
	"verifier/rules":           "",
	"verifier/token":           "internal/jsonform",
	"verifier/rotation":        "verifier/token",
	"verifier/ledger":          "",
	"verifier/store":           "verifier/ledger",
	"verifier/store/storetest": "verifier/ledger",
	"verifier/keys":            "internal/durable verifier/token",
	"verifier/bundle":          "evidence tpm verifier/appraisal verifier/ledger verifier/reference verifier/rotation verifier/token",
	"verifier":                 "internal/jsonform evidence tpm tpm/ekroots tpm/eventlog tpm/ima verifier/appraisal verifier/protocol verifier/bundle verifier/keys verifier/ledger verifier/reference verifier/rotation verifier/token",
	"verifier/fleet":           "evidence tpm/ima verifier verifier/appraisal verifier/bundle verifier/ledger verifier/protocol verifier/reference",
	"verifier/api":             "internal/replay evidence verifier verifier/appraisal verifier/console verifier/fleet verifier/protocol verifier/bundle verifier/keys verifier/ledger verifier/lineage verifier/ssf verifier/token",
	"verifier/ssf":             "verifier verifier/bundle verifier/protocol verifier/token",
	"verifier/console":         "",
	"verifier/console/wasm":    "verifier/appraisal verifier/bundle",
	"verifier/client":          "evidence verifier/protocol verifier/bundle verifier/keys verifier/ledger verifier/rotation verifier/token",
	"enclave/gate":             "enclave internal/replay verifier/rotation verifier/token",
	"internal/durable":         "",
	"internal/jsonform":        "",
	"internal/manual":          "",
	"internal/supervised":      "",
	"enclave/calls":            "",
	"enclave/supervisor":       "",
	"internal/launch":          "enclave/supervisor",
	"internal/replay":          "verifier/token",
	"internal/hostile":         "verifier/token",
	"verifier/corim":           "verifier/reference",
	"verifier/aia":             "",
	"verifier/packages":        "",
	"verifier/protocol":        "internal/jsonform verifier/rotation",
	"verifier/witness":         "verifier/bundle verifier/ledger",
	"verifier/lineage":         "verifier/appraisal verifier/bundle verifier/ledger",
	"attestor":                 "internal/durable verifier/protocol evidence tpm tpm/device tpm/eventlog tpm/ima verifier/bundle verifier/ledger verifier/rotation verifier/token",
	"enclave/nri":              "enclave",
	"enclave/bpf":              "",
	"attestor/workload":        "verifier/protocol",
	"enclave":                  "enclave/calls enclave/supervisor verifier/rotation verifier/token",
	"internal/arch":            "",
}

// pure packages compute: the same bytes in, the same bytes out.
var pure = strings.Fields("tpm tpm/ekroots tpm/eventlog tpm/ima tpm/oslog evidence verifier/appraisal verifier/reference verifier/token verifier/bundle verifier/lineage verifier/protocol verifier/rotation verifier/rules internal/jsonform")

// impure imports read the outside world, wait for it, or depend on chance.
var impure = strings.Fields(`context crypto/rand crypto/tls database/sql io/ioutil log log/slog
	math/rand math/rand/v2 net net/http os os/exec os/signal plugin runtime sync sync/atomic
	syscall testing unsafe`)

// clock reads the time; pure code is told the time.
var clock = strings.Fields("Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker LoadLocation Local")

// owners names the only packages that import an outside library; a trailing
// slash covers a folder.
var owners = map[string]string{
	"github.com/google/go-tpm":            "tpm tpm/device tpm/swtpm",
	"github.com/google/go-attestation":    "verifier",
	"github.com/google/go-tpm-tools":      "verifier",
	"github.com/google/go-eventlog":       "verifier",
	"cel.dev/cel-go":                      "verifier/rules",
	"github.com/veraison/cmw":             "evidence",
	"github.com/veraison/corim":           "verifier/corim",
	"github.com/veraison/swid":            "verifier/corim",
	"github.com/go-jose/go-jose/v4":       "verifier/token",
	"modernc.org/sqlite":                  "verifier/store",
	"github.com/jackc/pgx/v5":             "verifier/store",
	"github.com/pressly/goose/v3":         "verifier/store",
	"github.com/klauspost/compress":       "verifier/packages verifier/store",
	"github.com/therootcompany/xz":        "verifier/packages",
	"golang.org/x/mod":                    "verifier/ledger",
	"golang.org/x/crypto":                 "verifier/lineage",
	"github.com/labstack/echo/v4":         "verifier/api",
	"golang.org/x/time":                   "verifier/api",
	"github.com/prometheus/client_golang": "verifier/api",
	"github.com/prometheus/client_model":  "verifier/api",
	"github.com/spf13/cobra":              "cmd/ internal/manual",
	"github.com/spf13/pflag":              "internal/launch internal/manual cmd/",
	"github.com/pelletier/go-toml/v2":     "internal/launch cmd/",
	"github.com/cenkalti/backoff/v5":      "attestor enclave verifier/ssf cmd/",
	"github.com/cilium/ebpf":              "enclave/bpf",
	"golang.org/x/sys":                    "enclave enclave/supervisor enclave/calls enclave/bpf tpm/device tpm/swtpm cmd/ attestor attestor/workload",
	"github.com/google/go-cmp":            "verifier/store/storetest",
	"github.com/containerd/nri":           "enclave/nri cmd/",
	"github.com/spiffe/go-spiffe/v2":      "attestor/workload",
	"google.golang.org/grpc":              "attestor/workload",
	"google.golang.org/protobuf":          "attestor/workload",
	"github.com/elastic/go-seccomp-bpf":   "enclave/calls",
	"golang.org/x/net":                    "enclave/calls",
	"github.com/landlock-lsm/go-landlock": "enclave",
	"github.com/coreos/go-systemd/v22":    "internal/supervised",
}

// unlinked says what a command must not link, directly or not.
var unlinked = map[string][]string{
	"cmd/writ":        {"net/http", "github.com/go-jose/go-jose/v4", "github.com/cilium/ebpf", "github.com/spf13/cobra", "cel.dev/cel-go", "google.golang.org/protobuf", "github.com/google/go-tpm", "github.com/fxamacker/cbor", "github.com/labstack/echo", "golang.org/x/mod"},
	"cmd/writ-tool":   {"github.com/cilium/ebpf", "github.com/labstack/echo", "modernc.org/sqlite", "github.com/jackc/pgx", "database/sql", "github.com/google/go-tpm-tools", "github.com/veraison/corim", "github.com/containerd/nri", "google.golang.org/grpc"},
	"cmd/writ-keeper": {"github.com/cilium/ebpf", "github.com/containerd/nri", "github.com/labstack/echo", "github.com/veraison/corim", "modernc.org/sqlite", "github.com/google/go-tpm", "github.com/spf13/cobra", "golang.org/x/mod", "google.golang.org/grpc"},
}

func TestLayers(t *testing.T) {
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if b := d.Name(); b == "testdata" || b == "docs" || (strings.HasPrefix(b, ".") && b != ".") || name == "internal/interop" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, src, 0)
		if err != nil {
			return err
		}
		checkImports(t, fset, path.Dir(name), f)
		if slices.Contains(pure, path.Dir(name)) {
			checkPure(t, fset, path.Dir(name), f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range layers {
		if _, err := fs.Stat(root, pkg); err != nil {
			t.Errorf("%s is in the picture but not in the tree", pkg)
		}
	}
}

func checkImports(t *testing.T, fset *token.FileSet, pkg string, f *ast.File) {
	allowed, known := layers[pkg]
	isCmd := strings.HasPrefix(pkg, "cmd/")
	if !known && !isCmd {
		t.Errorf("%s is in the tree but not in the picture", pkg)
	}
	for _, imp := range f.Imports {
		p := strings.Trim(imp.Path.Value, `"`)
		own, isOwn := strings.CutPrefix(p, module)
		if isOwn && !isCmd && !slices.Contains(strings.Fields(allowed), own) {
			t.Errorf("%s: %s may not import %s", fset.Position(imp.Pos()), pkg, own)
		}
		if isOwn && strings.HasPrefix(own, "cmd/") {
			t.Errorf("%s: nobody imports a command", fset.Position(imp.Pos()))
		}
		if !isOwn && strings.Contains(strings.Split(p, "/")[0], ".") && !owned(pkg, p) {
			t.Errorf("%s: %s does not own %s", fset.Position(imp.Pos()), pkg, p)
		}
	}
}

func owned(pkg, imp string) bool {
	for lib, pkgs := range owners {
		if imp != lib && !strings.HasPrefix(imp, lib+"/") {
			continue
		}
		for _, o := range strings.Fields(pkgs) {
			if o == pkg || (strings.HasSuffix(o, "/") && strings.HasPrefix(pkg, o)) {
				return true
			}
		}
	}
	return false
}

func checkPure(t *testing.T, fset *token.FileSet, pkg string, f *ast.File) {
	for _, imp := range f.Imports {
		if p := strings.Trim(imp.Path.Value, `"`); slices.Contains(impure, p) {
			t.Errorf("%s: pure package %s may not import %s", fset.Position(imp.Pos()), pkg, p)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s: pure package %s starts a goroutine", fset.Position(n.Pos()), pkg)
		case *ast.CompositeLit:
			if sel, ok := n.Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "VerifyOptions" {
				for _, field := range []string{"Roots", "CurrentTime"} {
					if !hasField(n, field) {
						t.Errorf("%s: x509.VerifyOptions without %s falls back on the machine's own", fset.Position(n.Pos()), field)
					}
				}
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
				t.Errorf("%s: pure package %s reads the clock with time.%s", fset.Position(n.Pos()), pkg, n.Sel.Name)
			}
		}
		return true
	})
}

func hasField(lit *ast.CompositeLit, name string) bool {
	return slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return false
		}
		key, ok := kv.Key.(*ast.Ident)
		return ok && key.Name == name
	})
}

// TestLinked keeps what a node runs small: whatever a command links is attack
// surface there.
func TestLinked(t *testing.T) {
	for cmd, banned := range unlinked {
		out, err := exec.Command("go", "list", "-deps", "../../"+cmd).CombinedOutput()
		if err != nil {
			t.Fatalf("listing what %s links: %v\n%s", cmd, err, out)
		}
		for _, dep := range strings.Fields(string(out)) {
			for _, b := range banned {
				if dep == b || strings.HasPrefix(dep, b+"/") {
					t.Errorf("%s links %s", cmd, dep)
				}
			}
		}
	}
}
