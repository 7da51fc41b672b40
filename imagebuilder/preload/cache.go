package preload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/filelock"
	"hatchery/internal/progress"
)

// A cache keeps blobs by digest: manifests, configurations, layers. A blob
// lies under its digest only once it is whole and has that digest, so one that
// is there with the size that is wanted is the one that is wanted.
type cache struct {
	dir    string // …/containers
	report progress.Reporter
}

func openCache(o Options) (*cache, error) {
	c := &cache{filepath.Join(o.Cache, "containers"), o.Progress}
	for _, dir := range []string{c.blobs(), c.layers(), c.locks()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	c.sweep()
	return c, nil
}

// leftAfter is how long nobody wrote to what a killed build left half-made.
const leftAfter = 24 * time.Hour

// sweep removes what killed builds left half-made, but for downloads, which go
// on. Nothing depends on it, so what cannot be removed stays.
func (c *cache) sweep() {
	for _, dir := range []string{c.dir, c.blobs(), c.layers()} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			middle, ours := strings.CutPrefix(e.Name(), ".")
			middle, ours2 := strings.CutSuffix(middle, atomicfile.Suffix)
			if !ours || !ours2 || digest.NewDigestFromEncoded(digest.SHA256, middle).Validate() == nil {
				continue
			}
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftAfter {
				os.Remove(filepath.Join(dir, e.Name()))
			}
		}
	}
}

func (c *cache) blobs() string  { return filepath.Join(c.dir, "blobs", "sha256") }
func (c *cache) layers() string { return filepath.Join(c.dir, "layers") }
func (c *cache) locks() string  { return filepath.Join(c.dir, "locks") }

func (c *cache) place(d digest.Digest) string { return filepath.Join(c.blobs(), d.Encoded()) }

// partial is where a blob lies until it is whole. Who holds its lock owns it.
func (c *cache) partial(d digest.Digest) string {
	return filepath.Join(c.blobs(), "."+d.Encoded()+atomicfile.Suffix)
}

// has says whether a blob is there, with the size that it has to have; a size
// below 0 is any.
func (c *cache) has(d digest.Digest, size int64) bool {
	info, err := os.Stat(c.place(d))
	return err == nil && info.Mode().IsRegular() && (size < 0 || info.Size() == size)
}

// small gives a blob that is read as a whole, after a look at its digest: on a
// disk that lost some of it, a blob is as good as none.
func (c *cache) small(d digest.Digest, most int64) ([]byte, bool) {
	f, err := os.Open(c.place(d))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	return content, err == nil && int64(len(content)) <= most && digest.FromBytes(content) == d
}

// put keeps a small blob.
func (c *cache) put(content []byte) error {
	d := digest.FromBytes(content)
	if _, ok := c.small(d, int64(len(content))); ok {
		return nil
	}
	return atomicfile.Write(c.place(d), bytes.NewReader(content), 0o600)
}

// lock takes what guards a blob that is being made. There are 256 locks, for
// as many blobs as there may be: files that stay must not become too many.
func (c *cache) lock(ctx context.Context, d digest.Digest, what string) (unlock func(), err error) {
	return filelock.Lock(ctx, filepath.Join(c.locks(), d.Encoded()[:2]+".lock"), "wait for another build to fetch "+what, c.report)
}

// A part is a blob in the words of people: of which image, and what of it.
type part struct{ image, name string }

func (p part) String() string { return p.image + ", " + p.name }

// make puts a blob into its place: fill writes it, and sees to its digest. What
// an earlier run left of it is in the file that fill gets, and what this one
// leaves stays for the next, unless it is of no use.
func (c *cache) make(ctx context.Context, d digest.Digest, size int64, what part, fill func(f *os.File) error) error {
	if c.has(d, size) {
		return nil
	}
	unlock, err := c.lock(ctx, d, what.String())
	if err != nil {
		return err
	}
	defer unlock()
	if c.has(d, size) {
		return nil // another one made it while this one waited
	}
	f, err := os.OpenFile(c.partial(d), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	info, serr := f.Stat()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		if serr == nil && info.Size() == 0 {
			os.Remove(c.partial(d))
		}
		return err
	}
	if err := os.Rename(c.partial(d), c.place(d)); err != nil {
		return err
	}
	return atomicfile.SyncDir(c.blobs())
}

// copy keeps a blob that lies elsewhere on this machine.
func (c *cache) copy(ctx context.Context, d digest.Digest, size int64, what part, r io.Reader) error {
	return c.make(ctx, d, size, what, func(f *os.File) error {
		if err := f.Truncate(0); err != nil {
			return err
		}
		verifier := d.Verifier()
		n, err := io.Copy(io.MultiWriter(f, verifier), &cancelReader{ctx, io.LimitReader(r, size+1)})
		if err == nil && (n != size || !verifier.Verified()) {
			err = inputErrorf("its %s is damaged: what is there has %d bytes and another digest than %s", what.name, n, d)
		}
		if err != nil {
			return errors.Join(err, f.Truncate(0))
		}
		return nil
	})
}

// remove drops a blob that is not what it was.
func (c *cache) remove(d digest.Digest) { os.Remove(c.place(d)) }

// A blobWriter writes a blob whose digest shows at its end.
type blobWriter struct {
	cache *cache
	file  *os.File
	sum   digest.Digester
	size  int64
	head  []byte // the first bytes, to tell what it is
}

func (c *cache) begin() (*blobWriter, error) {
	f, err := os.CreateTemp(c.blobs(), ".new.*"+atomicfile.Suffix)
	if err != nil {
		return nil, err
	}
	return &blobWriter{cache: c, file: f, sum: digest.SHA256.Digester()}, nil
}

// Write implements [io.Writer].
func (w *blobWriter) Write(p []byte) (int, error) {
	if need := 8 - len(w.head); need > 0 {
		w.head = append(w.head, p[:min(need, len(p))]...)
	}
	n, err := w.file.Write(p)
	w.sum.Hash().Write(p[:n])
	w.size += int64(n)
	return n, err
}

// commit puts the blob into its place.
func (w *blobWriter) commit() (digest.Digest, error) {
	d := w.sum.Digest()
	err := w.file.Sync()
	if cerr := w.file.Close(); err == nil {
		err = cerr
	}
	if err == nil && !w.cache.has(d, w.size) {
		err = os.Rename(w.file.Name(), w.cache.place(d))
	}
	if err != nil {
		return "", err
	}
	return d, atomicfile.SyncDir(w.cache.blobs())
}

// discard drops what was not committed.
func (w *blobWriter) discard() {
	w.file.Close()
	os.Remove(w.file.Name())
}

// open gives a blob for reading.
func (c *cache) open(d digest.Digest) (*os.File, error) {
	f, err := os.Open(c.place(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no longer in the cache: run the same again", d)
	}
	return f, err
}

// A cancelReader ends with its context.
type cancelReader struct {
	ctx context.Context
	io.Reader
}

func (r *cancelReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
