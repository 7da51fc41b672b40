package apt

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/cachefile"
	"hatchery/internal/filelock"
	"hatchery/internal/progress"
)

// Where things lie below the cache's folder. The package's description tells.
const (
	listsFolder = "apt/lists"
	debsFolder  = "apt/debs"
	locksFolder = "locks"
	useLock     = "apt-use"
	partEnding  = ".part"
)

// A store is the part of the cache that this package has.
type store struct{ lists, debs, locks string }

func openStore(dir string) (*store, error) {
	s := &store{
		lists: filepath.Join(dir, filepath.FromSlash(listsFolder)),
		debs:  filepath.Join(dir, filepath.FromSlash(debsFolder)),
		locks: filepath.Join(dir, locksFolder),
	}
	for _, sub := range []string{s.lists, s.debs, s.locks} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the cache: %w", err)
		}
	}
	return s, nil
}

// use keeps what the cache has from being removed by `hatchery cache prune` of
// this or another process, until release is called. Where no lock can be had,
// as on some network file systems, nobody gets the one that removing needs
// either.
func (s *store) use(ctx context.Context) (release func(), err error) {
	l, err := filelock.Share(ctx, s.lockPath(useLock))
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
}

func (s *store) lockPath(name string) string { return filepath.Join(s.locks, name+".lock") }

// lock lets one process at a time fetch a thing. Locks end with their process,
// so a killed build blocks nobody.
func (s *store) lock(ctx context.Context, name, what string, report progress.Reporter) (unlock func(), err error) {
	return filelock.Lock(ctx, s.lockPath("apt-"+name), "wait for another build that fetches "+what, report)
}

// used says that a file is in use now. It only ever delays its removal, so one
// whose time cannot be set is no failure.
func used(place string) {
	now := time.Now()
	_ = os.Chtimes(place, now, now)
}

// A signedRelease is a Release file as it came: an InRelease file, or a Release
// file and its signature.
type signedRelease struct {
	InRelease []byte `json:"in_release,omitempty"`
	Release   []byte `json:"release,omitempty"`
	Signature []byte `json:"signature,omitempty"`
}

const (
	releaseKind = "apt release 1"
	maxKept     = 2 * (maxRelease + maxSignature) // in JSON, base64
)

func releaseKey(s *Source) string { return s.URI + " " + s.Suite }

func (s *store) releasePlace(source *Source) string {
	return filepath.Join(s.lists, fmt.Sprintf("%x.release", sha256.Sum256([]byte(releaseKey(source)))))
}

// keptRelease gives the Release file that was believed last; nil where there
// is none.
func (s *store) keptRelease(source *Source) (*signedRelease, error) {
	place := s.releasePlace(source)
	data, err := cachefile.Read(place, releaseKind, releaseKey(source), maxKept)
	if errors.Is(err, cachefile.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r signedRelease
	if json.Unmarshal(data, &r) != nil {
		return nil, nil
	}
	return &r, nil
}

func (s *store) keepRelease(source *Source, r *signedRelease) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return cachefile.Write(s.releasePlace(source), releaseKind, releaseKey(source), data)
}

// intact says whether a file is there, and is the one that its digest names.
func intact(ctx context.Context, place string, want digest.Digest, size int64) bool {
	info, err := os.Lstat(place)
	if err != nil || !info.Mode().IsRegular() || size > 0 && info.Size() != size {
		return false
	}
	f, err := os.Open(place)
	if err != nil {
		return false
	}
	defer f.Close()
	h := want.Algorithm().Hash()
	buf := make([]byte, 128<<10)
	for {
		if ctx.Err() != nil {
			return false
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return digest.NewDigest(want.Algorithm(), h) == want
		}
		if err != nil {
			return false
		}
	}
}

// settle moves what was fetched, and is verified, to its place. What a killed
// process leaves under the old name can be written on with.
func settle(part *os.File, place string) error {
	err := part.Sync()
	if cerr := part.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		// A wrong one that stands there may be read-only, which Windows minds.
		if rerr := os.Remove(place); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = rerr
		}
	}
	if err == nil {
		err = os.Rename(part.Name(), place)
	}
	if err == nil {
		err = os.Chmod(place, 0o400)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	return nil
}

// base is a file's name without its ending.
func base(place string) string {
	name := filepath.Base(place)
	return strings.TrimSuffix(name, filepath.Ext(name))
}
