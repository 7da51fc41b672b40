package bootfiles_test

import (
	"context"
	"os"
	"testing"

	"hatchery/netboot/bootfiles"
)

// BenchmarkOpen opens a stand-in base, HATCHERY_STANDIN, with the program
// HATCHERY_NODEINIT: the first time, and with a cache that has been there.
func BenchmarkOpen(b *testing.B) {
	program, err := os.ReadFile(os.Getenv("HATCHERY_NODEINIT"))
	if err != nil {
		b.Skip(err)
	}
	disk, err := os.Open(os.Getenv("HATCHERY_STANDIN"))
	if err != nil {
		b.Skip(err)
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		b.Fatal(err)
	}
	o := bootfiles.Options{
		Slot: 2, Model: "zero-w", Disk: disk, Size: info.Size(),
		NodeInit: func(string) ([]byte, error) { return program, nil },
	}
	open := func(b *testing.B) {
		boot, err := bootfiles.Open(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(boot.Total()), "sent-bytes")
	}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			open(b)
		}
	})
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		o.Cache = &bootfiles.Cache{}
		open(b)
		for b.Loop() {
			open(b)
		}
	})
}
