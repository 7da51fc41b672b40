package apt

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"hatchery/internal/download"
)

// atOnce is how many files are fetched side by side: archives are many small
// files, and a mirror's answer takes longer than its sending.
const atOnce = 4

// A Deb is a package as an index, or cluster.lock, names it.
type Deb struct {
	Name, Version, Architecture string
	URL                         string
	SHA256                      string // 64 hexadecimal digits
	Size                        int64  // in bytes; 0 where it is unknown
}

func (d *Deb) String() string { return d.Name + " " + d.Version + " (" + d.Architecture + ")" }

// FetchDebs gives the files of packages in the cache, in their order, and
// fetches those that it does not have: several at once, going on from what an
// interrupted run left. Every one of them is verified by its digest, also
// those that were there. What it gives stays where it is as long as the caller
// holds the lock apt-use (baseimage's Cache.UsePackages) from before on.
//
// A [*GoneError] is a package that the archive does not have any more, a
// [*DigestError] one that it has another of.
func FetchDebs(ctx context.Context, debs []Deb, o Options) ([]string, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s, err := openStore(o.Cache)
	if err != nil {
		return nil, err
	}
	release, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	defer release()

	places := make([]string, len(debs))
	files := make([]wanted, len(debs))
	for i, d := range debs {
		sum := digest.NewDigestFromEncoded(digest.SHA256, strings.ToLower(d.SHA256))
		if sum.Validate() != nil {
			return nil, fmt.Errorf("package %s: %q is no sha256", &d, d.SHA256)
		}
		places[i] = filepath.Join(s.debs, sum.Encoded()+".deb")
		files[i] = wanted{place: places[i], name: path.Base(download.Shown(d.URL)), kind: "package",
			url: strings.ReplaceAll(o.mirrored(d.URL), "+", "%2B"), digest: sum, size: d.Size}
	}
	if o.Client.Offline {
		return places, s.offline(ctx, debs, files)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, w := range files {
		group.Go(func() error {
			if err := s.fetch(ctx, w, o.Client, o.report()); err != nil {
				return debError(&debs[i], err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return places, nil
}

// offline says which packages are not in the cache.
func (s *store) offline(ctx context.Context, debs []Deb, files []wanted) error {
	var absent []string
	for i, w := range files {
		if intact(ctx, w.place, w.digest, w.size) {
			used(w.place)
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		absent = append(absent, debs[i].String())
	}
	switch len(absent) {
	case 0:
		return nil
	case 1:
		return &InputError{&OfflineError{"the package " + absent[0] + " is"}}
	case 2, 3:
		return &InputError{&OfflineError{"the packages " + strings.Join(absent, ", ") + " are"}}
	}
	return &InputError{&OfflineError{fmt.Sprintf("%d packages (%s, %s, …) are", len(absent), absent[0], absent[1])}}
}

func debError(d *Deb, err error) error {
	shown := download.Shown(d.URL)
	switch {
	case missing(err):
		return &GoneError{Name: d.Name, Version: d.Version, URL: shown, Err: err}
	case other(err):
		var wrong *download.DigestError
		if errors.As(err, &wrong) {
			err = fmt.Errorf("its sha256 is %s, and is to be %s", wrong.Got.Encoded(), wrong.Want.Encoded())
		}
		return &DigestError{What: "the package " + d.String() + " at " + shown, Err: err,
			Remedy: "the mirror, or somebody on the way, has changed it: try another mirror; `hatchery lock` takes what the archive has now"}
	}
	return fmt.Errorf("cannot fetch the package %s from %s: %w", d, shown, err)
}
