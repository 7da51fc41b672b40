package preload

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
)

// A bundle is a file or folder that holds container images: an OCI layout, or
// what `docker save` writes.
type bundle interface {
	// open gives one of its files, by a path with slashes: an
	// [fs.ErrNotExist] where there is none.
	open(name string) (io.ReadCloser, int64, error)
	io.Closer
}

// resolveFile finds the images of a file or folder for a platform, and puts
// all of them into the cache.
func resolveFile(ctx context.Context, ref string, p Platform, o Options, c *cache) ([]Pinned, error) {
	b, err := openBundle(ctx, o.path(ref), o, c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, inputErrorf("there is no such file or folder: %s", o.path(ref))
	}
	if err != nil {
		return nil, err
	}
	defer b.Close()
	l := &local{bundle: b, cache: c, ref: ref}
	images, err := l.images(ctx, p)
	if err != nil {
		return nil, err
	}
	var pinned []Pinned
	for _, i := range images {
		if err := l.importImage(ctx, i.variant); err != nil {
			return nil, err
		}
		pinned = append(pinned, i.pinned(ref, i.names, p))
	}
	return pinned, nil
}

type local struct {
	bundle
	cache *cache
	ref   string
}

// A named variant is one image of a file.
type named struct {
	*variant
	names []string
}

// images reads what a bundle lists. Where it is both, as `docker save` writes
// from 25.0 on, the layout counts: it knows of platforms.
func (l *local) images(ctx context.Context, p Platform) ([]named, error) {
	index, err := l.read("index.json", maxManifest)
	if err == nil {
		if _, err = l.read("oci-layout", maxManifest); err == nil {
			return l.layoutImages(ctx, index, p)
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list, err := l.read("manifest.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := l.read("repositories", maxManifest); err == nil {
			return nil, inputErrorf("it was saved by a Docker before 1.10, in a format without digests: load it into a Docker of today and save it again")
		}
		return nil, inputErrorf("it is neither an OCI layout (index.json) nor what docker save writes (manifest.json)")
	}
	if err != nil {
		return nil, err
	}
	return l.archiveImages(ctx, list, p)
}

// read gives a small file of the bundle.
func (l *local) read(name string, most int64) ([]byte, error) {
	r, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > most {
		return nil, inputErrorf("its %s has %d bytes, and may have %d", oneLine(name), size, most)
	}
	return io.ReadAll(io.LimitReader(r, most))
}

// layoutImages reads an index.json. Its entries of one name are variants of
// one image, and so are those without any.
func (l *local) layoutImages(ctx context.Context, content []byte, p Platform) ([]named, error) {
	doc, err := parseDocument(content)
	if err != nil {
		return nil, err
	}
	if !doc.index() {
		return nil, inputErrorf("its index.json is no index")
	}
	var order []string
	groups := map[string][]descriptor{}
	for _, m := range doc.Manifests {
		n, err := l.name(m.Annotations)
		if err != nil {
			return nil, err
		}
		if groups[n] == nil {
			order = append(order, n)
		}
		groups[n] = append(groups[n], m)
	}
	var images []named
	for _, n := range order {
		look := &lookup{source: l, ref: l.ref, left: maxLookups}
		var variants []*variant
		if err := look.entries(ctx, groups[n], maxDepth, &variants); err != nil {
			return nil, err
		}
		if len(variants) == 0 {
			continue // a build record of its own
		}
		v, err := pick(ctx, look, l.ref, variants, p)
		if err != nil {
			return nil, fmt.Errorf("%s in it: %w", n, err)
		}
		if i := slices.IndexFunc(images, func(i named) bool { return i.digest == v.digest }); i >= 0 {
			images[i].names = append(images[i].names, n)
			continue
		}
		images = append(images, named{v, []string{n}})
	}
	if len(images) == 0 {
		return nil, &InputError{errNoImage}
	}
	return images, nil
}

// name is what an entry of a layout is called: in full, as BuildKit and Docker
// note it; or by a tag alone, as the OCI Image Layout Specification has it,
// which is then one of the file.
func (l *local) name(annotations map[string]string) (string, error) {
	tag := annotations["org.opencontainers.image.ref.name"]
	for _, full := range []string{annotations["io.containerd.image.name"], tag} {
		if full == "" || full == tag && !strings.ContainsAny(full, "/:") {
			continue
		}
		ref, err := parseReference(full)
		if err != nil || ref.tag == "" {
			return "", inputErrorf("what it calls an image is no name: %q", oneLine(full))
		}
		return ref.name(), nil
	}
	return l.ownName(tag)
}

var noName = regexp.MustCompile(`[^a-z0-9]+`)

// ownName makes a name of the file's: ./My-Image_1.tar.gz is my-image-1.
func (l *local) ownName(tag string) (string, error) {
	stem := strings.ToLower(path.Base(filepath.ToSlash(filepath.Clean(l.ref))))
	for _, suffix := range []string{".gz", ".tgz", ".zst", ".tar", ".oci", ".docker"} {
		stem = strings.TrimSuffix(stem, suffix)
	}
	if tag == "" {
		tag = "latest"
	}
	ref, err := parseReference(strings.Trim(noName.ReplaceAllString(stem, "-"), "-") + ":" + tag)
	if err != nil {
		return "", inputErrorf("it gives its image no name, and its own makes none: call the file as the image is to be called, such as hello.tar")
	}
	return ref.name(), nil
}

// archiveImages reads the manifest.json of a docker-archive. It has no
// manifests, so each image gets one here.
func (l *local) archiveImages(ctx context.Context, content []byte, p Platform) ([]named, error) {
	var entries archiveList
	if err := json.Unmarshal(content, &entries); err != nil {
		return nil, inputErrorf("its manifest.json is not one: %w", err)
	}
	if len(entries) == 0 {
		return nil, &InputError{errNoImage}
	}
	var images []named
	for _, e := range entries {
		var names []string
		for _, tag := range e.RepoTags {
			ref, err := parseReference(tag)
			if err != nil || ref.tag == "" {
				return nil, inputErrorf("what it calls an image is no name: %q", oneLine(tag))
			}
			names = append(names, ref.name())
		}
		if len(names) == 0 {
			n, err := l.ownName("")
			if err != nil {
				return nil, err
			}
			names = []string{n}
		}
		if len(e.Layers) == 0 || len(e.Layers) > maxLayers {
			return nil, inputErrorf("%s in it has %d layers: Docker takes 1 to %d", names[0], len(e.Layers), maxLayers)
		}
		text, err := l.read(e.Config, maxConfig)
		if err != nil {
			return nil, l.missing(e.Config, err)
		}
		c, err := parseConfig(text, len(e.Layers))
		if err != nil {
			return nil, fmt.Errorf("%s in it: %w", names[0], err)
		}
		v := &variant{platform: c.platform(), config: c}
		if _, err := pick(ctx, nil, l.ref, []*variant{v}, p); err != nil {
			return nil, fmt.Errorf("%s in it: %w", names[0], err)
		}
		if err := l.cache.put(text); err != nil {
			return nil, err
		}
		config := descriptor{MediaType: mediaDockerConfig, Digest: digest.FromBytes(text), Size: int64(len(text))}
		var layers []descriptor
		for i, name := range e.Layers {
			d, err := l.layer(ctx, name, c.RootFS.DiffIDs[i])
			if err != nil {
				return nil, l.missing(name, err)
			}
			layers = append(layers, *d)
		}
		v.manifest, err = json.Marshal(struct {
			SchemaVersion int          `json:"schemaVersion"`
			MediaType     string       `json:"mediaType"`
			Config        descriptor   `json:"config"`
			Layers        []descriptor `json:"layers"`
		}{2, mediaDockerManifest, config, layers})
		if err != nil {
			return nil, err
		}
		v.digest = digest.FromBytes(v.manifest)
		if err := l.cache.put(v.manifest); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(images, func(i named) bool { return i.digest == v.digest }); i >= 0 {
			images[i].names = append(images[i].names, names...)
			continue
		}
		images = append(images, named{v, names})
	}
	return images, nil
}

func (l *local) missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return inputErrorf("it names %q, and does not hold it: save it again", oneLine(name))
	}
	return err
}

