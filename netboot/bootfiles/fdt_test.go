package bootfiles_test

import (
	"encoding/binary"
	"strings"
	"testing"
)

// flat is a flattened device tree of nodes below the root, with their
// properties.
func flat(nodes ...[]string) string {
	var words []byte
	var texts strings.Builder
	word := func(n int) { words = binary.BigEndian.AppendUint32(words, uint32(n)) }
	pad := func(s string) {
		words = append(words, s...)
		for len(words)%4 != 0 {
			words = append(words, 0)
		}
	}
	word(1)
	pad("\x00")
	for _, n := range nodes {
		word(1)
		pad(n[0] + "\x00")
		for _, property := range n[1:] {
			name, value, ok := strings.Cut(property, "=")
			if ok {
				value += "\x00"
			}
			word(3)
			word(len(value))
			word(texts.Len())
			pad(value)
			texts.WriteString(name + "\x00")
		}
		word(2)
	}
	word(2)
	word(9)
	const header = 40
	head := make([]byte, header)
	binary.BigEndian.PutUint32(head, 0xd00dfeed)
	for i, n := range []int{header + len(words) + texts.Len(), header, header + len(words), 0, 17, 16, 0, texts.Len(), len(words)} {
		binary.BigEndian.PutUint32(head[4+4*i:], uint32(n))
	}
	return string(head) + string(words) + texts.String()
}

// overlayMap is one as Raspberry Pi's kernels have it.
func overlayMap() string {
	return flat([]string{"pi3-disable-bt", "renamed=disable-bt"}, []string{"disable-bt", "bcm2835"}, []string{"elsewhere", "bcm2711"},
		[]string{"old", "deprecated=no longer necessary"}, []string{"another", "bcm2835=another-one", "bcm2711"})
}

// TestMainlineTree does without overlays where they are not for the tree.
func TestMainlineTree(t *testing.T) {
	i := miniature(t, "bookworm")
	with := func(tree string) image {
		return i.with(t, map[string]string{"bcm2708-rpi-zero-w.dtb": tree, "-overlays/dwc2.dtbo": ""})
	}
	b := with(flat([]string{"__symbols__", "usb=/soc/usb"}, []string{"chosen"})).open(t)
	if notes := strings.Join(b.Notes(), "\n"); !strings.Contains(notes, "overlay dwc2 is not there, and not missed") {
		t.Error(notes)
	}
	err := with(flat([]string{"__symbols__", "usb=/soc/usb"}, []string{"__overrides__", "audio"})).fails(t)
	if !strings.Contains(err.Error(), "overlays/dwc2.dtbo") {
		t.Error(err)
	}
}
