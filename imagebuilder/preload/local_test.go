package preload_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/preload"
)

const refName, imageName = "org.opencontainers.image.ref.name", "io.containerd.image.name"

// layout gives the files of an OCI layout with these in its index.
func (b *blobs) layout(t testing.TB, entries ...descriptor) []file {
	t.Helper()
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": entries})
	if err != nil {
		t.Fatal(err)
	}
	files := []file{{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}, {name: "index.json", content: string(index)}}
	for _, d := range b.order {
		files = append(files, file{name: "blobs/sha256/" + d.Encoded(), content: string(b.content[d])})
	}
	return files
}

// dockerArchive gives the files of what docker save wrote before 25.0: layers are not
// compressed.
func dockerArchive(t testing.TB, tags []string, p preload.Platform, layers ...[]byte) []file {
	t.Helper()
	b := newBlobs()
	var specs []layerSpec
	for _, l := range layers {
		specs = append(specs, layerSpec{tar: l})
	}
	manifest := b.image(t, p, specs...)
	var parsed struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal(b.content[manifest.Digest], &parsed); err != nil {
		t.Fatal(err)
	}
	config := parsed.Config.Digest.Encoded() + ".json"
	files := []file{{name: config, content: string(b.content[parsed.Config.Digest])}}
	var names []string
	for i, l := range parsed.Layers {
		name := fmt.Sprintf("%d/layer.tar", i)
		names = append(names, name)
		files = append(files, file{name: name, content: string(b.content[l.Digest])})
	}
	list, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": tags, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	return append(files, file{name: "manifest.json", content: string(list)})
}

// without leaves out the files of a name.
func without(files []file, suffix string) []file {
	var left []file
	for _, f := range files {
		if !strings.HasSuffix(f.name, suffix) {
			left = append(left, f)
		}
	}
	return left
}

// putFiles lays files down as a folder, or as a tar of a format.
func putFiles(t testing.TB, o preload.Options, name, format string, files []file) string {
	t.Helper()
	if format != "folder" {
		return write(t, o, name, compressed(t, format, layerTar(t, files...)))
	}
	for _, f := range files {
		write(t, o, filepath.Join(name, f.name), []byte(f.content))
	}
	return "./" + name
}

