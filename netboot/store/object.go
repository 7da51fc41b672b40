package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// MaxObject is the largest image or layer that is taken, in bytes. Its zeros
// take no room, but the time to hash them.
const MaxObject = 256 << 30

// A Kind is what an object is.
type Kind string

const (
	Base  Kind = "base"  // a raw image
	Layer Kind = "layer" // a sealed layer's file
)

// An Object is a base or a sealed layer.
type Object struct {
	Kind   Kind          `json:"kind"`
	Digest digest.Digest `json:"digest"`
	// Size is the length of the file in bytes.
	Size int64 `json:"size"`
	// Stored is how much of it is not a hole, in bytes, as far as it is known.
	Stored int64 `json:"stored,omitempty"`
}

// String names the object for people.
func (o Object) String() string { return string(o.Kind) + " " + string(o.Digest) }

func (o Object) check() error {
	switch {
	case o.Kind != Base && o.Kind != Layer:
		return fmt.Errorf("%.40q is no kind of object", string(o.Kind))
	case o.Size <= 0 || o.Size > MaxObject || o.Size%512 != 0:
		return fmt.Errorf("impossible size of %s: %d bytes", o, o.Size)
	case o.Stored < 0 || o.Stored > o.Size+layer.BlockSize:
		return fmt.Errorf("impossible number of stored bytes of %s: %d of %d", o, o.Stored, o.Size)
	}
	return checkDigest(o.Digest)
}

// place is where the object belongs.
func (s *Store) place(kind Kind, d digest.Digest) string {
	if kind == Base {
		return s.basePath(d)
	}
	return s.layerPath(d)
}

// Has says whether the store has an object, and verified it when it came.
func (s *Store) Has(kind Kind, d digest.Digest) bool {
	if checkDigest(d) != nil {
		return false
	}
	info, err := os.Lstat(s.place(kind, d))
	return err == nil && info.Mode().IsRegular()
}

// An Import says what is known of a stream beforehand.
type Import struct {
	// Name is what it is called for people: a file's name.
	Name string
	// Digest is what it must have; "" where that is not known.
	Digest digest.Digest
	// Size is its length in bytes; 0 where that is not known.
	Size     int64
	Reporter progress.Reporter // may be nil
}

// AddBase takes a raw image from a stream, holes and runs of zeros as holes,
// and gives it the digest of its content. Errors match [ErrCorrupt] (it is not
// what the import says) or [syscall.ENOSPC].
func (s *Store) AddBase(ctx context.Context, r io.Reader, i Import) (digest.Digest, error) {
	return s.add(ctx, r, Base, i)
}

// AddLayer takes a sealed layer's file from a stream. The layer's parent must
// be in the store, and all of its data is verified. Errors match as those of
// AddBase, [ErrMissing] (there is no such parent) and those of [layer.Open].
func (s *Store) AddLayer(ctx context.Context, r io.Reader, i Import) (digest.Digest, error) {
	return s.add(ctx, r, Layer, i)
}

func (s *Store) add(ctx context.Context, r io.Reader, kind Kind, i Import) (_ digest.Digest, err error) {
	if i.Name == "" {
		i.Name = "the " + string(kind)
	}
	if i.Reporter == nil {
		i.Reporter = progress.Discard
	}
	if i.Digest != "" {
		if err := checkDigest(i.Digest); err != nil {
			return "", fmt.Errorf("cannot import %s: %w", i.Name, err)
		}
		if s.Has(kind, i.Digest) {
			return i.Digest, nil
		}
	}
	total := i.Size
	if total <= 0 {
		total = -1
	}
	task := i.Reporter.Begin("import "+i.Name, total)
	defer func() { task.End(err) }()
	d, err := s.addStream(ctx, r, kind, i, task)
	if err != nil {
		return "", fmt.Errorf("cannot import %s: %w", i.Name, err)
	}
	return d, nil
}

// chunk is how much is read, hashed and written at once, in bytes.
const chunk = 1 << 20

