package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/oslist"
	"hatchery/internal/download"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
)

// pinOptions say how pinBases works.
type pinOptions struct {
	Cache    *baseimage.Cache // whose client fetches
	Offline  bool             // nothing is fetched
	DryRun   bool             // cluster.lock is not written
	Progress progress.Reporter
}

// pinBases says which file each base image is, exactly. A file is what it is,
// and a URL with a digest too. What a name stands for, and which file a URL
// without a digest leads to, is as cluster.lock says. What it does not say
// yet is looked up, once: then it is locked, and stays the same for every
// build on any day and workstation until `hatchery lock` moves on.
func pinBases(ctx context.Context, c *spec.Cluster, bases []spec.Base, o pinOptions) (map[spec.Base]baseimage.Ref, error) {
	if err := fitsModels(c, bases); err != nil {
		return nil, err
	}
	lock, err := readLock(c.Dir())
	if err != nil {
		return nil, err
	}
	r := &resolver{source: c.OSList, client: o.Cache.Client(), offline: o.Offline, report: reporter(o.Progress)}
	fresh := map[string]clusterlock.Image{}
	for _, b := range bases {
		if !isPinned(b) {
			continue
		}
		key := clusterlock.Key(b.Image)
		_, locked := lock.Images[key]
		_, done := fresh[key]
		if locked || done {
			continue
		}
		if fresh[key], err = r.resolve(ctx, b); err != nil {
			return nil, err
		}
	}
	if len(fresh) > 0 && !o.DryRun {
		lock, err = clusterlock.Update(ctx, c.Dir(), func(l *clusterlock.Lock) error {
			addMissing(l, fresh)
			return nil
		})
		if err != nil {
			return nil, asInputError(err)
		}
	} else {
		addMissing(lock, fresh)
	}
	refs := map[spec.Base]baseimage.Ref{}
	for _, b := range bases {
		if refs[b], err = baseRef(b, lock); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// baseRef says which file a base image is, by a lock that pins it if need be.
func baseRef(b spec.Base, lock *clusterlock.Lock) (baseimage.Ref, error) {
	if !isPinned(b) {
		return baseimage.Ref{Source: b.Image, SHA256: b.SHA256}, nil
	}
	pin := lock.Images[clusterlock.Key(b.Image)]
	if b.SHA256 != "" && b.SHA256 != pin.SHA256 {
		return baseimage.Ref{}, otherDigest(b, pin, clusterlock.Name+" pins")
	}
	ref := baseimage.Ref{Source: pin.URL, SHA256: pin.SHA256, Size: pin.Size, ImageSHA256: pin.ImageSHA256, ImageSize: pin.ImageSize}
	if b.Kind() == spec.BaseURL {
		ref.Source = b.Image // with its query, which the lock does not have
	}
	return ref, nil
}

// addMissing adds pins of what is not pinned. What a build beside this one
// has pinned meanwhile stays.
func addMissing(l *clusterlock.Lock, fresh map[string]clusterlock.Image) {
	for key, pin := range fresh {
		if _, there := l.Images[key]; !there {
			l.Images[key] = pin
		}
	}
}

// isPinned says whether it takes cluster.lock to tell which file a base
// image is.
func isPinned(b spec.Base) bool {
	return b.Kind() == spec.BaseName || b.Kind() == spec.BaseURL && b.SHA256 == ""
}

// otherDigest is the error where cluster.yaml wants another file than the one
// that is found.
func otherDigest(b spec.Base, pin clusterlock.Image, whose string) error {
	released := ""
	if pin.Released != "" {
		released = ", released " + pin.Released
	}
	return &InputError{fmt.Errorf("base image %s: the cluster file wants the one with sha256 %s, but %s the one with %s%s: "+
		"correct or remove sha256, or write the URL of the release that is meant", download.Shown(b.Image), b.SHA256, whose, pin.SHA256, released)}
}

// pinnedError adds to the error of a base image that cannot be had who said
// that it is this one, and how to move on: publishers remove old releases.
func pinnedError(b spec.Base, err error) error {
	var (
		input   *baseimage.InputError
		offline *baseimage.OfflineError
	)
	if !isPinned(b) || !errors.As(err, &input) || errors.As(err, &offline) {
		return err
	}
	return fmt.Errorf("%w (%s pins it for %s; `hatchery lock` looks up what there is now)", err, clusterlock.Name, download.Shown(b.Image))
}

// readLock reads the cluster's lock; an empty one where there is none.
func readLock(dir string) (*clusterlock.Lock, error) {
	lock, err := clusterlock.Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &clusterlock.Lock{Images: map[string]clusterlock.Image{}}, nil
	}
	return lock, asInputError(err)
}

// asInputError gives the mistakes of the user's that other packages found as
// an [*InputError].
func asInputError(err error) error {
	var (
		lock    *clusterlock.InputError
		fetched *download.InputError
	)
	if errors.As(err, &lock) || errors.As(err, &fetched) || dockerFault(err) {
		return &InputError{err}
	}
	return err
}

func reporter(r progress.Reporter) progress.Reporter {
	if r == nil {
		return progress.Discard
	}
	return r
}

// fitsModels refuses, before half a gigabyte is fetched, a name that says
// itself that a target cannot run it. The image is asked again once it is here.
func fitsModels(c *spec.Cluster, bases []spec.Base) error {
	for _, t := range c.Targets() {
		armv6 := t.Model == "zero" || t.Model == "zero-w"
		if armv6 && t.Base.Kind() == spec.BaseName && strings.HasSuffix(t.Base.Image, "_arm64") && slices.Contains(bases, t.Base) {
			return &InputError{fmt.Errorf("%s is a model %s, which is ARMv6 and runs nothing of %s: give it a base of its own, such as slots: {%s: {base: %s}}",
				t.Name, t.Model, t.Base.Image, t.Name, strings.TrimSuffix(t.Base.Image, "arm64")+"armhf")}
		}
	}
	return nil
}

// A resolver looks up what names and URLs of base images stand for now.
type resolver struct {
	source  string // of the OS list, as the cluster file has it; "" is Raspberry Pi's own
	client  *download.Client
	offline bool
	report  progress.Reporter

	list *oslist.List // once it was read
}

// resolve looks up one image.
func (r *resolver) resolve(ctx context.Context, b spec.Base) (clusterlock.Image, error) {
	resolve := r.url
	if b.Kind() == spec.BaseName {
		resolve = r.name
	}
	pin, err := resolve(ctx, b)
	if err != nil {
		return clusterlock.Image{}, fmt.Errorf("base image %s: %w", download.Shown(b.Image), err)
	}
	return pin, nil
}

// name looks up a name in the OS list. Raspberry Pi's own entries have the
// digest of the image, but not that of the download: it lies beside it.
func (r *resolver) name(ctx context.Context, b spec.Base) (clusterlock.Image, error) {
	list, err := r.osList(ctx)
	if err != nil {
		return clusterlock.Image{}, err
	}
	e, err := list.Find(b.Image)
	if err != nil {
		return clusterlock.Image{}, &InputError{err}
	}
	pin := clusterlock.Image{URL: e.URL, SHA256: e.SHA256, Size: e.Size, ImageSHA256: e.ImageSHA256, ImageSize: e.ImageSize, Released: e.Released}
	if pin.SHA256 == "" {
		pin.SHA256, err = r.digestBeside(ctx, e.URL)
		var missing *download.NotFoundError
		if errors.As(err, &missing) && b.SHA256 != "" {
			pin.SHA256, err = b.SHA256, nil
		}
		if err != nil {
			return clusterlock.Image{}, err
		}
	}
	if b.SHA256 != "" && b.SHA256 != pin.SHA256 {
		return clusterlock.Image{}, otherDigest(b, pin, "the OS list has")
	}
	return pin, nil
}

func (r *resolver) url(ctx context.Context, b spec.Base) (clusterlock.Image, error) {
	digest, err := r.digestBeside(ctx, b.Image)
	return clusterlock.Image{SHA256: digest}, err
}

// errOffline is why something is not looked up.
func (r *resolver) errOffline() error {
	return &InputError{fmt.Errorf("%s does not pin it yet, and nothing is fetched offline: run `hatchery lock`, or once without --offline, where there is a network", clusterlock.Name)}
}

// osList reads the OS list, once.
func (r *resolver) osList(ctx context.Context) (*oslist.List, error) {
	if r.list != nil {
		return r.list, nil
	}
	source := r.source
	if source == "" {
		source = oslist.DefaultURL
	}
	isURL := spec.Base{Image: source}.Kind() == spec.BaseURL
	if isURL && r.offline {
		return nil, r.errOffline()
	}
	var data []byte
	var err error
	if isURL {
		data, err = r.fetch(ctx, source, "fetch the list of names of base images", oslist.MaxSize)
	} else {
		data, err = readList(source)
	}
	if err == nil {
		r.list, err = oslist.Parse(data)
	}
	if err != nil {
		err = fmt.Errorf("the OS list %s: %w", download.Shown(source), asInputError(err))
		var user *InputError
		if isURL && !errors.As(err, &user) && ctx.Err() == nil {
			err = fmt.Errorf("%w\nWithout a network, name an image file as base:, or bring one along (`hatchery cache add FILE`) with the cluster.lock that names it", err)
		}
		var format *oslist.FormatError
		if r.source != "" && errors.As(err, &format) {
			return nil, &InputError{err} // who named it should look at it
		}
		return nil, err
	}
	return r.list, nil
}

// readList reads a list that lies in a file.
func readList(place string) ([]byte, error) {
	f, err := os.Open(place)
	if err != nil {
		return nil, &InputError{err}
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, oslist.MaxSize+1)) // more is refused by who parses it
}

