package packages

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hatchery/internal/atomicfile"
)

// A Loader is an engine that takes container images, as `docker save` writes
// them.
type Loader interface {
	// LoadImages returns when the engine has them all, or an error in the
	// engine's words.
	LoadImages(ctx context.Context, archive io.Reader) error
}

// Load has an engine that is up take the images that the builder laid, and
// then removes their archive. Progress, if not nil, is told how many of how
// many bytes the engine has read, at every percent.
func Load(ctx context.Context, o Options, engine Loader, progress func(done, total int64)) error {
	o = o.withDefaults()
	f, err := os.Open(o.archive())
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	o.Tell("loading the container images")
	o.step()
	if err := engine.LoadImages(ctx, &counted{r: f, total: info.Size(), tell: progress}); err != nil {
		return fmt.Errorf("cannot load the images in %s into Docker: %w", o.archive(), err)
	}
	// Docker writes most of an image without waiting for the card.
	syncAll()
	o.step()
	if err := os.Remove(o.archive()); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(filepath.Dir(o.archive())); err != nil {
		return err
	}
	o.step()
	o.Log.Info("container images loaded", "bytes", info.Size())
	return nil
}

// counted tells how much has been read.
type counted struct {
	r           io.Reader
	done, total int64
	told        int64 // percent
	tell        func(done, total int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if percent := c.done * 100 / max(c.total, 1); c.tell != nil && percent > c.told {
		c.told = percent
		c.tell(c.done, c.total)
	}
	return n, err
}
