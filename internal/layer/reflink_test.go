//go:build linux

package layer_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/internal/testtool"
)

// TestWriteImageReflink flattens chains where the file system shares blocks:
// there the layers are laid over a clone of the base, which is another path
// through the code.
func TestWriteImageReflink(t *testing.T) {
	testtool.NeedRoot(t)
	for _, mkfs := range []string{"mkfs.xfs", "mkfs.btrfs"} {
		t.Run(mkfs, func(t *testing.T) {
			testtool.Need(t, mkfs)
			disk := newFile(t)
			if err := disk.Truncate(512 << 20); err != nil {
				t.Fatal(err)
			}
			testtool.Run(t, mkfs, "-q", disk.Name())
			dir := t.TempDir()
			testtool.Run(t, "mount", "-o", "loop", disk.Name(), dir)
			t.Cleanup(func() { testtool.Run(t, "umount", dir) })
			rnd := rand.New(rand.NewPCG(1, 8))
			content := noise(rnd, 100<<20)
			if err := os.WriteFile(filepath.Join(dir, "base"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			base, err := layer.OpenBase(filepath.Join(dir, "base"), digest.FromBytes(content))
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			content = append(content, make([]byte, 1<<20)...)
			l, err := layer.Create(filepath.Join(dir, "layer"), base, int64(len(content)))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Abandon()
			for range 50 {
				c := randomChange(rnd, 1<<20)
				c.off += rnd.Int64N(int64(len(content)) - 1<<20)
				if err := c.apply(l); err != nil {
					t.Fatal(err)
				}
				c.model(content)
			}
			seal(t, l)
			// More than would fit, were the base's blocks not shared.
			for _, name := range []string{"1", "2", "3", "4", "5", "6"} {
				dst, err := os.Create(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				defer dst.Close()
				var task tally
				if err := layer.WriteImage(t.Context(), dst, l, &task); err != nil {
					t.Fatal(err)
				}
				if task.n.Load() != l.Size() {
					t.Errorf("the task was told %d of %d bytes", task.n.Load(), l.Size())
				}
				if name == "1" {
					fileIs(t, dst, content)
				}
			}
		})
	}
}
