package usbboottest

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"

	"hatchery/netboot/usbboot"
)

// Files are boot files in memory, by name.
type Files map[string][]byte

// Open is usbboot.Files'.
func (f Files) Open(name string) (*io.SectionReader, error) {
	content, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NewSectionReader(bytes.NewReader(content), 0, int64(len(content))), nil
}

// Partition makes boot files of the sizes given, filled with bytes that are the same
// for the same seed, and with the texts given.
func Partition(seed uint64, sizes map[string]int, texts map[string]string) Files {
	files := Files{}
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		content := make([]byte, sizes[name])
		random.Read(content)
		files[name] = content
	}
	for name, text := range texts {
		files[name] = []byte(text)
	}
	return files
}

var _ usbboot.Files = Files(nil)
