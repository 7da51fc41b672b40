package imagebuilder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/progress"
	"hatchery/internal/sparse"
	"hatchery/internal/spec"
)

// An outDir is the output folder. Besides what the user came for it holds the
// layers that the images are made of (flash, boot and netboot read them), and
// a record of what each image holds, so that the next build rewrites only
// what changed.
//
//	out/p1.img                    the image
//	out/p1.img.bmap               which of its blocks are in use
//	out/SHA256SUMS                the digests of what lies in the folder
//	out/layers/p1-<digest>.layer  what p1 changes of the base, or of the Docker layer over it
//	out/layers/docker-<digest>.layer  that layer
//	out/layers/p1.json            what out/p1.img holds
//	out/layers/p1.checkpoints     where its SHA-256 can be taken up, when it changes
type outDir struct {
	path string
	lock *flock.Flock
}

// openOutDir makes the folder where it is missing, waits for a build that
// writes there now, and removes what killed builds left behind. A folder with
// other things in it, or of another cluster, is an [*InputError]: nothing of
// somebody else's is overwritten or closed to others.
func openOutDir(ctx context.Context, path string, c *spec.Cluster, reporter progress.Reporter) (*outDir, error) {
	o := &outDir{path: path}
	if err := o.check(c); err != nil {
		return nil, err
	}
	// 0700: images and layers hold private keys.
	for _, dir := range []string{path, o.layers()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the output folder: %w", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot close the output folder to others: %w", err)
		}
	}
	o.lock = flock.New(o.lockPath(), flock.SetPermissions(0o600))
	held, err := o.lock.TryLock()
	if err == nil && !held {
		task := reporter.Begin("wait for another build that writes to "+path, -1)
		_, err = o.lock.TryLockContext(ctx, 200*time.Millisecond)
		task.End(err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the output folder %s: %w", path, err)
	}
	if err := o.prepare(c); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// check refuses a folder that is not for outputs.
func (o *outDir) check(c *spec.Cluster) error {
	abs, err := filepath.Abs(o.path)
	if err != nil {
		return err
	}
	identity := filepath.Join(c.Dir(), identityName)
	if within, err := filepath.Rel(identity, abs); err == nil && filepath.IsLocal(within) {
		return &InputError{fmt.Errorf("%s holds the cluster's keys: name another output folder", identity)}
	}
	if _, err := os.Lstat(o.lockPath()); err == nil {
		return o.checkCluster(c)
	}
	entries, err := os.ReadDir(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the output folder: %w", err)
	}
	if len(entries) == 1 && entries[0].Name() == filepath.Base(o.layers()) {
		// A build was killed as it began.
		if inside, err := os.ReadDir(o.layers()); err == nil && len(inside) == 0 {
			return nil
		}
	}
	if len(entries) > 0 {
		return &InputError{fmt.Errorf("%s holds other things (%s): name a new or empty folder with -o, since it will be closed to others", o.path, entries[0].Name())}
	}
	return nil
}

// checkCluster refuses a folder that holds another cluster's images.
func (o *outDir) checkCluster(c *spec.Cluster) error {
	earlier, err := readManifest(o.path)
	if err != nil {
		return err
	}
	if earlier != nil && earlier.Cluster != c.Name {
		return &InputError{fmt.Errorf("%s holds the images of the cluster %s, which those of %s would overwrite: name another folder with -o", o.path, earlier.Cluster, c.Name)}
	}
	return nil
}

// prepare cleans the folder, which is locked now.
func (o *outDir) prepare(c *spec.Cluster) error {
	if err := o.checkCluster(c); err != nil {
		return err
	}
	for _, dir := range []string{o.path, o.layers()} {
		if err := atomicfile.RemoveLeftovers(dir); err != nil {
			return fmt.Errorf("cannot clean the output folder: %w", err)
		}
	}
	// Images do not belong into version control: they hold private keys.
	ignore := filepath.Join(o.path, ".gitignore")
	if _, err := os.Lstat(ignore); errors.Is(err, fs.ErrNotExist) {
		return atomicfile.WriteBytes(ignore, []byte("# Images and layers hold private keys.\n*\n"), 0o600)
	}
	return nil
}

// strangers are the files of slots that the cluster has no more: images, what
// is left of them, layers and records. All of them hold, or tell of, keys.
func (o *outDir) strangers(targets []spec.Target) ([]string, error) {
	known := map[string]bool{}
	for _, t := range targets {
		known[t.Name] = true
	}
	var found []string
	for _, dir := range []string{o.path, o.layers()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := strings.FieldsFunc(e.Name(), func(r rune) bool { return r == '.' || r == '-' })
			if len(name) == 0 || known[name[0]] {
				continue
			}
			if _, err := clusterctrl.ParseSlot(name[0]); err == nil {
				found = append(found, filepath.Join(dir, e.Name()))
			}
		}
	}
	return found, nil
}

func (o *outDir) close() { o.lock.Unlock() }

func (o *outDir) lockPath() string           { return filepath.Join(o.layers(), "lock") }
func (o *outDir) layers() string             { return filepath.Join(o.path, "layers") }
func (o *outDir) image(target string) string { return filepath.Join(o.path, target+".img") }

