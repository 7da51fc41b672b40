package baseimage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
)

// recordFormat is the version of the records below; one of another version
// is as good as none.
const recordFormat = 1

// A sourceRecord says which image came out of a source file.
type sourceRecord struct {
	Format     int           `json:"format"`
	Image      digest.Digest `json:"image"`
	SourceSize int64         `json:"source_size"`
	Name       string        `json:"name"` // for people
}

// An imageRecord says how a cached image looked when it was made.
type imageRecord struct {
	Format  int   `json:"format"`
	Size    int64 `json:"size"`
	ModTime int64 `json:"mtime_ns"`
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
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime_ns"`
	Inode   uint64 `json:"inode"` // 0 where the system has none
}

func stateOf(info os.FileInfo) fileState {
	return fileState{Size: info.Size(), ModTime: info.ModTime().UnixNano(), Inode: inode(info)}
}

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
func (c *Cache) lookup(src *source) *Image {
	var r sourceRecord
	if !readRecord(c.record("source", src.digest.Encoded()), &r) || r.Format != recordFormat || r.Image.Validate() != nil {
		return nil
	}
	size, ok := c.intact(r.Image)
	if !ok {
		return nil
	}
	return &Image{
		Path: c.imagePath(r.Image), Digest: r.Image, Size: size,
		Source: src.name, SourceDigest: src.digest, SourceSize: r.SourceSize,
	}
}

func (c *Cache) imagePath(d digest.Digest) string {
	return filepath.Join(c.images(), d.Encoded()+".img")
}

// intact says whether the cache has an image as it was made, and its size.
func (c *Cache) intact(d digest.Digest) (int64, bool) {
	var r imageRecord
	if !readRecord(c.record("image", d.Encoded()), &r) || r.Format != recordFormat {
		return 0, false
	}
	info, err := os.Lstat(c.imagePath(d))
	ok := err == nil && info.Mode().IsRegular() && info.Size() == r.Size && info.ModTime().UnixNano() == r.ModTime
	return r.Size, ok
}
