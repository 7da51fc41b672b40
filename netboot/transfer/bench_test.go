package transfer_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hatchery/internal/testtool"
	"hatchery/netboot/store/storetest"
	"hatchery/netboot/transfer"
)

const benchSize = 512 << 20

// BenchmarkPush pushes a base of 512 MiB, of which a quarter is data that does
// not compress and a quarter data that does, both sides on this machine. MB/s
// are of the image's length, as in BenchmarkCopy.
func BenchmarkPush(b *testing.B) {
	base := storetest.Base(b, benchSize, 1)
	b.SetBytes(benchSize)
	for b.Loop() {
		b.StopTimer()
		s := openStore(b, b.TempDir(), -1)
		b.StartTimer()
		if _, _, err, rerr := push(b, s, transfer.Offer{Objects: sources(base)}); err != nil || rerr != nil {
			b.Fatal(err, rerr)
		}
	}
}

// BenchmarkReceive is the receiver's half alone, of what a sender said.
func BenchmarkReceive(b *testing.B) {
	base := storetest.Base(b, benchSize, 1)
	var said bytes.Buffer
	s := openStore(b, b.TempDir(), -1)
	if _, _, err, rerr := pushThrough(b, s, transfer.Offer{Objects: sources(base)}, func(r io.Reader) io.Reader { return io.TeeReader(r, &said) }); err != nil || rerr != nil {
		b.Fatal(err, rerr)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		b.StopTimer()
		s := openStore(b, b.TempDir(), -1)
		b.StartTimer()
		if _, err := transfer.Receive(b.Context(), end{bytes.NewReader(said.Bytes()), nopCloser{io.Discard}}, s, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCopy is what there is to compare with: cp and sync of the same
// image, which verifies nothing.
func BenchmarkCopy(b *testing.B) {
	base := storetest.Base(b, benchSize, 1)
	cp := testtool.Need(b, "cp")
	b.SetBytes(benchSize)
	for b.Loop() {
		to := filepath.Join(b.TempDir(), "copy")
		if out, err := exec.Command(cp, "--sparse=always", "--reflink=never", base.Path, to).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		f, err := os.OpenFile(to, os.O_RDWR, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
