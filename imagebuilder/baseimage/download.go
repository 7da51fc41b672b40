package baseimage

import (
	"context"
	"errors"
	"os"

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
	f, err := os.OpenFile(c.partialDownload(src.digest), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	_, _, err = c.client.File(ctx, src.url, src.digest, f, src.report, download.Options{
		Name: src.base(), Kind: "base image", Most: c.most, Size: src.size,
		Remedy: "move the cache to a larger disk (XDG_CACHE_HOME)",
	})
	if err == nil {
		return f, nil
	}
	f.Close()
	var (
		other *download.DigestError
		input *download.InputError
	)
	switch {
	case errors.As(err, &other):
		return nil, wrongDigest(other.Want, other.Got, other.Head)
	case errors.As(err, &input):
		return nil, &InputError{err}
	}
	return nil, err
}
