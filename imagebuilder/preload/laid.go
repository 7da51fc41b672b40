package preload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// ArchiveFiles visits the files of all images in an archive that [Archive]
// wrote, which waits in an image for its first boot, or that `docker save`
// wrote: those that a container of each sees, as [Image.Files] does. An image
// goes by the first of its names.
//
// Nothing in the archive is believed: what is no such archive, is damaged, or
// unpacks to more than a card has room for is an [*InputError].
func ArchiveFiles(ctx context.Context, archive io.ReaderAt, size int64, visit func(image, path string, size int64, r io.ReaderAt) error) error {
	return archiveFiles(ctx, archive, size, defaultMostUnpacked, visit)
}

func archiveFiles(ctx context.Context, archive io.ReaderAt, size, most int64, visit func(image, path string, size int64, r io.ReaderAt) error) error {
	members, err := listTar(io.NewSectionReader(archive, 0, size))
	if err != nil {
		return err
	}
	open := func(name string) (io.ReadCloser, error) {
		m, err := members.find(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, inputErrorf("it has no %q", oneLine(name))
		}
		if err != nil {
			return nil, err
		}
		return io.NopCloser(io.NewSectionReader(archive, m.offset, m.size)), nil
	}
	list, err := open("manifest.json")
	if err != nil {
		return err
	}
	content, err := io.ReadAll(io.LimitReader(list, maxManifest+1))
	if err != nil {
		return inputErrorf("its manifest.json cannot be read: %w", err)
	}
	if len(content) > maxManifest {
		return inputErrorf("its manifest.json has more than %d bytes", maxManifest)
	}
	var entries archiveList
	if err := json.Unmarshal(content, &entries); err != nil {
		return inputErrorf("its manifest.json is not one: %w", err)
	}
	left := most // of all images together: a small archive can name a layer many times
	for _, e := range entries {
		name := "an image without a name"
		if len(e.RepoTags) > 0 {
			name = e.RepoTags[0]
		}
		if len(e.Layers) > maxLayers {
			return inputErrorf("%s in it has %d layers: Docker takes %d", oneLine(name), len(e.Layers), maxLayers)
		}
		var layers []stacked
		for i, of := range e.Layers {
			l := stacked{layerName(i, len(e.Layers)), func() (io.ReadCloser, error) { return open(of) }}
			if left, err = l.check(ctx, left); errors.Is(err, errTooLarge) {
				err = inputErrorf("its images unpack to more than %d bytes", most)
			}
			if err != nil {
				return fmt.Errorf("%s in it: its %s: %w", oneLine(name), l.name, err)
			}
			layers = append(layers, l)
		}
		err := visitFiles(ctx, layers, "", func(path string, size int64, r io.ReaderAt) error { return visit(name, path, size, r) })
		if err != nil {
			return fmt.Errorf("%s in it: %w", oneLine(name), err)
		}
	}
	return nil
}

// check reads the layer to its end. Of the bytes that it may have, it gives
// those that are left.
func (l *stacked) check(ctx context.Context, most int64) (left int64, err error) {
	text, err := l.text(ctx)
	if err != nil {
		return 0, err
	}
	defer text.Close()
	in := &limitedReader{text, most}
	_, logical, err := checkTar(in, most)
	if err != nil {
		return 0, err
	}
	return min(in.left, most-logical), nil
}
