package preload

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Archive writes images as one docker-archive: manifest.json with what each is
// called and made of, then configurations and layers, those that images share
// once. Layers stay compressed as registries have them, which every `docker
// load` from 20.10 on reads; it tells by their first bytes. Equal images, in
// equal order, and an equal epoch give equal bytes.
//
// The format is that of `docker save` (Docker Image Specification v1.2,
// "Combined Image JSON + Filesystem Changeset Format").
func Archive(w io.Writer, images []*Image, epoch time.Time) error {
	members := archiveMembers(images)
	t := tar.NewWriter(w)
	for _, m := range members {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o444, Size: m.size, ModTime: epoch.UTC().Truncate(time.Second), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("cannot write the archive of container images: %w", err)
		}
		if err := m.write(t); err != nil {
			return fmt.Errorf("cannot write the archive of container images: %w", err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("cannot write the archive of container images: %w", err)
	}
	return nil
}

// Size is how many bytes [Archive] writes.
func Size(images []*Image) int64 {
	members := archiveMembers(images)
	const block = 512
	total := int64(2 * block)
	for _, m := range members {
		total += block + (m.size+block-1)/block*block
	}
	return total
}

// A member is a file of the archive.
type member struct {
	name    string
	size    int64
	content []byte // else it is a blob
	blob    digest.Digest
	cache   *cache
}

func (m *member) write(w io.Writer) error {
	if m.content != nil {
		_, err := w.Write(m.content)
		return err
	}
	f, err := m.cache.open(m.blob)
	if err != nil {
		return err
	}
	defer f.Close()
	verifier := m.blob.Verifier()
	n, err := io.Copy(io.MultiWriter(w, verifier), io.LimitReader(f, m.size))
	if err != nil {
		return err
	}
	if n != m.size || !verifier.Verified() {
		f.Close() // Windows removes no file that is open
		m.cache.remove(m.blob)
		return fmt.Errorf("%s is damaged in the cache: it was removed, so run the same again", m.blob)
	}
	return nil
}

func archiveMembers(images []*Image) []member {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	entries := []entry{}
	var blobs []member
	seen := map[string]bool{}
	add := func(m member) string {
		if !seen[m.name] {
			seen[m.name] = true
			blobs = append(blobs, m)
		}
		return m.name
	}
	byID := map[digest.Digest]int{}
	for _, image := range images {
		// An image is there once, with all its names.
		if i, ok := byID[image.ID]; ok {
			entries[i].RepoTags = append(entries[i].RepoTags, image.Names...)
			continue
		}
		byID[image.ID] = len(entries)
		e := entry{RepoTags: append([]string{}, image.Names...)}
		e.Config = add(member{name: image.ID.Encoded() + ".json", size: image.config, blob: image.ID, cache: image.cache})
		for _, l := range image.layers {
			name := l.Stored.Encoded() + ".tar"
			if l.Compressed {
				name += ".gz"
			}
			e.Layers = append(e.Layers, add(member{name: name, size: l.StoredSize, blob: l.Stored, cache: image.cache}))
		}
		entries = append(entries, e)
	}
	content, _ := json.Marshal(entries) // texts alone: it cannot fail
	content = append(content, '\n')
	return append([]member{{name: "manifest.json", size: int64(len(content)), content: content}}, blobs...)
}
