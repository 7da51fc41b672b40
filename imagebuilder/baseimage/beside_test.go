package baseimage_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/imagetest"
	"hatchery/internal/progress"
)

// TestBeside: what was computed of an image stays as long as the image does,
// and goes with it.
func TestBeside(t *testing.T) {
	c, err := baseimage.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.Get(t.Context(), baseimage.Ref{Source: imagetest.Bookworm(t)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	places := []string{image.Beside("blockmap"), image.Beside("initramfs-reimage-6.12.25+rpt-rpi-v6")}
	for _, place := range places {
		if err := os.WriteFile(place, []byte("computed"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := image.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prune(baseimage.PruneOptions{Unused: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		if _, err := os.Lstat(place); err != nil {
			t.Errorf("the image is kept: %v", err)
		}
	}
	if _, err := c.Prune(baseimage.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		if _, err := os.Lstat(place); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the image is gone: %s, %v", place, err)
		}
	}
}
