package baseimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"hatchery/internal/progress"
)

// VerifyOptions say what [Cache.Verify] does.
type VerifyOptions struct {
	Remove   bool              // what is damaged, unless it is in use
	Progress progress.Reporter // nil means nobody is told
}

// A Finding is what Verify found out about an entry of the cache.
type Finding struct {
	Entry
	Problem string `json:"problem,omitempty"` // "" where its content is what it was
	Removed bool   `json:"removed,omitempty"`
}

// Verify reads what is in the cache and compares it with its digest. Builds do
// not read an image or a layer for that: they believe an image whose size,
// times and inode are those that it was made with. Downloads that are not
// whole are compared when they are, Release files have a signature that is
// looked at whenever they are used, and what a registry said of an image is
// named for the image.
func (c *Cache) Verify(ctx context.Context, o VerifyOptions) ([]Finding, error) {
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	var findings []Finding
	for _, s := range c.sections() {
		entries, err := sorted(s)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Kind == KindPlatforms || e.Kind == KindDownload && (!e.Whole || e.InUse) || e.Kind == KindHalfMade || e.Kind == KindIndex && strings.HasSuffix(e.Path, releaseSuffix) {
				continue
			}
			f := Finding{Entry: e}
			f.Problem, err = c.verify(ctx, e, o.Progress)
			if errors.Is(err, os.ErrNotExist) {
				continue // it was removed meanwhile
			}
			if err != nil {
				return findings, err
			}
			if f.Problem != "" && o.Remove {
				f.Removed, err = s.remove(e)
				if errors.Is(err, os.ErrNotExist) {
					f.Removed, err = true, nil
				}
				if err != nil {
					return findings, fmt.Errorf("cannot remove %s: %w", e.Path, err)
				}
				f.InUse = !f.Removed
			}
			findings = append(findings, f)
		}
	}
	return findings, nil
}

// verify says what is wrong with an entry.
func (c *Cache) verify(ctx context.Context, e Entry, report progress.Reporter) (problem string, err error) {
	switch e.Kind {
	case KindLayer:
		return c.verifyLayer(ctx, e, report)
	case KindPackage, KindIndex, KindContainer:
		return c.verifyFetched(ctx, e, report)
	}
	if e.Kind == KindImage {
		_, recorded := c.lastUse(e.Digest)
		use, err := c.use(ctx, e.Digest)
		if err != nil {
			return "", err
		}
		defer use.Close()
		if !recorded {
			os.Chtimes(use.Path(), e.LastUse, e.LastUse) // to look at it is no use of it
		}
	}
	f, before, err := openRegular(e.Path)
	if errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err != nil {
		return "it cannot be read: " + err.Error(), nil
	}
	defer f.Close()
	task := report.Begin("verify "+e.name(), before.Size())
	got, err := hashFile(ctx, f, task)
	task.End(err)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "it cannot be read: " + err.Error(), nil
	case got != e.Digest:
		return fmt.Sprintf("its content is not what it was: it has the sha256 %s", got.Encoded()), nil
	}
	if after, err := f.Stat(); e.Kind == KindImage && err == nil && stateOf(after) == stateOf(before) {
		_ = c.recordImage(e.Digest, stateOf(before)) // where that fails, the next build hashes it again
	}
	return "", nil
}

// name is short, for people.
func (e Entry) name() string {
	for _, s := range e.Sources {
		return base(s.Name)
	}
	return e.Digest.Encoded()[:12]
}
