package flash

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"hatchery/internal/bmap"
)

// headSize is how much of the card's beginning is held back to the end.
const headSize = 4096

// notePrefix begins the note that lies in the place of the first block of a
// card that is not finished.
const notePrefix = "hatchery: this card is not finished and will not boot.\nRun the same `hatchery flash` again to go on.\n"

const noteFormat = "hatchery-unfinished/1"

// A note is what else the note says: a line of JSON.
type note struct {
	Format  string `json:"format"`
	Cluster string `json:"cluster,omitempty"`
	Target  string `json:"target,omitempty"`
	Image   string `json:"image"` // digest of the map: "sha256:…"
}

// mostName bounds a name in the note, in bytes: with two of them, quoted, it
// stays within a card's smallest block.
const mostName = 56

// block gives the head of an unfinished card. It is text, in which the
// signature of a boot sector cannot be: 0x55 0xaa is no UTF-8.
func (n note) block() []byte {
	n.Format, n.Cluster, n.Target = noteFormat, shortened(n.Cluster), shortened(n.Target)
	line, _ := json.Marshal(n) // strings only
	block := aligned(headSize)
	copy(block, notePrefix+string(line)+"\n")
	return block
}

// shortened makes a name one that fits: printable ASCII, which JSON does not
// make longer.
func shortened(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= utf8.RuneSelf-1 || strings.ContainsRune(`"\<>&`, r) {
			return '_'
		}
		return r
	}, name)
	return name[:min(len(name), mostName)]
}

// parseNote reads the note in a card's first block, if there is one.
func parseNote(block []byte) (note, bool) {
	rest, ok := bytes.CutPrefix(block, []byte(notePrefix))
	if !ok {
		return note{}, false
	}
	line, _, ok := bytes.Cut(rest, []byte("\n"))
	var n note
	if !ok || json.Unmarshal(line, &n) != nil || n.Format != noteFormat {
		return note{}, true // one of another version's
	}
	return n, true
}

// IsNote says whether a disk begins with the note of a card that is not finished.
func IsNote(head []byte) bool { return bytes.HasPrefix(head, []byte(notePrefix)) }

// Digest names what a map describes: equal for equal images, where the map has
// checksums.
func Digest(m *bmap.Map) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d\n", m.ImageSize, m.BlockSize)
	for _, r := range m.Ranges {
		fmt.Fprintf(h, "%d %d %s\n", r.First, r.Last, r.Checksum)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