func (r *resolver) fetch(ctx context.Context, from, what string, most int64) ([]byte, error) {
	task := r.report.Begin(what, -1)
	data, err := r.client.Bytes(ctx, from, most)
	task.Add(int64(len(data)))
	task.End(err)
	return data, err
}

// maxDigestFile is more than a .sha256 file has, in bytes.
const maxDigestFile = 64 << 10

// digestBeside fetches the digest of a download from the file beside it that
// has its name and .sha256.
func (r *resolver) digestBeside(ctx context.Context, of string) (string, error) {
	u, err := url.Parse(of)
	if err != nil {
		return "", &InputError{errors.New("this is no URL")} // the parser's error may quote a password
	}
	if r.offline {
		return "", r.errOffline()
	}
	file := path.Base(u.Path)
	u.Path += ".sha256"
	if u.RawPath != "" {
		u.RawPath += ".sha256"
	}
	data, err := r.fetch(ctx, u.String(), "fetch "+file+".sha256", maxDigestFile)
	if err == nil {
		var digest string
		if digest, err = digestIn(data, file); err == nil {
			return digest, nil
		}
	}
	const remedy = "give its sha256 in the cluster file, as the publisher has it or as sha256sum prints it for a copy that you trust"
	var missing *download.NotFoundError
	if errors.As(err, &missing) {
		return "", &InputError{fmt.Errorf("its digest is not known, since there is no %s.sha256 beside it (%w); %s", file, err, remedy)}
	}
	var wrong *digestFileError
	if errors.As(err, &wrong) {
		return "", &InputError{fmt.Errorf("its digest is not known: %s.sha256 beside it %w; %s", file, err, remedy)}
	}
	return "", fmt.Errorf("cannot fetch %s.sha256: %w", file, asInputError(err))
}
