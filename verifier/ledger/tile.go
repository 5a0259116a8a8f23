package ledger

import (
	"fmt"
	"strconv"
	"strings"
)

const tileWidth = 256 // hashes of a full tile, and entries of a full bundle

// Entries is the level of a [TilePath] that names an entry bundle.
const Entries = -1

// TilePath names a resource of c2sp.org/tlog-tiles below "tile/".
type TilePath struct {
	Level int    // 0 to 63: of hashes; [Entries]: an entry bundle
	Index uint64 // of the tile in its level
	Width int    // 1 to 256; below 256 the tile is partial
}

// String returns the path relative to the log's prefix, such as
// "tile/0/x001/x234/067" or "tile/entries/000.p/12".
func (p TilePath) String() string {
	n := fmt.Sprintf("%03d", p.Index%1000)
	for rest := p.Index / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	level := "entries"
	if p.Level != Entries {
		level = strconv.Itoa(p.Level)
	}
	path := "tile/" + level + "/" + n
	if p.Width != tileWidth {
		path += ".p/" + strconv.Itoa(p.Width)
	}
	return path
}

// ParseTilePath is the inverse of [TilePath.String].
func ParseTilePath(s string) (TilePath, error) {
	p := TilePath{Width: tileWidth}
	bad := fmt.Errorf("%.100q is not a tile path", s)
	rest, ok := strings.CutPrefix(s, "tile/")
	level, rest, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		return TilePath{}, bad
	}
	if level == "entries" {
		p.Level = Entries
	} else if n, err := strconv.Atoi(level); err != nil || n < 0 || n > 63 {
		return TilePath{}, bad
	} else {
		p.Level = n
	}
	if before, width, ok := strings.Cut(rest, ".p/"); ok {
		n, err := strconv.Atoi(width)
		if err != nil || n < 1 || n >= tileWidth {
			return TilePath{}, bad
		}
		p.Width, rest = n, before
	}
	for _, group := range strings.Split(rest, "/") {
		n, err := strconv.ParseUint(strings.TrimPrefix(group, "x"), 10, 64)
		if err != nil || p.Index > maxSize/1000 {
			return TilePath{}, bad
		}
		p.Index = p.Index*1000 + n
	}
	if p.String() != s { // leading zeros, missing or extra x, short groups
		return TilePath{}, bad
	}
	return p, nil
}
