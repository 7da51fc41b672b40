package bootfiles

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// A deviceTree is a flattened one, as far as it is looked at: the names and the
// properties of the nodes below its root.
//
// Source: the Devicetree Specification, 0.4, chapter 5.
type deviceTree struct {
	nodes map[string]map[string]string // by path, "/" for the root: properties
}

// maxTree bounds the trees that are read, in bytes: Raspberry Pi's have 40 KiB.
const maxTree = 1 << 20

// parseTree reads a flattened device tree; nil for what is none.
func parseTree(b []byte) *deviceTree {
	const magic, beginNode, endNode, property, nop, end = 0xd00dfeed, 1, 2, 3, 4, 9
	be32 := binary.BigEndian.Uint32
	if len(b) < 40 || len(b) > maxTree || be32(b) != magic {
		return nil
	}
	total, structure, text := int64(be32(b[4:])), int64(be32(b[8:])), int64(be32(b[12:]))
	if total > int64(len(b)) || structure > total || text > total {
		return nil
	}
	words, texts := b[structure:total], b[text:total]
	t := &deviceTree{nodes: map[string]map[string]string{}}
	var path []string
	at := ""
	take := func(n int) []byte {
		padded := (n + 3) &^ 3
		if n < 0 || padded > len(words) {
			words = nil
			return nil
		}
		part := words[:n]
		words = words[padded:]
		return part
	}
	for len(words) >= 4 {
		switch be32(take(4)) {
		case beginNode:
			n := bytes.IndexByte(words, 0)
			if n < 0 || len(path) > 32 {
				return nil
			}
			path = append(path, string(take(n + 1)[:n]))
			if at = strings.Join(path, "/"); at == "" {
				at = "/"
			}
			if t.nodes[at] == nil {
				t.nodes[at] = map[string]string{}
			}
		case endNode:
			if len(path) == 0 {
				return nil
			}
			path = path[:len(path)-1]
			if at = strings.Join(path, "/"); at == "" {
				at = "/"
			}
		case property:
			head := take(8)
			if head == nil || len(path) == 0 {
				return nil
			}
			length, name := int64(be32(head)), int64(be32(head[4:]))
			if length > int64(len(words)) || name >= int64(len(texts)) {
				return nil
			}
			value := take(int(length))
			n := bytes.IndexByte(texts[name:], 0)
			if n < 0 || n > 64 {
				return nil
			}
			t.nodes[at][string(texts[name:][:n])] = string(value)
		case nop:
		case end:
			return t
		default:
			return nil
		}
	}
	return nil
}

// takesOverlays says whether a tree is one of Raspberry Pi's, for which its
// overlays are made: those have the parameters that dtparam sets. Mainline
// Linux's have not. A tree that cannot be read is taken for Raspberry Pi's.
func (t *deviceTree) takesOverlays() bool { return t == nil || t.nodes["/__overrides__"] != nil }

// overlay says which file an overlay's name stands for, by overlays/README and
// overlay_map.dts of Raspberry Pi's kernel: some were renamed, some are other
// ones on other boards. platform is the board's, bcm2835. "" is for one that
// the board does not load, and why says why not.
func (t *deviceTree) overlay(name, platform string) (file, why string) {
	for range 4 { // a new name may be mapped in turn
		var node map[string]string
		if t != nil {
			node = t.nodes["/"+name]
		}
		if node == nil {
			return name, ""
		}
		if renamed, ok := node["renamed"]; ok {
			name = strings.TrimRight(renamed, "\x00")
			continue
		}
		if _, ok := node["deprecated"]; ok {
			return "", "it was given up"
		}
		if other, ok := node[platform]; ok {
			if other = strings.TrimRight(other, "\x00"); other != "" {
				return other, ""
			}
			return name, ""
		}
		for _, elsewhere := range []string{"bcm2711", "bcm2712"} {
			if _, ok := node[elsewhere]; ok {
				return "", "it is for other boards"
			}
		}
		return name, ""
	}
	return name, ""
}
