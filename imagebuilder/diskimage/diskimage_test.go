package diskimage_test

import (
	"os"
	"testing"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/imagetest"
)

// open opens an image file for the length of the test.
func open(t testing.TB, path string) *diskimage.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	im, err := diskimage.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func assembled(t testing.TB, im *diskimage.Image) diskimage.Tree {
	t.Helper()
	tree, err := im.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestTree(t *testing.T) {
	im := open(t, imagetest.Bookworm(t))
	t.Logf("%+v %+v", im.Table(), im.Partitions())
	tree := assembled(t, im)
	n := 0
	if err := tree.Walk("/", func(node diskimage.Node) error {
		n++
		if node.Problem != "" {
			t.Errorf("%s: %s", node.Path, node.Problem)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Log(n, im.BootPath(), im.Release(), im.Mounts())
	data, err := diskimage.ReadFile(tree, "/boot/firmware/cmdline.txt", 1<<20)
	t.Logf("%q %v", data, err)
}
