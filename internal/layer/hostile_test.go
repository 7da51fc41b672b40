package layer_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"hatchery/internal/layer"
)

// resum makes the checksums of a mutated file right again wherever it can
// find what they belong to, so that mutations reach the checks behind them.
func resum(p []byte) {
	sum := func(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }
	le := binary.LittleEndian
	if len(p) < 3*4096 {
		return
	}
	le.PutUint32(p[64:], sum(p[:64]))
	for at := 4096; at <= 8192; at += 4096 {
		slot := p[at : at+88]
		// Segments from the last backwards would need theirs first: their sums
		// are where they are referred to.
		ref := slot[24:40]
		for range 4 {
			block, count := le.Uint64(ref), le.Uint32(ref[8:])
			if block < 3 || block > uint64(len(p)/4096) || uint64(count) > uint64(len(p)/12) {
				break
			}
			at, end := block*4096, block*4096+48+uint64(count)*12
			if end > uint64(len(p)) {
				break
			}
			le.PutUint32(p[at+40:], sum(p[at:at+40]))
			le.PutUint32(ref[12:], sum(p[at:end]))
			ref = p[at+24 : at+40]
		}
		le.PutUint32(slot[80:], le.Uint32(p[64:]))
		le.PutUint32(slot[84:], sum(slot[:84]))
	}
}

// FuzzOpen opens mutated files. Whatever opens must be usable, and nothing
// may panic, hang or take memory out of proportion.
func FuzzOpen(f *testing.F) {
	d := &disk{}
	l := small(f, d)
	parent := l.Parent()
	f.Add(append([]byte(nil), d.content...), false)
	f.Add(append([]byte(nil), d.content...), true)
	// One field after another takes values at its ends.
	for _, at := range []int{8, 12, 16, 20, 24, 28, 4096 + 8, 4096 + 16, 4096 + 20, 4096 + 24, 4096 + 32, 4096 + 40,
		8192 + 8, 8192 + 16, 8192 + 20, 8192 + 24, 8192 + 32, 8192 + 40} {
		for _, v := range []uint32{0, 1, 3, 0xffff, 1 << 29, 0x7fffffff, 0xffffffff} {
			p := append([]byte(nil), d.content...)
			binary.LittleEndian.PutUint32(p[at:], v)
			f.Add(p, true)
		}
	}
	for block := 3; block < len(d.content)/4096; block++ {
		if !bytes.Equal(d.content[block*4096:block*4096+8], []byte("hatchmap")) {
			continue
		}
		for at := 8; at < 84; at += 4 {
			for _, v := range []uint32{0, 1, 4, 1 << 29, 0xffffffff} {
				p := append([]byte(nil), d.content...)
				binary.LittleEndian.PutUint32(p[block*4096+at:], v)
				f.Add(p, true)
			}
		}
	}
	if _, err := l.Seal(); err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte(nil), d.content...), true)
	f.Add(d.content[:5000], true)
	f.Add([]byte("hatchlyr"), false)
	f.Fuzz(func(t *testing.T, p []byte, right bool) {
		p = append([]byte(nil), p...)
		if right {
			resum(p)
		}
		l, err := layer.OpenOn(&disk{content: p}, parent)
		if err != nil {
			return
		}
		buf := make([]byte, 64<<10)
		if _, err := l.ReadAt(buf, 0); err != nil && l.Size() >= int64(len(buf)) {
			t.Fatalf("it opened, but cannot be read: %v", err)
		}
		l.Extents()
		if l.Sealed() {
			return
		}
		want := append([]byte(nil), buf[:8192]...)
		copy(want[4000:], "written on")
		if _, err := l.WriteAt(want[4000:4010], 4000); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 8192)
		if _, err := l.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("a write to what opened was lost: %v", err)
		}
	})
}