func TestFilesOfImages(t *testing.T) {
	hello := layerTar(t, file{name: "hello", content: "hello"})
	amd64 := preload.Platform{OS: "linux", Architecture: "amd64"}
	for _, test := range []struct {
		summary string
		name    string // of the file; x.tar
		format  string // "", gzip, zstd, folder
		files   func(t *testing.T) []file
		names   string
		err     string
	}{
		{
			summary: "an OCI layout of BuildKit's, which names it in full", names: "docker.io/library/hello:1",
			files: func(t *testing.T) []file {
				b := newBlobs()
				return b.layout(t, b.index(t, b.hello(t, amd64).on(amd64), b.hello(t, armv6).on(armv6)).called(imageName, "docker.io/library/hello:1"))
			},
		},
		{
			summary: "one whose name is a tag", name: "My-Tool_2.tar", names: "docker.io/library/my-tool-2:3.1",
			files: func(t *testing.T) []file {
				b := newBlobs()
				return b.layout(t, b.hello(t, armv6).called(refName, "3.1"))
			},
		},
		{
			summary: "one with a name in the place of the tag", names: "ghcr.io/x/y:2",
			files: func(t *testing.T) []file {
				b := newBlobs()
				return b.layout(t, b.hello(t, armv6).called(refName, "ghcr.io/x/y:2"))
			},
		},
		{
			summary: "one without any name", name: "hello.oci.tar.gz", format: "gzip", names: "docker.io/library/hello:latest",
			files: func(t *testing.T) []file {
				b := newBlobs()
				return b.layout(t, b.hello(t, arm64).on(arm64), b.hello(t, armv6).on(armv6))
			},
		},
		{
			summary: "as a folder", name: "folder", format: "folder", names: "docker.io/library/folder:latest",
			files: func(t *testing.T) []file { b := newBlobs(); return b.layout(t, b.hello(t, armv6)) },
		},
		{
			summary: "two images, one of them with two names", format: "zstd",
			names: "docker.io/library/one:1 docker.io/library/one:latest, docker.io/library/two:1",
			files: func(t *testing.T) []file {
				b := newBlobs()
				one, two := b.hello(t, armv6), b.image(t, armv6, layerSpec{tar: hello})
				return b.layout(t, one.called(imageName, "docker.io/library/one:1"), one.called(imageName, "docker.io/library/one:latest"), two.called(imageName, "docker.io/library/two:1"))
			},
		},
		{
			summary: "what docker save wrote", names: "docker.io/library/alpine:3.20 localhost:5000/a:b",
			files: func(t *testing.T) []file {
				return dockerArchive(t, []string{"alpine:3.20", "localhost:5000/a:b"}, armv6, hello)
			},
		},
		{
			summary: "what docker save wrote, by number", name: "tool.tar", names: "docker.io/library/tool:latest",
			files: func(t *testing.T) []file { return dockerArchive(t, nil, armv6, hello) },
		},
		{
			summary: "as a folder, unpacked", format: "folder", name: "unpacked", names: "docker.io/library/a:1",
			files: func(t *testing.T) []file { return dockerArchive(t, []string{"a:1"}, armv6, hello, hello) },
		},
		{
			summary: "layers as links to others", names: "docker.io/library/aa:1",
			files: func(t *testing.T) []file {
				files := dockerArchive(t, []string{"aa:1"}, armv6, hello, hello, hello)
				for i := range files {
					switch files[i].name {
					case "1/layer.tar":
						files[i] = file{name: files[i].name, kind: tar.TypeSymlink, link: "../0/layer.tar"}
					case "2/layer.tar":
						files[i] = file{name: files[i].name, kind: tar.TypeLink, link: "1/layer.tar"}
					}
				}
				return files
			},
		},
		{
			summary: "links that lead to one another", err: `its links lead to one another`,
			files: func(t *testing.T) []file {
				files := dockerArchive(t, []string{"aa:1"}, armv6, hello, hello)
				for i := range files {
					switch files[i].name {
					case "0/layer.tar":
						files[i] = file{name: files[i].name, kind: tar.TypeSymlink, link: "../1/layer.tar"}
					case "1/layer.tar":
						files[i] = file{name: files[i].name, kind: tar.TypeSymlink, link: "../0/layer.tar"}
					}
				}
				return files
			},
		},
		{
			summary: "for the workstation", err: "./x.tar: docker.io/library/a:1 in it: it is one image, for linux/amd64, and not for linux/arm/v6; take another tag, or another image that is published for linux/arm/v6 or linux/arm/v5 (on Docker Hub: arm32v6/NAME, arm32v5/NAME), or save it again after docker pull --platform linux/arm/v6",
			files: func(t *testing.T) []file { return dockerArchive(t, []string{"a:1"}, amd64, hello) },
		},
		{
			summary: "a variant that is listed and not there", err: "and does not hold it: save it again",
			files: func(t *testing.T) []file {
				b := newBlobs()
				d := b.hello(t, armv6)
				return without(b.layout(t, d.on(armv6)), d.Digest.Encoded())
			},
		},
		{
			summary: "a layer that is not there", err: `it names "0/layer.tar", and does not hold it: save it again`,
			files: func(t *testing.T) []file {
				return without(dockerArchive(t, []string{"a:1"}, armv6, hello), "layer.tar")
			},
		},
		{
			summary: "a layer of another image", err: "it is not what the image's configuration says",
			files: func(t *testing.T) []file {
				files := dockerArchive(t, []string{"a:1"}, armv6, hello)
				for i := range files {
					if strings.HasSuffix(files[i].name, "layer.tar") {
						files[i].content = string(layerTar(t, file{name: "other"}))
					}
				}
				return files
			},
		},
		{
			summary: "a damaged layer", err: "is damaged: what is there has",
			files: func(t *testing.T) []file {
				b := newBlobs()
				files := b.layout(t, b.hello(t, armv6))
				for i := range files {
					if strings.HasSuffix(files[i].name, b.layerOf(t).Encoded()) {
						files[i].content = strings.Repeat("x", len(files[i].content))
					}
				}
				return files
			},
		},
		{
			summary: "a damaged manifest", err: "is damaged: it has another digest",
			files: func(t *testing.T) []file {
				b := newBlobs()
				d := b.hello(t, armv6)
				files := b.layout(t, d)
				for i := range files {
					if strings.HasSuffix(files[i].name, d.Digest.Encoded()) {
						files[i].content += " "
					}
				}
				return files
			},
		},
		{summary: "of before 2016", err: "it was saved by a Docker before 1.10", files: func(t *testing.T) []file { return []file{{name: "repositories", content: "{}"}} }},
		{summary: "something else", err: "it is neither an OCI layout (index.json) nor what docker save writes (manifest.json)", files: func(t *testing.T) []file { return []file{{name: "README"}} }},
		{summary: "an index of nothing", err: "there is no image in it", files: func(t *testing.T) []file { return newBlobs().layout(t, []descriptor{}...) }},
		{summary: "no image listed", err: "there is no image in it", files: func(t *testing.T) []file { return []file{{name: "manifest.json", content: "[]"}} }},
		{summary: "a list that is none", err: "its manifest.json is not one", files: func(t *testing.T) []file { return []file{{name: "manifest.json", content: "{"}} }},
		{
			summary: "a name that is none", err: `what it calls an image is no name: "A B"`,
			files: func(t *testing.T) []file { return dockerArchive(t, []string{"A B"}, armv6, hello) },
		},
		{
			summary: "no name at all", name: "_.tar", err: "it gives its image no name, and its own makes none: call the file as the image is to be called",
			files: func(t *testing.T) []file { return dockerArchive(t, nil, armv6, hello) },
		},
		{
			summary: "a path that leads out", format: "folder", name: "folder", err: `it names a file outside of it: "../secret"`,
			files: func(t *testing.T) []file {
				return []file{{name: "manifest.json", content: `[{"Config":"../secret","RepoTags":["a:1"],"Layers":["x"]}]`}}
			},
		},
		{summary: "more files than images have", err: "it has more than 20000 files", files: func(t *testing.T) []file {
			files := make([]file, 20_001)
			for i := range files {
				files[i].name = fmt.Sprint(i)
			}
			return files
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o := options(t)
			name := test.name
			if name == "" {
				name = "x.tar"
			}
			ref := putFiles(t, o, name, test.format, test.files(t))
			images, err := get(t, o, armv6, ref)
			wants(t, err, test.err)
			if err != nil && !isInput(err) {
				t.Errorf("%v is not the user's mistake", err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "cannot preload "+ref+": ") {
				t.Errorf("the error does not say of what: %v", err)
			}
			var names []string
			for _, i := range images {
				names = append(names, strings.Join(i.Names, " "))
				seen(t, i)
			}
			if got := strings.Join(names, ", "); got != test.names {
				t.Errorf("got %s, want %s", got, test.names)
			}
			archive(t, images)
			leftovers(t, o)
		})
	}
}

// leftovers fails the test where the cache has files that are half-made.
func leftovers(t *testing.T, o preload.Options) {
	t.Helper()
	filepath.WalkDir(o.Cache, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".hatchery-tmp") {
			t.Errorf("%s was left", filepath.Base(path))
		}
		return nil
	})
}

