package baseimage

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/filelock"
	"hatchery/internal/progress"
)

func (c *Cache) lockPath(name string) string { return filepath.Join(c.locks(), name+".lock") }

func (c *Cache) lockFile(name string) *flock.Flock { return filelock.New(c.lockPath(name)) }

// lock takes a lock of the cache. Where another process has it, waiting is
// reported under the given name. Locks end with their process, so a killed
// build blocks nobody.
func (c *Cache) lock(ctx context.Context, name, waiting string, report progress.Reporter) (unlock func(), err error) {
	return filelock.Lock(ctx, c.lockPath(name), waiting, report)
}

func sourceLock(d digest.Digest) string { return "source-" + d.Encoded() }

func useLock(d digest.Digest) string { return "use-" + d.Encoded() }

// use takes an image for reading: until the lock is closed, nobody removes it.
// Where no lock can be had, as on some network file systems, there is no harm:
// nobody gets the one that is needed to remove it either.
func (c *Cache) use(ctx context.Context, d digest.Digest) (*flock.Flock, error) {
	return filelock.Share(ctx, c.lockPath(useLock(d)))
}

// used records that an image is used now. It only ever delays its removal, so
// a record that cannot be written is no failure.
func (c *Cache) used(d digest.Digest) {
	now := time.Now()
	_ = os.Chtimes(c.lockFile(useLock(d)).Path(), now, now)
}

// lastUse is when an image was last used, as far as that is on record.
func (c *Cache) lastUse(d digest.Digest) (time.Time, bool) {
	info, err := os.Stat(c.lockFile(useLock(d)).Path())
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// partialImage is where the image of a source is written until its digest is
// known. Who holds the source's lock owns this file.
func (c *Cache) partialImage(src *source) string {
	return filepath.Join(c.images(), "."+src.digest.Encoded()+atomicfile.Suffix)
}

// sweep removes what killed builds left half-made: those whose source's lock
// is free. Nothing depends on it, so what cannot be removed stays.
func (c *Cache) sweep() {
	entries, _ := halfMade{c}.list()
	for _, e := range entries {
		if !e.InUse {
			_, _ = halfMade{c}.remove(e)
		}
	}
}
