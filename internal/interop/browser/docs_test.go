package browser

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/internal/interop/domain"
)

// largest is what a picture of docs/img may weigh, in bytes.
const largest = 150_000

// documents takes the pictures that README and docs/ show: of a domain with a node whose
// boot log somebody has rewritten, and executions that started others. It is the last to
// look at the domain, since it does it harm.
func documents(t *testing.T, d *domain.Domain, chromium context.Context) {
	parent := d.Writ(t, "run", "--level", "E2", "--", "sh", "-c", "echo $WRIT_EXECUTION")
	exec := d.Writ(t, "run", "--level", "E2", "--parent", parent, "--", "sh", "-c", "echo $WRIT_EXECUTION")
	d.Writ(t, "run", "--level", "E2", "--parent", exec, "--", "true")
	d.Writ(t, "run", "--level", "E2", "--parent", exec, "--", "true")
	log := filepath.Join(d.Dir, "node-2", "eventlog.bin")
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[3000:], "evil")
	if err := os.WriteFile(log, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Minute); !strings.Contains(d.Writ(t, "node", "show", d.Node(t, 2)), "fail-closed-restricted"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a node whose boot log was rewritten is still legitimate")
		}
	}
	b := open(t, chromium)
	shows := func(name, path, selector string, words ...string) {
		t.Helper()
		b.open(d.URL + path)
		b.shows(selector, words...)
		b.keep(name)
	}
	shows("console", "/console", "main", "fail-closed-restricted", "counters/boot-log-changed", "Recent acts")
	b.eval(`document.querySelector('.card a[href^="/console?node="]').click()`)
	b.shows("main", "Difference from the reference", "counters/boot-log-changed")
	b.keep("node")
	shows("lineage", "/lineage?exec="+exec, "#events", "Decision", "Start", "Stop")
	shows("health", "/health", "#stops", "99 of 100 within")
	shows("pages", "/", "main", "Console", "Lineage", "Health", "Proof", "Demonstration")
	b.inspect("pages")
	b.clean("the pages of the documents")
}

// keep saves what a desk's screen shows of a page as a small picture, once all that is
// to be drawn was drawn at that size.
func (b *tab) keep(name string) {
	b.Helper()
	b.size(1200, false)
	b.until("the pictures of "+name+" to be drawn", func() bool {
		return b.is(`!document.querySelector('[aria-busy="true"]') && [...document.querySelectorAll('.chart .picture')].every(p => p.querySelector('.none') || Math.abs((p.querySelector('svg')?.getAttribute('width') ?? 0) - Math.floor(p.clientWidth)) < 2 || p.querySelector('svg')?.getAttribute('width') == 560)`)
	})
	shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	b.must(err, "taking a picture")
	small, err := paletted(shot)
	b.must(err, "making a picture small")
	if len(small) > largest {
		b.Errorf("the picture %s has %d bytes, at most %d are meant", name, len(small), largest)
	}
	dir := cmp.Or(os.Getenv("WRIT_SCREENSHOTS"), b.ArtifactDir())
	b.must(os.MkdirAll(filepath.Join(dir, "docs"), 0o755), "making "+dir)
	b.must(os.WriteFile(filepath.Join(dir, "docs", name+".png"), small, 0o644), "saving a picture")
	b.size(1600, false)
}

// paletted draws a picture of few colours with the 256 that it has most of.
func paletted(raw []byte) ([]byte, error) {
	in, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	count := map[color.RGBA]int{}
	box := in.Bounds()
	at := func(x, y int) color.RGBA {
		c := color.RGBAModel.Convert(in.At(x, y)).(color.RGBA)
		return color.RGBA{c.R &^ 3, c.G &^ 3, c.B &^ 3, 255}
	}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	often := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	var few color.Palette
	for _, c := range often[:min(len(often), 256)] {
		few = append(few, c)
	}
	nearest := map[color.RGBA]uint8{}
	out := image.NewPaletted(box, few)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := at(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(few.Index(c))
				nearest[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	var b bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, out)
	return b.Bytes(), err
}
