package preload

import (
	"bytes"
	"context"
	"io"
)

// ReferenceName is the name in full of a reference.
func ReferenceName(text string) (string, error) {
	ref, err := parseReference(text)
	if err != nil {
		return "", err
	}
	return ref.name(), nil
}

// IsPath tells a file from a reference.
func IsPath(text string) bool { return isPath(text) }

// ParseManifest reads an index or a manifest.
func ParseManifest(content []byte) error {
	_, err := parseDocument(content)
	return err
}

// ParseConfig reads a configuration.
func ParseConfig(content []byte) error {
	_, err := parseConfig(content, 1)
	return err
}

// ReadLayer unpacks and flattens one layer as Fetch and Files do, and gives
// the number of files that are seen.
func ReadLayer(content []byte, most int64) (files int, err error) {
	text, _, err := decompress(bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	defer text.Close()
	var whole bytes.Buffer
	if _, _, err := checkTar(io.TeeReader(&limitedReader{r: text, left: most}, &whole), most); err != nil {
		return 0, err
	}
	tree := &tree{root: newFolder(0)}
	if err := eachEntry(&whole, tree.apply); err != nil {
		return 0, err
	}
	for _, paths := range tree.contents(1)[0] {
		files += len(paths)
	}
	return files, nil
}

// ReadBundle lists the images of a tar or folder.
func ReadBundle(ctx context.Context, place string, o Options, p Platform) error {
	o = o.filled()
	c, err := openCache(o)
	if err != nil {
		return err
	}
	_, err = resolveFile(ctx, place, p, o, c)
	return err
}

// ArchiveFilesOfAtMost is ArchiveFiles of images that may unpack to so many
// bytes.
func ArchiveFilesOfAtMost(ctx context.Context, r io.ReaderAt, size, most int64, visit func(image, path string, size int64, r io.ReaderAt) error) error {
	return archiveFiles(ctx, r, size, most, visit)
}
