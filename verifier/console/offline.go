package console

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
)

// offlineName is the saved copy of /proof, below assets/.
const offlineName = "writ-proof.html"

// offline answers with /proof as one file, which needs no server: style, scripts and
// the checking core are within it, and its policy names the scripts by their hashes
// and lets it ask nobody. It is for saving; a browser that shows it here runs nothing
// of it, by the policy of this answer.
func (p *Pages) offline(w http.ResponseWriter) {
	exec, code, style := string(p.files["assets/core/wasm_exec.js"].plain), string(p.files["offline/proof.js"].plain), string(p.files["offline/proof.css"].plain)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="`+offlineName+`"`)
	h.Set("Cache-Control", "no-cache")
	policy := "default-src 'none'; script-src " + hashed(exec) + " " + hashed(code) + " 'wasm-unsafe-eval'; style-src " + hashed(style) + "; base-uri 'none'; form-action 'none'"
	_, err := io.WriteString(w, `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="`+policy+`">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Check a proof · Writ</title>
<style>`+style+`</style>
</head>
<body>
<div id="app"></div>
<script type="application/gzip" id="core">`)
	if err != nil {
		return // the reader has gone
	}
	packed := base64.NewEncoder(base64.StdEncoding, w)
	_, _ = packed.Write(p.files["assets/core/writ.wasm"].packed)
	_ = packed.Close()
	_, _ = io.WriteString(w, "</script>\n<script>"+exec+"</script>\n<script>"+code+"</script>\n</body>\n</html>\n")
}

// savable reports that this program holds what a saved copy is made of, which is not
// so when it was built without `make core`.
func (p *Pages) savable() bool {
	for _, name := range []string{"assets/core/wasm_exec.js", "assets/core/writ.wasm", "offline/proof.js", "offline/proof.css"} {
		if p.files[name] == nil {
			return false
		}
	}
	return true
}

// hashed is a source of Content-Security-Policy for one inline text. The text goes
// between tags as it is: it must not hold an end tag, which the test looks for.
func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