func (s *Store) addStream(ctx context.Context, r io.Reader, kind Kind, i Import, task progress.Task) (digest.Digest, error) {
	release, err := s.Hold(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	if err := s.room(0); err != nil {
		return "", err
	}
	f, err := atomicfile.Create(s.path("incoming", string(kind)), 0o600)
	if err != nil {
		return "", err
	}
	name := f.Name()
	defer f.Discard()
	w := s.newFiller(f.File, i.Name, kind == Base)
	if err := pump(ctx, r, func(p []byte) error {
		task.Add(int64(len(p)))
		if most := cmp.Or(max(i.Size, 0), MaxObject); w.end+int64(len(p)) > most {
			return &CorruptError{i.Name, most, "it goes on here, though it should end"}
		}
		return w.write(ctx, p, w.end)
	}); err != nil {
		return "", err
	}
	switch {
	case i.Size > 0 && w.end != i.Size:
		return "", &CorruptError{i.Name, w.end, fmt.Sprintf("it ends here, and not after %d bytes", i.Size)}
	case w.end == 0 || w.end%512 != 0:
		return "", &CorruptError{i.Name, w.end, "it ends here, which is no multiple of 512 bytes: this is no image of a disk"}
	}
	d, err := s.finish(ctx, w, Object{Kind: kind, Digest: i.Digest, Size: w.end}, name)
	if err != nil {
		return "", err
	}
	return d, nil
}

// pump reads r to its end. That is io.EOF alone: a decompressor's
// io.ErrUnexpectedEOF is half an image, which io.ReadFull would hide.
func pump(ctx context.Context, r io.Reader, do func([]byte) error) error {
	p := make([]byte, chunk)
	for {
		var err error
		n, idle := 0, 0
		for n < len(p) && err == nil {
			if err := ctx.Err(); err != nil {
				return err
			}
			var k int
			k, err = r.Read(p[n:])
			if n, idle = n+k, idle+1; k > 0 {
				idle = 0
			}
			if idle > 100 && err == nil {
				err = io.ErrNoProgress
			}
		}
		if err != nil && err != io.EOF {
			return err
		}
		if n > 0 {
			if err := do(p[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// finish verifies a file that arrived whole, and moves it to its place. An
// object without a digest gets the one that it has.
func (s *Store) finish(ctx context.Context, w *filler, o Object, path string) (digest.Digest, error) {
	if err := w.finish(ctx, o.Size); err != nil {
		return "", err
	}
	if o.Kind == Base {
		got := w.digest()
		if o.Digest != "" && got != o.Digest {
			return "", &CorruptError{w.name, -1, fmt.Sprintf("its content has the digest %s, not %s", got, o.Digest)}
		}
		o.Digest = got
	} else {
		got, err := s.verifyLayer(ctx, w.name, path, o.Digest)
		if err != nil {
			return "", err
		}
		o.Digest = got
	}
	place := s.place(o.Kind, o.Digest)
	if s.Has(o.Kind, o.Digest) {
		return o.Digest, nil // somebody was faster, or it was there
	}
	if err := w.f.Chmod(0o400); err != nil {
		return "", err
	}
	if err := w.f.Sync(); err != nil {
		return "", err
	}
	s.step("an object is durable")
	if err := os.Rename(path, place); err != nil {
		return "", err
	}
	s.step("an object is in its place")
	for _, dir := range []string{"incoming", "bases", "layers"} {
		if err := atomicfile.SyncDir(s.path(dir)); err != nil {
			return "", err
		}
	}
	return o.Digest, nil
}

// verifyLayer reads a layer's file in all, over its parent of the store.
func (s *Store) verifyLayer(ctx context.Context, name, path string, want digest.Digest) (digest.Digest, error) {
	h, err := layer.ReadHeader(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	switch {
	case !h.Sealed:
		return "", fmt.Errorf("%s: %w", name, layer.ErrNotSealed)
	case want != "" && h.Digest != want:
		return "", &CorruptError{name, layer.BlockSize, fmt.Sprintf("it is the layer %s", h.Digest)}
	}
	below, err := s.chainTo(h.Parent, name)
	if err != nil {
		return "", err
	}
	defer s.release(below)
	l, err := layer.Open(path, below.Parent)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	defer l.Abandon()
	if err := l.Verify(ctx); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return l.Digest(), nil
}
