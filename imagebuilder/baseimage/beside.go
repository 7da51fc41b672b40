package baseimage

import "path/filepath"

// Beside is where something that was computed of the image can be kept until
// the image leaves the cache. The kind says what it is, in a word. Whoever
// reads it must see by itself that it is whole and of this image.
func (i *Image) Beside(kind string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(i.Path)), "index", kind+"-"+i.Digest.Encoded())
}