// layer puts a layer of a docker-archive into the cache. Its digest is that of
// the file as it is; where it is not compressed, the configuration knows it.
func (l *local) layer(ctx context.Context, name string, diffID digest.Digest) (*descriptor, error) {
	r, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxLayerBlob || size < 1 {
		return nil, inputErrorf("its layer %q has %d bytes", oneLine(name), size)
	}
	if l.cache.has(diffID, size) {
		return &descriptor{MediaType: mediaDockerLayer, Digest: diffID, Size: size}, nil
	}
	w, err := l.cache.begin()
	if err != nil {
		return nil, err
	}
	defer w.discard()
	n, err := io.Copy(w, &cancelReader{ctx, r})
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, inputErrorf("its layer %q ends after %d of %d bytes", oneLine(name), n, size)
	}
	d := &descriptor{MediaType: mediaDockerLayer, Size: size}
	if bytes.HasPrefix(w.head, []byte("\x1f\x8b")) {
		d.MediaType += ".gzip"
	}
	d.Digest, err = w.commit()
	return d, err
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// manifest implements [source].
func (l *local) manifest(ctx context.Context, _ string, want digest.Digest) ([]byte, error) {
	content, err := l.read(blobName(want), maxManifest)
	if err != nil {
		return nil, l.missing(want.String(), err)
	}
	if digest.FromBytes(content) != want {
		return nil, inputErrorf("its blob %s is damaged: it has another digest", want)
	}
	return content, l.cache.put(content)
}

