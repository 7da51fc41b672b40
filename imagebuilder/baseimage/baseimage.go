// Package baseimage brings base images to where builds can use them: fetched
// from a file or a URL, verified, decompressed once, and kept in a cache as
// sparse read-only raw images named for the digest of their content.
//
// The cache is a folder of its owner's alone (0700):
//
//	images/<sha256 of the raw image>.img   the images, 0400
//	index/source-<sha256>.json             which image came out of a source
//	index/image-<sha256>.json              size, times and inode of a cached image
//	index/file-<sha256 of the path>.json   the digest of a local file, by its size, times and inode
//	index/download-<sha256>.json           what a download is of
//	downloads/<sha256>.part                what has come of a download so far
//	locks/source-*.lock, locks/image-*.lock  one build at a time prepares an image
//	locks/use-<sha256 of the raw image>.lock held by who reads an image; its time is that of the last use
//	layers/docker-<key>.layer              Docker layers, sealed, by the digest of what went into them
//	layers/docker-<key>.json               what is in one
//	layers/.docker-<key>.hatchery-tmp      one that is being made
//	locks/layer-<key>.lock                 one build at a time makes a layer
//	locks/layer-use-<key>.lock             held by who reads a layer; its time is that of the last use
//
// What package apt fetches lies in apt/ (.debs and indexes), and what package
// preload fetches in containers/; they say what is there. Here it is listed,
// verified and pruned:
//
//	apt/debs/<sha256>.deb                  packages
//	apt/lists/…                            indexes by digest, Release files
//	containers/blobs/sha256/<sha256>       manifests, configurations and layers of container images
//	containers/layers/<sha256>             what is known of such a layer
//	locks/apt-use.lock, locks/containers-use.lock  held by who works with any of these
//
// So an image that a build reads stays where it is, whatever [Cache.Prune] is
// told, until the build closes it or ends.
//
// A local file is hashed when it is first used. Later builds believe the
// recorded digest while path, size, inode, and the times of the last
// modification and of the last change are the same: that takes microseconds
// instead of seconds, at the price that a change which restores all of them
// goes unseen. Only a changed clock or a write below the file system restores
// the time of change; Windows tells neither that time nor the inode here, so
// there a change that restores size and modification time goes unseen. A
// cached image is believed in the same way; where only its inode or times
// differ (the cache was moved) it is hashed again, and where its content does
// it is made anew.
//
// A URL may carry a token in its query: no record, error or [Image] shows
// more of it than scheme, host and path.
package baseimage

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// A Ref names a base image as a cluster file does.
type Ref struct {
	// Source is the path of a file, or an https or http URL. What it is
	// (.img, .xz, .gz, .zst, .zip) is told by its content.
	Source string
	// SHA256 is the digest of the file that Source names, as it is: of the
	// .img.xz, not of the image in it. 64 hexadecimal digits, with or
	// without `sha256:` before them. A URL needs one; for a file it may be
	// empty.
	SHA256 string
	// Size is how many bytes that file has; 0 where that is unknown. A server
	// that says otherwise is not asked for more.
	Size int64
	// ImageSHA256 is the digest of the raw image in the file, and ImageSize
	// the bytes that it has, as far as they are known: what comes out of the
	// file is compared with them.
	ImageSHA256 string
	ImageSize   int64
}

// An Image is a base image in the cache, ready for use. It is in use until it
// is closed.
type Image struct {
	Path   string        // of the raw image: sparse and read-only
	Digest digest.Digest // of the raw image's content
	Size   int64         // of the raw image in bytes

	Source       string        // as the Ref had it; a URL without account, query and fragment
	SourceDigest digest.Digest // of the file that Source names
	SourceSize   int64         // in bytes

	use *flock.Flock
}

// Close says that the image is not needed any more. Until then no Prune of
// this or another process removes it.
func (i *Image) Close() error {
	if i.use == nil {
		return nil
	}
	return i.use.Close()
}

// An InputError is a mistake in what the user gave: a wrong digest, a file
// that is no image. Its message says what to do.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the error without the verdict.
func (e *InputError) Unwrap() error { return e.Err }

func inputErrorf(format string, args ...any) error {
	return &InputError{fmt.Errorf(format, args...)}
}

