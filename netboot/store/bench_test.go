package store_test

import (
	"fmt"
	"os"
	"testing"

	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
)

// BenchmarkReset resets a slot whose top holds this many bytes:
// that does not depend on how much there is to drop, which goes in the
// background.
func BenchmarkReset(b *testing.B) {
	for _, size := range []int64{1 << 20, 256 << 20} {
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) {
			s, _ := newStore(b)
			base := storetest.Base(b, 512<<20, 1)
			if err := add(s, base); err != nil {
				b.Fatal(err)
			}
			w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(base)}}
			for _, op := range []string{"mode netboot", "assign A"} {
				if err := w.do(op); err != nil {
					b.Fatal(err)
				}
			}
			data := make([]byte, 1<<20)
			for i := range data {
				data[i] = byte(i*11 + 3)
			}
			fill := func() {
				if err := w.do("boot"); err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < size; off += int64(len(data)) {
					if _, err := w.disk.WriteAt(data, off); err != nil {
						b.Fatal(err)
					}
				}
				for _, op := range []string{"ready", "off"} {
					if err := w.do(op); err != nil {
						b.Fatal(err)
					}
				}
			}
			for b.Loop() {
				b.StopTimer()
				s.Close()
				fill()
				b.StartTimer()
				if err := w.do("reset"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBoot opens the disk of a slot that was reset.
func BenchmarkBoot(b *testing.B) {
	s, _ := newStore(b)
	o := chains(b)["A"]
	if err := add(s, o); err != nil {
		b.Fatal(err)
	}
	w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(o)}}
	for _, op := range []string{"mode netboot", "assign A"} {
		if err := w.do(op); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if err := w.do("boot"); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for _, op := range []string{"ready", "off", "reset"} {
			if err := w.do(op); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
}

// BenchmarkImport takes in a raw image of which a quarter is data that does not
// compress and a quarter that does; MB/s are of the image's length.
func BenchmarkImport(b *testing.B) {
	base := storetest.Base(b, 512<<20, 1)
	b.SetBytes(base.Size)
	for b.Loop() {
		b.StopTimer()
		s, _ := newStore(b)
		f, err := os.Open(base.Path)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := s.AddBase(b.Context(), f, store.Import{Size: base.Size}); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
