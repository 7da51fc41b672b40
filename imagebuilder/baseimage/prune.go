package baseimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// PruneOptions say what [Cache.Prune] removes.
type PruneOptions struct {
	// Unused is for how long a thing must not have been used.
	Unused time.Duration
	// Keep are digests, of images or of files that they come out of, of
	// packages, of container images' manifests, that are kept however old they
	// are.
	Keep []digest.Digest
	// DryRun removes nothing, and only tells what would be.
	DryRun bool
}

// A Pruned is what became of an entry of the cache.
type Pruned struct {
	Entry
	Removed bool   `json:"removed"` // or would be, in a dry run
	Why     string `json:"why"`     // it is kept: "in use", "used lately", "named"; else "unused", "left by a build that was killed"
}

// Prune removes what was not used for some time. What a build uses now stays,
// whatever the options say. Where an entry cannot be removed, the others are
// all the same, and the error tells.
func (c *Cache) Prune(o PruneOptions) ([]Pruned, error) {
	now := time.Now()
	var all []Pruned
	var failed []error
	keep := c.withContents(o.Keep)
	for _, s := range c.sections() {
		entries, err := sorted(s)
		if err != nil {
			return all, err
		}
		for _, e := range entries {
			p := Pruned{Entry: e, Removed: true, Why: "unused"}
			switch {
			case e.InUse:
				p.Removed, p.Why = false, "in use"
			case e.Kind == KindHalfMade:
				p.Why = "left by a build that was killed"
			case slices.ContainsFunc(keep, e.is):
				p.Removed, p.Why = false, "named"
			case o.Unused > 0 && now.Sub(e.LastUse) < o.Unused:
				p.Removed, p.Why = false, "used lately"
			}
			if p.Removed && !o.DryRun {
				p.Removed, err = s.remove(e)
				switch {
				case errors.Is(err, fs.ErrNotExist):
					continue // done, or moved to its place, by another process
				case err != nil:
					p.Why = "cannot be removed"
					failed = append(failed, fmt.Errorf("cannot remove %s: %w", e.Path, err))
				case !p.Removed:
					p.Why = "in use" // since a moment ago
				}
			}
			all = append(all, p)
		}
	}
	if !o.DryRun {
		c.forget()
	}
	return all, errors.Join(failed...)
}

// forget removes records that lead nowhere any more: of images, local files
// and layers of container images that are gone. They only ever spare work, so
// what cannot be removed stays.
func (c *Cache) forget() {
	known, _ := scan(filepath.Join(c.containers(), "layers"), "", "", "")
	for _, e := range known {
		if _, err := os.Lstat(filepath.Join(c.blobs(), e.Digest.Encoded())); errors.Is(err, fs.ErrNotExist) {
			os.Remove(e.Path)
		}
	}
	files, err := os.ReadDir(c.index())
	if err != nil {
		return
	}
	gone := func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	for _, f := range files {
		place := filepath.Join(c.index(), f.Name())
		kind, name, _ := strings.Cut(strings.TrimSuffix(f.Name(), ".json"), "-")
		useless := false
		switch kind {
		case "source":
			var r sourceRecord
			// The image is looked for after the record was read, and is there
			// before the record is written: so the record of one that is being
			// made is no such.
			useless = readRecord(place, &r) && r.Image.Validate() == nil && gone(c.imagePath(r.Image))
		case "download":
			d := digest.NewDigestFromEncoded(digest.SHA256, name)
			useless = d.Validate() == nil && gone(c.partialDownload(d))
		case "file":
			var r fileRecord
			useless = readRecord(place, &r) && r.Path != "" && gone(r.Path)
		default: // an image's own record, and what was computed of it (Image.Beside)
			d := digest.NewDigestFromEncoded(digest.SHA256, name[strings.LastIndexByte(name, '-')+1:])
			useless = d.Validate() == nil && gone(c.imagePath(d))
		}
		if useless {
			os.Remove(place)
		}
	}
}