// A Cache holds base images. Several processes may use it at once.
type Cache struct {
	dir    string
	client *download.Client
	most   int64 // bytes that a download may have

	settled time.Duration // see the constant
}

// An Option changes how a cache works.
type Option func(*Cache)

// Offline makes a cache that fetches nothing: what it does not have is an
// [*OfflineError].
func Offline() Option { return func(c *Cache) { c.client.Offline = true } }

// An OfflineError says that an image is not in the cache and nothing is
// fetched. It comes within an [*InputError].
type OfflineError struct{ Name string }

func (e *OfflineError) Error() string {
	return "it is not in the cache, and nothing is fetched offline: build once with a network," +
		" or bring " + e.Name + " here by other means and put it there with `hatchery cache add`"
}

// Dir gives the folder of the cache that OpenCache opens, and makes nothing.
func Dir(dir string) (string, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("cannot tell where the cache is: %w", err)
		}
		dir = filepath.Join(user, "hatchery")
	}
	return filepath.Abs(dir)
}

// OpenCache opens the cache in dir and makes it where it is not there. An
// empty dir is hatchery's folder in the user's cache folder
// ($XDG_CACHE_HOME/hatchery on Linux).
func OpenCache(dir string, options ...Option) (*Cache, error) {
	dir, err := Dir(dir)
	if err != nil {
		return nil, err
	}
	c := &Cache{dir: dir, client: download.New(), most: maxDownload, settled: settled}
	for _, o := range options {
		o(c)
	}
	for _, sub := range []string{
		c.images(), c.index(), c.downloads(), c.locks(), c.Layers(),
		filepath.Dir(c.debs()), c.debs(), c.lists(), c.containers(), filepath.Dir(c.blobs()), c.blobs(), c.platforms(),
	} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the cache: %w", err)
		}
		// Images come to hold private things downstream, and a folder that
		// others may write to could be swapped under us.
		if err := os.Chmod(sub, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the cache: %w", err)
		}
	}
	return c, nil
}

// Dir is the cache's folder.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) images() string    { return filepath.Join(c.dir, "images") }
func (c *Cache) index() string     { return filepath.Join(c.dir, "index") }
func (c *Cache) downloads() string { return filepath.Join(c.dir, "downloads") }
func (c *Cache) locks() string     { return filepath.Join(c.dir, "locks") }

// Get gives the image that ref names, and prepares it first where the cache
// does not have it. An *[InputError] is a mistake in ref or in the file that
// it names.
func (c *Cache) Get(ctx context.Context, ref Ref, report progress.Reporter) (*Image, error) {
	image, err := c.get(ctx, ref, report)
	if err != nil {
		return nil, fmt.Errorf("base image %s: %w", publicName(ref.Source), err)
	}
	return image, nil
}

func (c *Cache) get(ctx context.Context, ref Ref, report progress.Reporter) (*Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	want, err := parseDigest(ref.SHA256)
	if err != nil {
		return nil, err
	}
	src := &source{cache: c, name: publicName(ref.Source), size: ref.Size, report: report}
	if src.image.digest, err = parseDigest(ref.ImageSHA256); err != nil {
		return nil, err
	}
	src.image.size = ref.ImageSize
	if isURL(ref.Source) {
		if want == "" {
			return nil, inputErrorf("a URL needs the sha256 of the file that it names: take it from the download page"+
				" (often a file %s.sha256 beside it), or run sha256sum on a copy that you trust", path.Base(src.name))
		}
		src.url, src.digest = ref.Source, want
	} else if err := src.identify(ctx, want); err != nil {
		return nil, err
	}

	if image, err := c.lookup(ctx, src); image != nil || err != nil {
		return image, err
	}
	unlock, err := c.lock(ctx, sourceLock(src.digest), "wait for another build that prepares "+src.base(), report)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if image, err := c.lookup(ctx, src); image != nil || err != nil {
		return image, err
	}
	return c.prepare(ctx, src)
}

// parseDigest reads the digest of a Ref; empty stays empty.
func parseDigest(s string) (digest.Digest, error) {
	if s == "" {
		return "", nil
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, strings.ToLower(strings.TrimPrefix(strings.TrimSpace(s), "sha256:")))
	if d.Validate() != nil {
		return "", inputErrorf("%q is no sha256: that is 64 hexadecimal digits", s)
	}
	return d, nil
}