// small implements [source].
func (l *local) small(ctx context.Context, d descriptor, what part) ([]byte, error) {
	content, err := l.read(blobName(d.Digest), d.Size)
	if err != nil {
		return nil, l.missing(d.Digest.String(), err)
	}
	if digest.FromBytes(content) != d.Digest {
		return nil, inputErrorf("its %s is damaged: it has another digest than %s", what.name, d.Digest)
	}
	return content, l.cache.put(content)
}

// importImage copies the layers of an image of a layout into the cache.
func (l *local) importImage(ctx context.Context, v *variant) error {
	doc, err := parseDocument(v.manifest)
	if err != nil {
		return err
	}
	for i, d := range doc.Layers {
		if l.cache.has(d.Digest, d.Size) {
			continue
		}
		r, size, err := l.open(blobName(d.Digest))
		if err != nil {
			return l.missing(d.Digest.String(), err)
		}
		what := part{l.ref, layerName(i, len(doc.Layers))}
		if size != d.Size {
			err = inputErrorf("its %s is damaged: it has %d bytes of %d", what.name, size, d.Size)
		} else {
			err = l.cache.copy(ctx, d.Digest, d.Size, what, r)
		}
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// openBundle opens a folder or a tar, which may be compressed.
func openBundle(ctx context.Context, place string, o Options, c *cache) (bundle, error) {
	info, err := os.Stat(place)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(place)
		if err != nil {
			return nil, err
		}
		return folder{root}, nil
	}
	if !info.Mode().IsRegular() {
		return nil, inputErrorf("it is neither a file nor a folder")
	}
	f, err := os.Open(place)
	if err != nil {
		return nil, err
	}
	text, format, err := decompress(&cancelReader{ctx, f})
	if err != nil {
		f.Close()
		return nil, err
	}
	defer text.Close()
	if format == "" {
		return openTar(f, "")
	}
	// A tar that cannot be read at any place is unpacked beside the cache.
	defer f.Close()
	plain, err := os.CreateTemp(c.dir, ".unpacked.*"+atomicfile.Suffix)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(plain, &limitedReader{r: text, left: o.MostUnpacked})
	if errors.Is(err, errTooLarge) {
		err = inputErrorf("it unpacks to more than %d bytes", o.MostUnpacked)
	}
	if err != nil {
		plain.Close()
		os.Remove(plain.Name())
		return nil, err
	}
	return openTar(plain, plain.Name())
}

// A folder is an OCI layout as it lies on the disk. Nothing in it leads out.
type folder struct{ root *os.Root }

func (d folder) open(name string) (io.ReadCloser, int64, error) {
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return nil, 0, inputErrorf("it names a file outside of it: %q", oneLine(name))
	}
	f, err := d.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = inputErrorf("its %q is no file", oneLine(name))
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (d folder) Close() error { return d.root.Close() }

// A tarFile is a tar whose files are read where they lie.
type tarFile struct {
	f       *os.File
	remove  string // a file of ours, to be removed
	members tarMembers
}

// tarMembers are where the files of a tar lie in it, by name.
type tarMembers map[string]tarMember

type tarMember struct {
	offset, size int64
	link         string // a symbolic or hard link to another one
}

const (
	maxMembers = 20_000 // of a tar of images: three a layer, some hundred layers
	maxLinks   = 8      // to links
)

// openTar reads the headers of a tar and takes the file over.
func openTar(f *os.File, remove string) (*tarFile, error) {
	t := &tarFile{f: f, remove: remove}
	var err error
	if t.members, err = listTar(f); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func listTar(f io.ReadSeeker) (tarMembers, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	members := tarMembers{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, tarError(err)
		}
		if len(members) >= maxMembers {
			return nil, inputErrorf("it has more than %d files: it holds no container images", maxMembers)
		}
		name := memberName(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader has read the header and nothing behind it.
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			members[name] = tarMember{offset: offset, size: h.Size}
		case tar.TypeSymlink:
			members[name] = tarMember{link: memberName(path.Join(path.Dir(name), h.Linkname))}
		case tar.TypeLink:
			members[name] = tarMember{link: memberName(h.Linkname)}
		}
	}
}

func memberName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (t *tarFile) open(name string) (io.ReadCloser, int64, error) {
	m, err := t.members.find(name)
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(io.NewSectionReader(t.f, m.offset, m.size)), m.size, nil
}

// find follows links: Docker before 25.0 saves a layer that two images share
// once, and a link to it.
func (t tarMembers) find(name string) (tarMember, error) {
	name = memberName(name)
	for range maxLinks {
		m, ok := t[name]
		if !ok {
			return m, fs.ErrNotExist
		}
		if m.link == "" {
			return m, nil
		}
		name = m.link
	}
	return tarMember{}, inputErrorf("its links lead to one another: %q", oneLine(name))
}

func (t *tarFile) Close() error {
	err := t.f.Close()
	if t.remove != "" {
		os.Remove(t.remove)
	}
	return err
}
