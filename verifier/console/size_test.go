package console

import (
	"path"
	"strings"
	"testing"
)

// most is what all that pages are made of may weigh together, packed, but for the
// core in WebAssembly and the page that is saved: so no page weighs more.
const most = 300 << 10

func TestPagesAreLight(t *testing.T) {
	t.Parallel()
	p, err := New(Names)
	if err != nil {
		t.Fatal(err)
	}
	sum, largest := 0, ""
	for name, f := range p.files {
		if strings.HasPrefix(name, "assets/core/") || strings.HasPrefix(name, "offline/") {
			continue
		}
		size := len(f.packed)
		if f.packed == nil {
			size = len(f.plain)
		}
		if sum += size; path.Ext(name) == ".js" && (largest == "" || size > len(p.files[largest].packed)) {
			largest = name
		}
	}
	if sum > most || sum < 10<<10 {
		t.Errorf("the pages weigh %d KiB packed, at most %d are meant; the largest is %s", sum>>10, most>>10, largest)
	}
}
