package baseimage

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
)

// What an [Entry] may be.
const (
	KindImage     = "image"     // a raw image, ready for use
	KindLayer     = "layer"     // a Docker layer, sealed
	KindPackage   = "package"   // a .deb
	KindIndex     = "index"     // a Debian archive's list of packages, or its signed Release file
	KindContainer = "container" // a part of a container image
	KindPlatforms = "platforms" // what a registry said of an image: what processors it is for
	KindDownload  = "download"  // what has come of a file so far
	KindHalfMade  = "half-made" // an image or layer that is being made, or was when its build was killed
)

// An Entry is a thing in the cache.
type Entry struct {
	Kind   string        `json:"kind"`
	Digest digest.Digest `json:"digest"` // of the content; of a layer, a Release file and what was said of an image the key; otherwise of the file that it is to come out of
	Path   string        `json:"path"`
	Size   int64         `json:"size"`    // bytes that the file has
	OnDisk int64         `json:"on_disk"` // bytes that it takes there: less where it has holes

	// Total is how many bytes a download will have: 0 where that is unknown.
	// One that is Whole has the right digest, and waits to be unpacked.
	Total int64 `json:"total,omitempty"`
	Whole bool  `json:"whole,omitempty"`

	LastUse time.Time `json:"last_use"` // or the time of the last change, where no use is on record
	InUse   bool      `json:"in_use"`   // by a build or the like, now
	Sources []Source  `json:"sources"`  // that are known to lead to it
}

// A Source is a file that an image came out of.
type Source struct {
	Name   string        `json:"name"` // as the cluster file had it; a URL as far as it may be shown
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size,omitempty"` // in bytes; 0 where it is unknown
}

// is says whether an entry goes by a digest: its own, or that of a source.
func (e Entry) is(d digest.Digest) bool {
	return e.Digest == d || slices.ContainsFunc(e.Sources, func(s Source) bool { return s.Digest == d })
}

// A section of the cache holds things of one kind.
type section interface {
	list() ([]Entry, error)
	// remove removes an entry, unless somebody uses it. The error is
	// fs.ErrNotExist where it is not there any more.
	remove(Entry) (removed bool, err error)
}

func (c *Cache) sections() []section {
	own := []section{images{c}, downloads{c}, halfMade{c}, dockerLayers{c}, halfLayers{c}}
	return append(own, c.fetchedSections()...)
}

// List gives what is in the cache, by section, what was used last first.
func (c *Cache) List() ([]Entry, error) {
	var all []Entry
	for _, s := range c.sections() {
		entries, err := sorted(s)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// sorted lists a section, what was used last first.
func sorted(s section) ([]Entry, error) {
	entries, err := s.list()
	if err != nil {
		return nil, fmt.Errorf("cannot list the cache: %w", err)
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(b.LastUse.Compare(a.LastUse), cmp.Compare(a.Digest, b.Digest))
	})
	return entries, nil
}

// scan gives an entry for each file of a folder that is named for a digest,
// between the prefix and the suffix.
func scan(dir, kind, prefix, suffix string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, f := range files {
		name, ok := strings.CutPrefix(f.Name(), prefix)
		name, ok2 := strings.CutSuffix(name, suffix)
		d := digest.NewDigestFromEncoded(digest.SHA256, name)
		if !ok || !ok2 || d.Validate() != nil {
			continue
		}
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // a build has just moved it to its place
		}
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			entries = append(entries, Entry{Kind: kind, Digest: d, Path: filepath.Join(dir, f.Name()), Size: info.Size(), OnDisk: onDisk(info), LastUse: info.ModTime()})
		}
	}
	return entries, nil
}

// sources gives what the records say led to each image.
func (c *Cache) sources() (map[digest.Digest][]Source, error) {
	records, err := scan(c.index(), "", "source-", ".json")
	if err != nil {
		return nil, err
	}
	byImage := map[digest.Digest][]Source{}
	for _, e := range records {
		var r sourceRecord
		if readRecord(e.Path, &r) && r.Format == recordFormat {
			byImage[r.Image] = append(byImage[r.Image], Source{Name: r.Name, Digest: e.Digest, Size: r.SourceSize})
		}
	}
	return byImage, nil
}

type images struct{ *Cache }

func (c images) list() ([]Entry, error) {
	entries, err := scan(c.images(), KindImage, "", ".img")
	if err != nil {
		return nil, err
	}
	sources, err := c.sources()
	if err != nil {
		return nil, err
	}
	for i := range entries {
		e := &entries[i]
		e.Sources = append([]Source{}, sources[e.Digest]...)
		if last, ok := c.lastUse(e.Digest); ok {
			e.LastUse = last
			e.InUse = c.locked(useLock(e.Digest))
		}
	}
	return entries, nil
}

func (c images) remove(e Entry) (bool, error) {
	return c.alone(useLock(e.Digest), func() error {
		// Without its record an image is not believed: so a kill in between
		// leaves one that is hashed before it is used.
		os.Remove(c.record("image", e.Digest.Encoded()))
		if err := os.Remove(e.Path); err != nil {
			return err
		}
		for _, s := range e.Sources {
			os.Remove(c.record("source", s.Digest.Encoded()))
		}
		return nil
	})
}

type downloads struct{ *Cache }

func (c downloads) list() ([]Entry, error) {
	entries, err := scan(c.downloads(), KindDownload, "", ".part")
	for i := range entries {
		e := &entries[i]
		e.InUse = c.locked(sourceLock(e.Digest))
		e.Sources = []Source{}
		var r downloadRecord
		if readRecord(c.record("download", e.Digest.Encoded()), &r) && r.Format == recordFormat {
			e.Sources = append(e.Sources, Source{Name: r.Name, Digest: e.Digest, Size: r.Size})
			if e.Total, e.Whole = r.Size, r.Whole; e.Whole {
				e.Total = e.Size
			}
		}
	}
	return entries, err
}

func (c downloads) remove(e Entry) (bool, error) {
	return c.alone(sourceLock(e.Digest), func() error { return c.forgetDownload(e.Digest) })
}

type halfMade struct{ *Cache }

func (c halfMade) list() ([]Entry, error) {
	entries, err := scan(c.images(), KindHalfMade, ".", atomicfile.Suffix)
	for i := range entries {
		entries[i].Sources = []Source{}
		entries[i].InUse = c.locked(sourceLock(entries[i].Digest))
	}
	return entries, err
}

func (c halfMade) remove(e Entry) (bool, error) {
	return c.alone(sourceLock(e.Digest), func() error { return os.Remove(e.Path) })
}

// locked says whether somebody has a lock now.
func (c *Cache) locked(name string) bool {
	l := c.lockFile(name)
	if _, err := os.Stat(l.Path()); err != nil {
		return false // and do not make it: its time would be that of a use
	}
	free, err := l.TryLock()
	l.Close()
	return err == nil && !free
}

// alone does something that only who has a lock alone may do; false where
// somebody else has it.
func (c *Cache) alone(name string, do func() error) (bool, error) {
	l := c.lockFile(name)
	defer l.Close()
	free, err := l.TryLock()
	if err != nil || !free {
		return false, err
	}
	if err := do(); err != nil {
		return false, err
	}
	return true, nil
}
