package bootpart_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is allocated, copied onto a partition full of noise, is the same file
// system to fsck.vfat, to mtools and to this package; and it is not all.
func TestAllocated(t *testing.T) {
	for _, c := range []struct {
		summary    string
		perCluster int
	}{{"small clusters", 1}, {"larger clusters", 2}} {
		t.Run(c.summary, func(t *testing.T) {
			size := smallest(c.perCluster)
			image := mkfs(t, c.perCluster, size, raspios())
			f, file := open(t, image)
			// Gaps, and clusters that hold old data and are free.
			old := bytes.Repeat([]byte("old data"), 50_000)
			if err := f.WriteFile("old", old); err != nil {
				t.Fatal(err)
			}
			if err := f.WriteFile("config.txt", []byte(strings.Repeat("# longer\n", 20_000))); err != nil {
				t.Fatal(err)
			}
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := f.Remove("old"); err != nil {
				t.Fatal(err)
			}
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}

			other := make([]byte, int64(size)*mib)
			rand.NewChaCha8([32]byte{1}).Read(other)
			end, copied := int64(-1), int64(0)
			reread, _ := open(t, image)
			err := reread.Allocated(func(offset, length int64) error {
				if offset <= end || length <= 0 {
					t.Errorf("%d bytes at %d, after a range that ends at %d", length, offset, end)
				}
				end = offset + length
				copied += length
				_, err := file.ReadAt(other[offset:end], offset)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(other, old[:512]) {
				t.Error("the clusters of a removed file are copied")
			}
			if u := f.Usage(); copied > int64(u.Clusters-u.FreeClusters)*u.ClusterSize+2*mib*2 {
				t.Errorf("%d bytes are copied for %d clusters of %d bytes", copied, u.Clusters-u.FreeClusters, u.ClusterSize)
			}
			if f.Size() > int64(len(other)) || f.Size() < int64(len(other))-64<<10 || end > f.Size() {
				t.Errorf("the file system ends at %d, what is allocated at %d, the partition at %d", f.Size(), end, len(other))
			}
			path := filepath.Join(t.TempDir(), "copy")
			if err := os.WriteFile(path, other, 0o600); err != nil {
				t.Fatal(err)
			}
			fsck(t, path)
			there, _ := open(t, path)
			if diff := cmp.Diff(tree(t, f), tree(t, there)); diff != "" {
				t.Errorf("(-original +copy)\n%s", diff)
			}
			if diff := cmp.Diff(mcopyAll(t, image), mcopyAll(t, path)); diff != "" {
				t.Errorf("mtools: (-original +copy)\n%s", diff)
			}
		})
	}
}

func TestAllocatedStops(t *testing.T) {
	f, _ := open(t, mkfs(t, 1, smallest(1), raspios()))
	stop := errors.New("stop")
	visits := 0
	if err := f.Allocated(func(int64, int64) error { visits++; return stop }); !errors.Is(err, stop) || visits != 1 {
		t.Fatalf("%d visits, %v", visits, err)
	}
}
