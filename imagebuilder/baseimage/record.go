package baseimage

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
)

// recordFormat is the version of the records below; one of another version
// is as good as none.
const recordFormat = 2

// A sourceRecord says which image came out of a source file.
type sourceRecord struct {
	Format     int           `json:"format"`
	Image      digest.Digest `json:"image"`
	SourceSize int64         `json:"source_size"`
	Name       string        `json:"name"` // for people
}

// A downloadRecord says what a download is of.
type downloadRecord struct {
	Format int    `json:"format"`
	Name   string `json:"name"`           // for people
	Size   int64  `json:"size,omitempty"` // of the whole, where it is known
	Whole  bool   `json:"whole"`          // it is here and has the right digest
}

// An imageRecord says how a cached image looked when it was made.
type imageRecord struct {
	Format int       `json:"format"`
	State  fileState `json:"state"`
}

// A fileRecord says which digest a local file had, and how to see that it is
// still the same.
type fileRecord struct {
	Format  int           `json:"format"`
	Path    string        `json:"path"`
	State   fileState     `json:"state"`
	Digest  digest.Digest `json:"digest"`
	Checked int64         `json:"checked_ns"`
}

// A fileState is what changes when a file does.
type fileState struct {
	Size       int64  `json:"size"`
	ModTime    int64  `json:"mtime_ns"`
	ChangeTime int64  `json:"ctime_ns"` // no program can set it back; 0 where the system has none
	Inode      uint64 `json:"inode"`    // 0 where the system has none
}

func stateOf(info os.FileInfo) fileState {
	return fileState{Size: info.Size(), ModTime: info.ModTime().UnixNano(), ChangeTime: changeTime(info), Inode: inode(info)}
}

// lastChange is when the file changed last, as far as its times tell.
func (s fileState) lastChange() int64 { return max(s.ModTime, s.ChangeTime) }

func (c *Cache) record(kind, name string) string {
	return filepath.Join(c.index(), kind+"-"+name+".json")
}

// readRecord reads a record; false where there is none that can be used: it
// only ever spares work, so a broken one is none.
func readRecord(place string, into any) bool {
	data, err := os.ReadFile(place)
	return err == nil && json.Unmarshal(data, into) == nil
}

func writeRecord(place string, r any) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	return atomicfile.WriteBytes(place, append(data, '\n'), 0o600)
}

// lookup gives the cached image for src; nil where there is none, or it is
// not as it was left.
func (c *Cache) lookup(ctx context.Context, src *source) (*Image, error) {
	var r sourceRecord
	if !readRecord(c.record("source", src.digest.Encoded()), &r) || r.Format != recordFormat || r.Image.Validate() != nil {
		// The image that is to come out of it may have come out of another
		// file: an .img of a friend's, or the same packed anew.
		if src.image.digest == "" || src.size == 0 {
			return nil, nil
		}
		r = sourceRecord{Image: src.image.digest, SourceSize: src.size}
	}
	use, err := c.use(ctx, r.Image)
	if err != nil {
		return nil, err
	}
	size, ok := c.intact(ctx, r.Image, src)
	if ok {
		err = src.checkImage(unpacked{r.Image, size})
	}
	if !ok || err != nil {
		use.Close()
		return nil, err
	}
	c.used(r.Image)
	return &Image{
		Path: c.imagePath(r.Image), Digest: r.Image, Size: size,
		Source: src.name, SourceDigest: src.digest, SourceSize: r.SourceSize, use: use,
	}, nil
}

// partialDownload is where a source comes to lie while it is fetched. Who holds
// the source's lock owns this file.
func (c *Cache) partialDownload(d digest.Digest) string {
	return filepath.Join(c.downloads(), d.Encoded()+".part")
}

func (c *Cache) imagePath(d digest.Digest) string {
	return filepath.Join(c.images(), d.Encoded()+".img")
}

// intact says whether the cache has an image as it was made, and its size.
// One whose times or inode are others is hashed: it may have been moved to
// another disk with the whole cache, and is cheaper to read than to fetch.
func (c *Cache) intact(ctx context.Context, d digest.Digest, src *source) (int64, bool) {
	var r imageRecord
	place := c.imagePath(d)
	if !readRecord(c.record("image", d.Encoded()), &r) || r.Format != recordFormat {
		return 0, false
	}
	info, err := os.Lstat(place)
	if err != nil || !info.Mode().IsRegular() || info.Size() != r.State.Size {
		return 0, false
	}
	if stateOf(info) == r.State {
		return r.State.Size, true
	}
	f, info, err := openRegular(place)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	task := src.report.Begin("verify the cached image of "+src.base(), info.Size())
	got, err := hashFile(ctx, f, task)
	task.End(err)
	if err != nil || got != d {
		return 0, false
	}
	// The state is that from before the hash, so a change meanwhile shows.
	// Where the record cannot be written, the next run hashes again.
	_ = c.recordImage(d, stateOf(info))
	return info.Size(), true
}

func (c *Cache) recordImage(d digest.Digest, state fileState) error {
	return writeRecord(c.record("image", d.Encoded()), imageRecord{Format: recordFormat, State: state})
}
