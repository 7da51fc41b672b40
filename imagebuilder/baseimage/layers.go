package baseimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/filelock"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// Docker layers lie in the cache under the key of what went into them, 64
// hexadecimal digits. Who makes or opens one does it in this order, so that
// two builds do not make the same one, and none is removed under its user:
//
//	done := LockLayer(key)
//	release := UseLayer(key)          until the layer is closed
//	if there is none at LayerPath(key), with a LayerRecord(key):
//	    make it at PartialLayer(key), rename it, write LayerRecord(key)
//	done()
//
// What else lies beside the layer, under its name with another ending, was
// computed of it and goes with it.

// LayerPath is where the Docker layer with a key lies.
func (c *Cache) LayerPath(key string) string {
	return filepath.Join(c.Layers(), "docker-"+key+".layer")
}

// LayerRecord is where the record of what is in that layer lies. Of it only
// `digest` (the layer's), `packages` (name, version, architecture, automatic,
// sha256) and `containers` (image) are read here, for the listing and to
// verify it.
func (c *Cache) LayerRecord(key string) string {
	return filepath.Join(c.Layers(), "docker-"+key+".json")
}

// PartialLayer is where that layer is written until it is whole. Who has
// [Cache.LockLayer] owns the file, and begins by removing what a killed build
// left there.
func (c *Cache) PartialLayer(key string) string {
	return filepath.Join(c.Layers(), ".docker-"+key+atomicfile.Suffix)
}

// Layers is the folder that Docker layers lie in.
func (c *Cache) Layers() string { return filepath.Join(c.dir, "layers") }

func layerLock(key string) string { return "layer-" + key }

func layerUseLock(key string) string { return "layer-use-" + key }

// UseLayer takes a layer, whether it is there yet or not: until release is
// called, nobody removes it. It counts as a use.
func (c *Cache) UseLayer(ctx context.Context, key string) (release func(), err error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	release, err = c.share(ctx, layerUseLock(key))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	_ = os.Chtimes(c.lockFile(layerUseLock(key)).Path(), now, now) // it only ever delays the removal
	return release, nil
}

// LockLayer gives the right to make a layer, to one at a time: others wait,
// and find it made. Locks end with their process.
func (c *Cache) LockLayer(ctx context.Context, key string, report progress.Reporter) (release func(), err error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return c.lock(ctx, layerLock(key), "wait for another build that makes the Docker layer", report)
}

func checkKey(key string) error {
	if digest.NewDigestFromEncoded(digest.SHA256, key).Validate() != nil {
		return fmt.Errorf("%q is no key of a layer: 64 hexadecimal digits", key)
	}
	return nil
}

// aptUse and containersUse are the locks of all that was fetched of Debian
// archives, and of registries.
const (
	aptUse        = "apt-use"
	containersUse = "containers-use"
	// Nobody holds it: what was said of an image is read and written in one go.
	platformsUse = "platforms-use"
)

// UsePackages keeps the packages and indexes of Debian archives in the cache
// until release is called.
func (c *Cache) UsePackages(ctx context.Context) (release func(), err error) {
	return c.share(ctx, aptUse)
}

// UseContainers keeps what was fetched of registries in the cache until
// release is called.
func (c *Cache) UseContainers(ctx context.Context) (release func(), err error) {
	return c.share(ctx, containersUse)
}

// share takes a lock that others may have too, but for those who remove what
// it guards. Where no lock can be had, as on some network file systems, there
// is no harm: nobody gets the one that is needed to remove it either.
func (c *Cache) share(ctx context.Context, name string) (release func(), err error) {
	l, err := filelock.Share(ctx, c.lockPath(name))
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
}

// A layerRecord is what is read of the record beside a layer.
type layerRecord struct {
	Digest   digest.Digest `json:"digest"`
	Packages []struct {
		Name         string `json:"name"`
		Version      string `json:"version"`
		Architecture string `json:"architecture"`
		Automatic    bool   `json:"automatic"`
		SHA256       string `json:"sha256"`
	} `json:"packages"`
	Containers []struct {
		Image  string        `json:"image"`
		Digest digest.Digest `json:"digest"`
	} `json:"containers"`
}

