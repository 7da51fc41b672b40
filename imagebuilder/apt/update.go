package apt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"hatchery/internal/download"
)

const (
	maxRelease   = 16 << 20 // Debian's have 0.2 MB, those of a whole archive's history 2
	maxSignature = 1 << 20
)

// Update fetches the Release files and package indexes of sources, verifies
// them, and gives the indexes in the order of the sources. With an offline
// client it gives what the cache has of them, verified in the same way.
//
// All sources are tried; the error joins those of all that fail. In it are
// [*SignatureError], [*ExpiredError], [*ReleaseError], [*DigestError] and
// [*OfflineError]; those of the user's own sources come within an
// [*InputError].
func Update(ctx context.Context, sources []Source, o Options) ([]Index, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Architecture == "" {
		return nil, errors.New("no architecture is given")
	}
	s, err := openStore(o.Cache)
	if err != nil {
		return nil, err
	}
	done, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()

	suites := group(sources)
	var all errgroup.Group
	slots := make(chan struct{}, atOnce)
	for _, u := range suites {
		u.store, u.options, u.slots = s, &o, slots
		all.Go(func() error {
			u.err = u.update(ctx)
			return nil
		})
	}
	_ = all.Wait()
	var indexes []Index
	var failed []error
	seen := map[string]string{}
	for _, u := range suites {
		for _, text := range u.warnings {
			if o.Warn != nil {
				o.Warn(text)
			}
		}
		if u.err != nil {
			failed = append(failed, u.fail())
			continue
		}
		for _, i := range u.indexes {
			if from, twice := seen[i.Name]; twice {
				if o.Warn != nil && from != i.From {
					o.Warn(fmt.Sprintf("%s: the index %s is that of %s, too", i.From, i.Name, from))
				}
				continue
			}
			seen[i.Name] = i.From
			indexes = append(indexes, i)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return indexes, nil
}

// A suite is what has one Release file: one source, or several that differ in
// nothing but their components and architectures.
type suite struct {
	sources []*Source // at least one
	store   *store
	options *Options
	slots   chan struct{} // of those that fetch something at this time

	indexes  []Index
	warnings []string
	err      error
}

func group(sources []Source) []*suite {
	var suites []*suite
	by := map[string]*suite{}
	for i := range sources {
		source := &sources[i]
		flag := func(b *bool) string {
			if b == nil {
				return ""
			}
			return fmt.Sprint(*b)
		}
		key := strings.Join([]string{source.URI, source.Suite, names(source.SignedBy), strings.Join(source.Fingerprints, " "),
			flag(source.CheckDate), flag(source.CheckValidUntil), source.ByHash, fmt.Sprint(source.Own)}, "\x00")
		if by[key] == nil {
			by[key] = &suite{}
			suites = append(suites, by[key])
		}
		by[key].sources = append(by[key].sources, source)
	}
	return suites
}

func (u *suite) source() *Source { return u.sources[0] }

func (u *suite) warn(format string, args ...any) {
	u.warnings = append(u.warnings, u.source().From+": "+fmt.Sprintf(format, args...))
}

// fail words the suite's error.
func (u *suite) fail() error {
	source := u.source()
	err := fmt.Errorf("%s: %s: %w", source.From, source, u.err)
	var input *InputError
	if !source.Own || errors.As(err, &input) {
		return err
	}
	// What a server does is not the user's mistake; where it is, and whose
	// keys count, is.
	var (
		signature *SignatureError
		wrong     *download.InputError
	)
	if errors.As(err, &signature) && (signature.Why == UnknownKey || signature.Why == Unsigned) || errors.As(err, &wrong) {
		return &InputError{err}
	}
	return err
}

// A release is a Release file that is believed.
type release struct {
	*releaseFile
	signed *signedRelease
	old    bool // it is the cache's
}

func (u *suite) update(ctx context.Context) error {
	kept, err := u.kept()
	if u.options.Client.Offline {
		if err != nil {
			return err
		}
		if kept == nil {
			return &InputError{&OfflineError{"what it published is"}}
		}
		return u.take(ctx, kept)
	}
	if err != nil {
		kept = nil // one that does not count any more, by its keys or its date
	}
	task := u.options.report().Begin("look up "+u.source().String(), -1)
	err = u.lookUp(ctx, kept)
	task.End(err)
	return err
}

// lookUp takes what the archive publishes now, or the kept Release file where
// that is newer.
func (u *suite) lookUp(ctx context.Context, kept *release) error {
	// A mirror that is brought up to date meanwhile has indexes of another
	// Release file for a moment; so its next one is tried once.
	for again := false; ; again = true {
		r, err := u.fetchRelease(ctx)
		if err != nil {
			return err
		}
		if kept != nil && kept.date.After(r.date) {
			u.warn("%s: the mirror's Release file is of %s, and an earlier one was of %s: that one is used, as apt does; the mirror is not up to date",
				u.source(), r.date.Format("2006-01-02 15:04"), kept.date.Format("2006-01-02 15:04"))
			r = kept
		}
		err = u.take(ctx, r)
		if err == nil && !r.old {
			return u.store.keepRelease(u.source(), r.signed)
		}
		if !stale(err) || again || r.old {
			return err
		}
		u.indexes, u.warnings = nil, nil
	}
}

// stale says whether an error may be that of a mirror which is brought up to
// date at this moment.
func stale(err error) bool {
	var wrong *DigestError
	return errors.As(err, &wrong)
}

// kept gives the cache's Release file, if there is one that counts.
func (u *suite) kept() (*release, error) {
	signed, err := u.store.keptRelease(u.source())
	if err != nil || signed == nil {
		return nil, err
	}
	r, err := u.believe(signed)
	if err != nil {
		return nil, err
	}
	used(u.store.releasePlace(u.source()))
	r.old = true
	return r, nil
}

// believe verifies a Release file's signature and date.
func (u *suite) believe(signed *signedRelease) (*release, error) {
	var text signedText
	var err error
	if signed.InRelease != nil {
		text, err = splitInRelease(signed.InRelease)
	} else {
		text, err = splitDetached(signed.Release, signed.Signature)
	}
	if err != nil {
		return nil, err
	}
	source, now := u.source(), u.options.now()
	if err := text.verify(source, now); err != nil {
		return nil, err
	}
	file, err := parseRelease(text.text)
	if err != nil {
		return nil, err
	}
	if err := file.timely(source, now); err != nil && !u.options.IgnoreExpiry {
		return nil, err
	}
	return &release{releaseFile: file, signed: signed}, nil
}

// fetchRelease fetches InRelease, or Release and Release.gpg where there is no
// such.
func (u *suite) fetchRelease(ctx context.Context) (*release, error) {
	folder := u.options.mirrored(u.source().folder())
	data, err := u.bytes(ctx, folder+"/InRelease", maxRelease)
	if err == nil {
		return u.believe(&signedRelease{InRelease: data})
	}
	if !missing(err) {
		return nil, fmt.Errorf("cannot fetch its InRelease file: %w", err)
	}
	text, err := u.bytes(ctx, folder+"/Release", maxRelease)
	if missing(err) {
		return nil, fmt.Errorf("the archive has no such suite: there is neither InRelease nor Release in %s: %w", download.Shown(folder), err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot fetch its Release file: %w", err)
	}
	signature, err := u.bytes(ctx, folder+"/Release.gpg", maxSignature)
	if missing(err) {
		return nil, &SignatureError{Why: Unsigned, Detail: "its Release file is not signed: there is neither InRelease nor Release.gpg", Remedy: "hatchery uses signed archives only"}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot fetch its Release.gpg: %w", err)
	}
	return u.believe(&signedRelease{Release: text, Signature: signature})
}

func (u *suite) bytes(ctx context.Context, url string, most int64) ([]byte, error) {
	if err := u.begin(ctx); err != nil {
		return nil, err
	}
	defer u.end()
	return u.options.Client.SignedBytes(ctx, url, most)
}

// begin waits until few enough others fetch something.
func (u *suite) begin(ctx context.Context) error {
	select {
	case u.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (u *suite) end() { <-u.slots }

// take brings the indexes that a Release file lists into the cache.
func (u *suite) take(ctx context.Context, r *release) error {
	source := u.source()
	if !source.flat() && !r.is(source.Suite) {
		u.warn("the suite %s calls itself %s (%s): is that the one that is meant?", source.Suite, r.suite, r.codename)
	}
	type job struct {
		source             *Source
		component, archive string
	}
	var jobs []job
	for _, s := range u.sources {
		for _, component := range components(s) {
			for _, a := range u.architectures(s, r) {
				jobs = append(jobs, job{s, component, a})
			}
		}
	}
	found := make([]*Index, len(jobs))
	absent := make([]bool, len(jobs))
	var all errgroup.Group
	for n, j := range jobs {
		all.Go(func() error {
			i, err := u.index(ctx, r, j.source, j.component, j.archive)
			found[n], absent[n] = i, err == nil && i == nil
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	for n, j := range jobs {
		switch {
		case found[n] != nil:
			u.indexes = append(u.indexes, *found[n])
		case j.archive == "all": // the packages for all may be in the other list
		case j.component != "" && len(r.components) > 0 && !slices.ContainsFunc(r.components, func(c string) bool { return path.Base(c) == path.Base(j.component) }):
			u.warn("%s has no component %s; it has %s", source, j.component, strings.Join(r.components, ", "))
		default:
			u.warn("%s has no packages for %s in %s", source, j.archive, cmp.Or(j.component, "it"))
		}
	}
	return nil
}

// components are those of a source; one without a name for a folder.
func components(s *Source) []string {
	if s.flat() {
		return []string{""}
	}
	return s.Components
}

// architectures are those whose indexes are wanted: the image's, and the one
// of the packages that are for all, where the Release file says that those
// have an index of their own.
func (u *suite) architectures(s *Source, r *release) []string {
	if s.flat() {
		return []string{u.options.Architecture}
	}
	var list []string
	if len(s.Architectures) == 0 || slices.Contains(s.Architectures, u.options.Architecture) {
		list = append(list, u.options.Architecture)
	}
	if slices.Contains(r.architectures, "all") && !r.noAll {
		list = append(list, "all")
	}
	return list
}

// index brings one index into the cache; nil where the Release file lists
// none.
func (u *suite) index(ctx context.Context, r *release, s *Source, component, architecture string) (*Index, error) {
	name := "Packages"
	if component != "" {
		name = component + "/binary-" + architecture + "/Packages"
	}
	i := &Index{
		From: s.From, URI: s.URI,
		Suite: s.Suite, Component: component, Architecture: architecture,
		Origin: r.origin, Label: r.label, ReleaseSuite: r.suite, Codename: r.codename, Version: r.version, Date: r.date,
		NotAutomatic: r.notAutomatic, ButAutomaticUpgrades: r.butAutomaticUpgrades,
		plain: r.files[name],
	}
	i.Name = download.Shown(s.URI) + " " + i.short()
	if i.plain.size > maxListed {
		return nil, &ReleaseError{fmt.Sprintf("it says that %s has %d bytes, which no index has", name, i.plain.size)}
	}
	i.Priority = pinned(i, u.options.Pins, r.priority())
	var failed error
	for _, ending := range endings {
		file, ok := r.files[name+ending]
		if !ok {
			continue
		}
		if file.size > maxListed {
			return nil, &ReleaseError{fmt.Sprintf("it says that %s has %d bytes, which no index has", name+ending, file.size)}
		}
		kept := ending
		if kept == "" {
			kept = plainEnding
		}
		i.Digest, i.Size = file.digest, file.size
		i.place = filepath.Join(u.store.lists, file.digest.Encoded()+kept)
		err := u.fetchIndex(ctx, r, i, name+ending)
		if err == nil {
			return i, nil
		}
		// Where the archive does not have it packed in this way (or the cache,
		// offline), another will do.
		var offline *download.OfflineError
		if !missing(err) && !errors.As(err, &offline) {
			return nil, indexError(u.options, s, name+ending, err)
		}
		if failed == nil {
			failed = indexError(u.options, s, name+ending, err)
		}
	}
	return nil, failed
}

// fetchIndex fetches an index by its digest where the archive has it so, else
// by its name.
func (u *suite) fetchIndex(ctx context.Context, r *release, i *Index, name string) error {
	if err := u.begin(ctx); err != nil {
		return err
	}
	defer u.end()
	source := u.source()
	folder := u.options.mirrored(source.folder())
	w := wanted{place: i.place, kind: "index", digest: i.Digest, size: i.Size,
		name: "index " + i.short(), url: folder + "/" + escape(name)}
	if source.ByHash != "no" && (r.byHash || source.ByHash == "force") {
		hashed := w
		hashed.url = folder + "/" + escape(path.Join(path.Dir(name), "by-hash", strings.ToUpper(i.Digest.Algorithm().String()), i.Digest.Encoded()))
		err := u.store.fetch(ctx, hashed, u.options.Client, u.options.report())
		if !missing(err) {
			return err
		}
	}
	return u.store.fetch(ctx, w, u.options.Client, u.options.report())
}

func indexError(o *Options, s *Source, name string, err error) error {
	url := download.Shown(o.mirrored(s.folder()) + "/" + name)
	var offline *download.OfflineError
	switch {
	case errors.As(err, &offline):
		return &InputError{&OfflineError{"the index " + name + " is"}}
	case missing(err):
		return &DigestError{What: "the index " + name, Err: fmt.Errorf("%s: the server answers that there is no such file", url),
			Remedy: "the mirror is being brought up to date, or is not kept well: try again in some minutes, or another mirror"}
	case other(err):
		var wrong *download.DigestError
		if errors.As(err, &wrong) {
			err = fmt.Errorf("the %s of %s is %s, and is to be %s", wrong.Want.Algorithm(), url, wrong.Got.Encoded(), wrong.Want.Encoded())
		} else {
			err = fmt.Errorf("%s: %w", url, err)
		}
		return &DigestError{What: "the index " + name, Err: err,
			Remedy: "the mirror is being brought up to date, or somebody on the way has changed it: try again in some minutes, or another mirror"}
	}
	return fmt.Errorf("cannot fetch the index %s: %w", url, err)
}
