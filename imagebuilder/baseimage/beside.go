package baseimage

import (
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Beside is where something that was computed of the image can be kept until
// the image leaves the cache. The kind says what it is, in words with dashes between
// them. Whoever reads it must see by itself that it is whole and of this image.
func (i *Image) Beside(kind string) string { return Beside(i.Path, i.Digest, kind) }

// Beside is [Image.Beside] of the cached image of a digest that lies at path.
func Beside(path string, d digest.Digest, kind string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(path)), "index", kind+"-"+d.Encoded())
}