// maxLayerRecord is more than the record of any layer has, in bytes: it lists
// the files of the packages.
const maxLayerRecord = 64 << 20

func readLayerRecord(place string) (r layerRecord, ok bool) {
	f, err := os.Open(place)
	if err != nil {
		return r, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLayerRecord))
	return r, err == nil && json.Unmarshal(data, &r) == nil
}

// name is what the layer was made for, for people.
func (r layerRecord) name() string {
	var names []string
	for _, p := range r.Packages {
		if !p.Automatic {
			names = append(names, p.Name+" "+p.Version)
		}
	}
	for _, i := range r.Containers {
		names = append(names, i.Image)
	}
	return shown(strings.Join(names, ", "))
}

// shown is a text of a record as a terminal may have it.
func shown(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// dockerLayers are the layers that are whole.
type dockerLayers struct{ *Cache }

func (c dockerLayers) list() ([]Entry, error) {
	entries, err := scan(c.Layers(), KindLayer, "docker-", ".layer")
	for i := range entries {
		e := &entries[i]
		key := e.Digest.Encoded()
		e.Sources = []Source{}
		if r, ok := readLayerRecord(c.LayerRecord(key)); ok {
			e.Sources = append(e.Sources, Source{Name: r.name(), Digest: e.Digest})
		}
		if info, err := os.Stat(c.lockFile(layerUseLock(key)).Path()); err == nil {
			e.LastUse = info.ModTime()
			e.InUse = c.locked(layerUseLock(key))
		}
	}
	return entries, err
}

func (c dockerLayers) remove(e Entry) (bool, error) {
	key := e.Digest.Encoded()
	return c.alone(layerUseLock(key), func() error {
		if err := os.Remove(e.Path); err != nil {
			return err
		}
		return c.removeBeside(key)
	})
}

// removeBeside removes the record of a layer and what was computed of it.
func (c *Cache) removeBeside(key string) error {
	files, err := os.ReadDir(c.Layers())
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "docker-"+key+".") {
			continue
		}
		if err := os.Remove(filepath.Join(c.Layers(), f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// halfLayers are the layers that are being made, or were when their build was
// killed.
type halfLayers struct{ *Cache }

func (c halfLayers) list() ([]Entry, error) {
	entries, err := scan(c.Layers(), KindHalfMade, ".docker-", atomicfile.Suffix)
	for i := range entries {
		entries[i].Sources = []Source{}
		entries[i].InUse = c.locked(layerLock(entries[i].Digest.Encoded()))
	}
	return entries, err
}

func (c halfLayers) remove(e Entry) (bool, error) {
	return c.alone(layerLock(e.Digest.Encoded()), func() error { return os.Remove(e.Path) })
}

// A stranger stands for the parent of a layer that is only verified: the
// layer's digest says which parent that is, and needs nothing of its content.
type stranger struct {
	digest digest.Digest
	size   int64
}

func (p stranger) Digest() digest.Digest { return p.digest }
func (p stranger) Size() int64           { return p.size }
func (p stranger) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("only the layer itself is read")
}

// verifyLayer says what is wrong with a Docker layer.
func (c *Cache) verifyLayer(ctx context.Context, e Entry, report progress.Reporter) (problem string, err error) {
	release, err := c.share(ctx, layerUseLock(e.Digest.Encoded()))
	if err != nil {
		return "", err
	}
	defer release()
	head, err := layer.ReadHeader(e.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err != nil {
		return err.Error(), nil
	}
	if !head.Sealed {
		return "it was never finished", nil
	}
	if r, ok := readLayerRecord(c.LayerRecord(e.Digest.Encoded())); !ok || r.Digest != head.Digest {
		return "its record is missing, or of another layer", nil
	}
	l, err := layer.Open(e.Path, stranger{head.Parent, head.ParentSize})
	if err != nil {
		return err.Error(), nil
	}
	defer l.Close()
	task := report.Begin("verify "+e.name(), -1)
	err = l.Verify(ctx)
	task.End(err)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return err.Error(), nil
	}
	return "", nil
}
