package ext4_test

import (
	"bytes"
	"fmt"
	"testing"

	"hatchery/internal/ext4/ext4test"
)

// BenchmarkFiles makes 5,000 files of 1 kB in a new directory.
func BenchmarkFiles(b *testing.B) {
	content := noise(1, 1000)
	for b.Loop() {
		b.StopTimer()
		fs := newEdited(b, ext4test.Named(b, "bookworm-4k"), 256<<20)
		b.StartTimer()
		succeed(b, fs.Mkdir("d", attr(0o755)))
		for i := range 5000 {
			succeed(b, fs.Create(fmt.Sprintf("d/file-%05d", i), bytes.NewReader(content), attr(0o644)))
		}
		succeed(b, fs.Flush())
		b.StopTimer()
		ext4test.Fsck(b, fs.path)
		b.StartTimer()
	}
	b.ReportMetric(5000*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkFilesInMemory is BenchmarkFiles without a file below: what the
// editor itself takes.
func BenchmarkFilesInMemory(b *testing.B) {
	content := noise(1, 1000)
	for b.Loop() {
		b.StopTimer()
		dev := loaded(b, ext4test.Named(b, "bookworm-4k"), 128<<20)
		b.StartTimer()
		fs := dev.open(b)
		succeed(b, fs.Mkdir("d", attr(0o755)))
		for i := range 5000 {
			succeed(b, fs.Create(fmt.Sprintf("d/file-%05d", i), bytes.NewReader(content), attr(0o644)))
		}
		succeed(b, fs.Flush())
	}
	b.ReportMetric(5000*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkTree makes a tree like a root file system's: 13,449 entries, 195 MB.
func BenchmarkTree(b *testing.B) {
	content := noise(2, 1<<20)
	var total int64
	for b.Loop() {
		b.StopTimer()
		fs := newEdited(b, ext4test.Named(b, "bookworm-4k"), 1<<30)
		b.StartTimer()
		n := 0
		total = 0
		for d := 0; n < 13_449; d++ {
			dir := fmt.Sprintf("usr/share/d%d/e%d", d%37, d)
			succeed(b, fs.MkdirAll(dir, attr(0o755)))
			n++
			for i := 0; i < 12 && n < 13_449; i++ {
				size := 1500 + n%4000
				if n%40 == 0 {
					size = 450_000
				}
				succeed(b, fs.Create(fmt.Sprintf("%s/f%d", dir, i), bytes.NewReader(content[:size]), attr(0o644)))
				total += int64(size)
				n++
			}
		}
		succeed(b, fs.Flush())
		b.StopTimer()
		ext4test.Fsck(b, fs.path)
		b.StartTimer()
	}
	b.SetBytes(total)
}

// BenchmarkBigFile makes one file of 150 MB.
func BenchmarkBigFile(b *testing.B) {
	content := noise(2, 150<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		b.StopTimer()
		fs := newEdited(b, ext4test.Named(b, "bookworm-4k"), 512<<20)
		b.StartTimer()
		succeed(b, fs.Create("big", bytes.NewReader(content), attr(0o644)))
		succeed(b, fs.Flush())
	}
}