// halfway is where an image stands while it is being changed in place, so
// that nothing partial is ever found under its own name.
func (o *outDir) halfway(target string) string {
	return filepath.Join(o.path, "."+target+".img.half-updated")
}

func (o *outDir) layer(target string, d digest.Digest) string {
	return filepath.Join(o.layers(), target+"-"+d.Encoded()[:16]+".layer")
}

// An imageRecord says what an image file holds.
type imageRecord struct {
	Base digest.Digest `json:"base"`
	Size int64         `json:"size"` // bytes
	// Layers are the layers of which the image may hold blocks: one for a
	// whole image; two or more for one whose update was interrupted.
	Layers []digest.Digest `json:"layers"`
	// ModTime (nanoseconds since 1970) tells an image that somebody else wrote
	// to: booted, mounted, patched by hand. Such a one is written afresh.
	ModTime int64 `json:"mod_time,omitempty"`
	// SHA256 is the digest of the whole file, once it was computed, and Map that
	// of the block map beside it, once that was written.
	SHA256 digest.Digest `json:"sha256,omitempty"`
	Map    digest.Digest `json:"map,omitempty"`
}

func (o *outDir) recordPath(target string) string {
	return filepath.Join(o.layers(), target+".json")
}

// record reads what the target's image holds; nil where that is not known.
func (o *outDir) record(target string) *imageRecord {
	data, err := os.ReadFile(o.recordPath(target))
	if err != nil {
		return nil
	}
	var r imageRecord
	if json.Unmarshal(data, &r) != nil {
		return nil // not known: the image is written afresh, which is always right
	}
	for _, d := range append([]digest.Digest{r.Base}, r.Layers...) {
		if d.Validate() != nil {
			return nil
		}
	}
	for _, d := range []digest.Digest{r.SHA256, r.Map} {
		if d != "" && d.Validate() != nil {
			return nil
		}
	}
	return &r
}

func (o *outDir) setRecord(target string, r *imageRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(o.recordPath(target), data, 0o600)
}

func (o *outDir) removeRecord(target string) error {
	err := os.Remove(o.recordPath(target))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = atomicfile.SyncDir(o.layers())
	}
	return err
}

// pruneLayers removes the target's layers that neither its newest layer nor
// its image's record names, and with which its card was not flashed.
func (o *outDir) pruneLayers(target string, newest digest.Digest, flashed map[string]bool) error {
	keep := maps.Clone(flashed)
	keep[o.layer(target, newest)] = true
	if r := o.record(target); r != nil {
		for _, d := range r.Layers {
			keep[o.layer(target, d)] = true
		}
	}
	return o.removeLayers(target, keep)
}

// removeLayers removes the layers of a name, but for those to keep.
func (o *outDir) removeLayers(name string, keep map[string]bool) error {
	entries, err := os.ReadDir(o.layers())
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(o.layers(), e.Name())
		if strings.HasPrefix(e.Name(), name+"-") && strings.HasSuffix(e.Name(), ".layer") && !keep[path] {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// placeDockerLayers puts the Docker layers that the targets lie on beside
// their own, so that the folder has all that its images are made of: by
// another name for the file in the cache where the file system can, else as
// a copy.
func (o *outDir) placeDockerLayers(ctx context.Context, g *ground) error {
	for _, f := range g.made {
		if f.docker == nil {
			continue
		}
		place := o.layer(dockerName, f.docker.Digest())
		if sameFile(f.docker.Path(), place) {
			continue
		}
		if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Link(f.docker.Path(), place); err == nil {
			continue
		}
		if err := copyLayer(ctx, f.docker.Path(), place); err != nil {
			return fmt.Errorf("cannot copy the Docker layer into the output folder: %w", err)
		}
	}
	return atomicfile.SyncDir(o.layers())
}

// sameFile says whether one file is the other, or a copy that nobody has
// written to since.
func sameFile(a, b string) bool {
	left, err := os.Stat(a)
	if err != nil {
		return false
	}
	right, err := os.Stat(b)
	return err == nil && (os.SameFile(left, right) || left.Size() == right.Size() && left.ModTime().Equal(right.ModTime()))
}

// copyLayer copies a sealed layer, by sharing its blocks where the file
// system can.
func copyLayer(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := atomicfile.Create(to, 0o400)
	if err != nil {
		return err
	}
	defer out.Discard()
	if err := sparse.Clone(out.File, in); errors.Is(err, sparse.ErrUnsupported) {
		if _, err := io.Copy(out.File, in); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Chtimes(out.Name(), time.Time{}, info.ModTime()); err != nil {
		return err
	}
	return out.Commit()
}

// pruneDockerLayers removes Docker layers on which no target of the manifest
// lies any more, and no card's.
func (o *outDir) pruneDockerLayers(m *Manifest, flashed map[string]bool) error {
	keep := maps.Clone(flashed)
	for _, t := range m.Targets {
		for _, l := range t.Layers {
			keep[filepath.Join(o.path, filepath.FromSlash(l.File))] = true
		}
	}
	return o.removeLayers(dockerName, keep)
}
