package apt

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// A wanted file is one that its digest names.
type wanted struct {
	place  string // where it is to lie
	name   string // for people: "index bookworm/main armhf"
	kind   string // "package"
	url    string
	digest digest.Digest
	size   int64 // 0: unknown
}

// fetch brings a file to its place, unless it is there. What came of it before
// is gone on from. The error is the download's own.
func (s *store) fetch(ctx context.Context, w wanted, client *download.Client, report progress.Reporter) error {
	unlock, err := s.lock(ctx, base(w.place), w.name, report)
	if err != nil {
		return err
	}
	defer unlock()
	if intact(ctx, w.place, w.digest, w.size) {
		used(w.place)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if client.Offline {
		return &download.OfflineError{}
	}
	part, err := os.OpenFile(filepath.Join(filepath.Dir(w.place), base(w.place)+partEnding), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, _, err = client.File(ctx, w.url, w.digest, part, report, download.Options{
		Name: w.name, Kind: w.kind, Size: w.size, Most: maxListed, Remedy: "move the cache to a larger disk (XDG_CACHE_HOME)",
	})
	if err != nil {
		info, serr := part.Stat()
		part.Close()
		if serr == nil && info.Size() == 0 {
			os.Remove(part.Name())
		}
		return err
	}
	return settle(part, w.place)
}

// missing says whether a server has no such file.
func missing(err error) bool {
	var e *download.NotFoundError
	return errors.As(err, &e)
}

// other says whether a server has another file.
func other(err error) bool {
	var e *download.InputError
	return errors.As(err, &e) && !missing(err)
}
