package baseimage

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
)

// maxDownload is more than any published image has, compressed or not.
const maxDownload = 32 << 30

// Client gives what the cache downloads with, for what belongs to base images
// but lies in no cache: the list of them, the digests beside them.
func (c *Cache) Client() *download.Client { return c.client }

// download fetches a URL and gives the verified file. The caller holds the
// source's lock.
func (c *Cache) download(ctx context.Context, src *source) (*os.File, error) {
	flags := os.O_RDWR
	if !c.client.Offline {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(c.partialDownload(src.digest), flags, 0o600)
	if c.client.Offline && errors.Is(err, fs.ErrNotExist) {
		return nil, &InputError{&OfflineError{src.base()}}
	}
	if err != nil {
		return nil, err
	}
	c.recordDownload(src, false)
	_, _, err = c.client.File(ctx, src.url, src.digest, f, src.report, download.Options{
		Name: src.base(), Kind: "base image", Size: src.size, Most: c.most,
		Remedy: "move the cache to a larger disk (XDG_CACHE_HOME)",
	})
	if err == nil {
		c.recordDownload(src, true)
		return f, nil
	}
	info, serr := f.Stat()
	f.Close()
	if serr == nil && info.Size() == 0 {
		c.forgetDownload(src.digest)
	}
	var (
		other   *download.DigestError
		input   *download.InputError
		offline *download.OfflineError
	)
	switch {
	case errors.As(err, &other):
		return nil, wrongDigest(other.Want, other.Got, other.Head)
	case errors.As(err, &offline):
		return nil, &InputError{&OfflineError{src.base()}}
	case errors.As(err, &input):
		return nil, &InputError{err}
	}
	return nil, err
}

// recordDownload is for [Cache.List] alone: a download needs no record.
func (c *Cache) recordDownload(src *source, whole bool) {
	r := downloadRecord{Format: recordFormat, Name: src.name, Size: src.size, Whole: whole}
	_ = writeRecord(c.record("download", src.digest.Encoded()), r)
}

// forgetDownload removes what came of a download. The caller holds the
// source's lock.
func (c *Cache) forgetDownload(d digest.Digest) error {
	os.Remove(c.record("download", d.Encoded()))
	return os.Remove(c.partialDownload(d))
}
