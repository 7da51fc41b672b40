package imageregistry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/distribution/distribution/v3/registry/storage"
	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
)

// How much of the quota, in percent, is too much, and how much is enough then.
const (
	tooMuch = 90
	enough  = 70
)

// tidy makes room while the service runs.
func (s *Service) tidy(ctx context.Context) {
	swept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.o.Limits.Look):
		}
		s.shrink(false)
		over := s.images.room.over(tooMuch) > 0
		if !over && time.Since(swept) < s.o.Limits.Sweep {
			continue
		}
		done, err := s.Sweep(ctx, over)
		switch {
		case err != nil:
			s.o.Log.Warn("what no image needs any more could not be removed", "error", err)
			swept = time.Now()
		case done:
			swept = time.Now()
		}
	}
}

// shrink gives up what of the cache was not used for longest, if it has too much, or if
// something does not fit.
func (s *Service) shrink(full bool) {
	s.shrinking.Lock()
	defer s.shrinking.Unlock()
	room := s.cache.room
	if !full && room.over(tooMuch) == 0 {
		return
	}
	if err := room.count(); err != nil { // distribution's own removals are not counted
		s.o.Log.Warn("the cache cannot be counted", "error", err)
		return
	}
	over := room.over(enough)
	if over == 0 || !full && room.over(tooMuch) == 0 {
		return
	}
	type blob struct {
		digest string
		used   time.Time
		size   int64
	}
	var blobs []blob
	_ = filepath.WalkDir(filepath.Join(room.dir, "docker/registry/v2/blobs/sha256"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "data" {
			return nil // gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			blobs = append(blobs, blob{filepath.Base(filepath.Dir(path)), info.ModTime(), info.Size()})
		}
		return nil
	})
	slices.SortFunc(blobs, func(a, b blob) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.digest, b.digest)) })
	vacuum := storage.NewVacuum(context.Background(), s.cache)
	var gone int64
	for _, b := range blobs {
		if gone >= over {
			break
		}
		if err := vacuum.RemoveBlob("sha256:" + b.digest); err != nil {
			s.o.Log.Warn("a layer of the cache could not be removed", "digest", b.digest, "error", err)
			continue
		}
		gone += b.size
	}
	room.give(gone)
	s.o.Log.Info("the cache gave up what was not used for longest", "mb", gone>>20)
}

// recount looks what the pushed images take: what was uploaded and given up, or was
// there already, distribution removes without a word.
func (s *Service) recount() {
	s.shrinking.Lock()
	defer s.shrinking.Unlock()
	if err := s.images.room.count(); err != nil {
		s.o.Log.Warn("the pushed images cannot be counted", "error", err)
	}
}

// Sweep removes what no manifest of a pushed image needs, and with untagged the
// manifests too that no tag leads to. It does nothing, and says so, while somebody
// pushes: what was pushed so far has no manifest yet.
func (s *Service) Sweep(ctx context.Context, untagged bool) (done bool, err error) {
	if time.Since(time.Unix(0, s.pushed.Load())) < s.o.Limits.Quiet || !s.pushing.TryLock() {
		return false, nil
	}
	defer s.pushing.Unlock()
	registry, err := storage.NewRegistry(ctx, s.images, storage.EnableDelete)
	if err != nil {
		return false, err
	}
	err = storage.MarkAndSweep(ctx, s.images, registry, storage.GCOpts{RemoveUntagged: untagged, Quiet: true})
	var none storagedriver.PathNotFoundError
	if err != nil && !errors.As(err, &none) && !isEmpty(s.images.room.dir) {
		return false, fmt.Errorf("removing what no image needs: %w", err)
	}
	return true, s.images.room.count()
}

// isEmpty says whether nothing was pushed yet.
func isEmpty(dir string) bool {
	found, err := filepath.Glob(filepath.Join(dir, "docker/registry/v2/repositories/*"))
	return err == nil && len(found) == 0
}
