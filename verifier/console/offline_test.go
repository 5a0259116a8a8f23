package console

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestSavedPageRunsOnlyItsOwnScripts: the policy within the copy names the scripts
// that are in it and nothing else, and the copy is there only where /proof is open.
func TestSavedPageRunsOnlyItsOwnScripts(t *testing.T) {
	p, err := New([]string{"proof"})
	if err != nil {
		t.Fatal(err)
	}
	// What `make core` makes, in little.
	p.files["assets/core/wasm_exec.js"] = &file{plain: []byte("globalThis.Go = class {}")}
	p.files["assets/core/writ.wasm"] = &file{packed: []byte{0x1f, 0x8b}}
	w := get(t, p, "assets/"+offlineName)
	body := w.Body.String()
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment") {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	policy := regexp.MustCompile(`script-src ([^;]*);`).FindStringSubmatch(body)
	if policy == nil || strings.Contains(policy[1], "unsafe-inline") || strings.Contains(policy[1], "unsafe-eval' ") {
		t.Fatalf("policy %q", policy)
	}
	scripts := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllStringSubmatch(body, -1)
	if len(scripts) != 2 || strings.Count(body, "</script") != 3 || strings.Count(body, "</style") != 1 {
		t.Fatalf("%d scripts; an end tag is in one of them", len(scripts))
	}
	for _, s := range scripts {
		sum := sha256.Sum256([]byte(s[1]))
		if want := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy[1], want) {
			t.Errorf("the policy %q lacks %s", policy[1], want)
		}
	}
	if len(strings.Fields(policy[1])) != 3 {
		t.Errorf("the policy admits to more: %q", policy[1])
	}
	p.open = nil
	if w := get(t, p, "assets/"+offlineName); w.Code != http.StatusNotFound {
		t.Errorf("with /proof closed: %d", w.Code)
	}
}
