package baseimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/progress"
)

func (c *Cache) debs() string       { return filepath.Join(c.dir, "apt", "debs") }
func (c *Cache) lists() string      { return filepath.Join(c.dir, "apt", "lists") }
func (c *Cache) containers() string { return filepath.Join(c.dir, "containers") }
func (c *Cache) platforms() string  { return filepath.Join(c.dir, "platforms") }
func (c *Cache) blobs() string      { return filepath.Join(c.containers(), "blobs", "sha256") }

// fetched is a section of what other packages fetch and verify: files that are
// named for a digest. Their time of modification is that of their last use.
type fetched struct {
	*Cache
	kind   string
	dir    string
	lock   string                                       // held shared by who works with any of them
	digest func(name string) (d digest.Digest, ok bool) // of a file by its name; false where it is none of this section
	names  func() map[digest.Digest]string              // what digests are of, for people; nil where nobody knows
}

func (f fetched) list() ([]Entry, error) {
	files, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	inUse := f.locked(f.lock)
	names := map[digest.Digest]string{}
	if f.names != nil && len(files) > 0 {
		names = f.names()
	}
	var entries []Entry
	for _, file := range files {
		d, ok := f.digest(file.Name())
		if !ok || d.Validate() != nil {
			continue
		}
		info, err := file.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just come to its place, or gone
		}
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		e := Entry{
			Kind: f.kind, Digest: d, Path: filepath.Join(f.dir, file.Name()), Size: info.Size(), OnDisk: onDisk(info),
			LastUse: info.ModTime(), InUse: inUse, Sources: []Source{},
		}
		if name := names[d]; name != "" {
			e.Sources = append(e.Sources, Source{Name: name, Digest: d})
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (f fetched) remove(e Entry) (bool, error) {
	return f.alone(f.lock, func() error { return os.Remove(e.Path) })
}

// byDigest takes names of 64 or 128 hexadecimal digits between a prefix and
// one of the suffixes.
func byDigest(prefix string, suffixes ...string) func(string) (digest.Digest, bool) {
	return func(name string) (digest.Digest, bool) {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			return "", false
		}
		for _, suffix := range suffixes {
			hex, ok := strings.CutSuffix(rest, suffix)
			switch {
			case !ok:
			case len(hex) == 64:
				return digest.NewDigestFromEncoded(digest.SHA256, hex), true
			case len(hex) == 128:
				return digest.NewDigestFromEncoded(digest.SHA512, hex), true
			}
		}
		return "", false
	}
}

// releaseSuffix ends the names of Release files, which are named for what they
// are of: their signature is looked at whenever they are used.
const releaseSuffix = ".release"

func (c *Cache) fetchedSections() []section {
	return []section{
		fetched{c, KindPackage, c.debs(), aptUse, byDigest("", ".deb"), c.packageNames},
		fetched{c, KindIndex, c.lists(), aptUse, byDigest("", releaseSuffix, ".xz", ".gz", ".zst", ".packages"), nil},
		fetched{c, KindContainer, c.blobs(), containersUse, byDigest("", ""), nil},
		fetched{c, KindPlatforms, c.platforms(), platformsUse, byDigest("", ".json"), nil},
		fetched{c, KindDownload, c.debs(), aptUse, byDigest("", ".part"), nil},
		fetched{c, KindDownload, c.lists(), aptUse, byDigest("", ".part"), nil},
		fetched{c, KindDownload, c.blobs(), containersUse, byDigest(".", atomicfile.Suffix), nil},
	}
}

// packageNames are the packages that the records of layers name.
func (c *Cache) packageNames() map[digest.Digest]string {
	names := map[digest.Digest]string{}
	layers, err := scan(c.Layers(), "", "docker-", ".json")
	if err != nil {
		return names
	}
	for _, e := range layers {
		r, _ := readLayerRecord(e.Path)
		for _, p := range r.Packages {
			names[digest.NewDigestFromEncoded(digest.SHA256, p.SHA256)] = shown(fmt.Sprintf("%s %s %s", p.Name, p.Version, p.Architecture))
		}
	}
	return names
}

// maxManifest is more than the manifest of any container image has, in bytes.
const maxManifest = 4 << 20

// withContents adds to digests of container images' manifests those of what
// the manifests are of.
func (c *Cache) withContents(keep []digest.Digest) []digest.Digest {
	all := slices.Clone(keep)
	for _, d := range keep {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			continue
		}
		place := filepath.Join(c.blobs(), d.Encoded())
		info, err := os.Lstat(place)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxManifest {
			continue
		}
		data, err := os.ReadFile(place)
		var manifest struct {
			Config struct{ Digest digest.Digest }
			Layers []struct{ Digest digest.Digest }
		}
		if err != nil || json.Unmarshal(data, &manifest) != nil {
			continue // no manifest, or none that is of any use
		}
		all = append(all, manifest.Config.Digest)
		for _, l := range manifest.Layers {
			all = append(all, l.Digest)
		}
	}
	return all
}

// verifyFetched says what is wrong with a file that is named for its digest.
func (c *Cache) verifyFetched(ctx context.Context, e Entry, report progress.Reporter) (problem string, err error) {
	f, info, err := openRegular(e.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err != nil {
		return "it cannot be read: " + err.Error(), nil
	}
	defer f.Close()
	task := report.Begin("verify "+e.name(), info.Size())
	got, err := hashFileBy(ctx, e.Digest.Algorithm(), f, task)
	task.End(err)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "it cannot be read: " + err.Error(), nil
	case got != e.Digest:
		return fmt.Sprintf("its content is not what it was: it has the %s %s", got.Algorithm(), got.Encoded()), nil
	}
	return "", nil
}