func TestNoSuchFile(t *testing.T) {
	_, err := preload.Resolve(t.Context(), []string{"./none.tar"}, armv6, options(t))
	wants(t, err, "there is no such file or folder: ")
	if !isInput(err) {
		t.Errorf("%v is not the user's mistake", err)
	}
}

// TestPinnedFiles has a file that changes, and goes, after it was pinned.
func TestPinnedFiles(t *testing.T) {
	o := options(t)
	put := func(content string) {
		write(t, o, "x.tar", layerTar(t, dockerArchive(t, []string{"a:1"}, armv6, layerTar(t, file{name: "file", content: content}))...))
	}
	put("first")
	pinned, err := preload.Resolve(t.Context(), []string{"./x.tar"}, armv6, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := preload.Fetch(t.Context(), pinned, o); err != nil {
		t.Errorf("an unchanged file: %v", err)
	}
	put("second")
	const changed = "cannot preload ./x.tar: it was changed meanwhile, and holds another image now: run the same again"
	_, err = preload.Fetch(t.Context(), pinned, o)
	wants(t, err, changed)
	if err := os.Remove(filepath.Join(o.Dir, "x.tar")); err != nil {
		t.Fatal(err)
	}
	images, err := preload.Fetch(t.Context(), pinned, o)
	if err != nil {
		t.Fatalf("a file that is gone, of which the cache has all: %v", err)
	}
	if got := seen(t, images[0]); got != "/file: first\n" {
		t.Errorf("got %s", got)
	}
	o.Cache = t.TempDir()
	_, err = preload.Fetch(t.Context(), pinned, o)
	wants(t, err, "there is no such file, and its manifest is not in the cache")
}

func TestPlacesOfFiles(t *testing.T) {
	o := options(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	content := layerTar(t, dockerArchive(t, []string{"a:1"}, armv6, layerTar(t, file{name: "file"}))...)
	write(t, o, "sub/x.tar", content)
	if err := os.WriteFile(filepath.Join(home, "x.tar"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	sub := o
	sub.Dir = filepath.Join(o.Dir, "sub", "deeper")
	for _, test := range []struct {
		o   preload.Options
		ref string
	}{{o, "./sub/x.tar"}, {sub, "../x.tar"}, {o, "~/x.tar"}, {preload.Options{Cache: o.Cache}, filepath.Join(o.Dir, "sub", "x.tar")}} {
		if _, err := preload.Resolve(t.Context(), []string{test.ref}, armv6, test.o); err != nil {
			t.Errorf("%s: %v", test.ref, err)
		}
	}
}

// TestSharedBetweenFileAndRegistry has one layer come both ways.
func TestSharedBetweenFileAndRegistry(t *testing.T) {
	shared := layerTar(t, file{name: "shared", content: "shared"})
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.image(t, armv6, layerSpec{tar: shared}, layerSpec{format: "gzip", tar: layerTar(t, file{name: "own"})})})
	o := options(t)
	ref := write(t, o, "x.tar", layerTar(t, dockerArchive(t, []string{"a:1"}, armv6, shared)...))
	a := archive(t, mustGet(t, o, armv6, r.host+"/xy:1", ref))
	if n := bytes.Count(a, shared); n != 1 {
		t.Errorf("the shared layer is in the archive %d times", n)
	}
	if got := entryNames(t, a); strings.Count(got, digest.FromBytes(shared).Encoded()) != 1 {
		t.Errorf("got %s", got)
	}
}
