//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hatchery/imagebuilder/apt/apttest"
	"hatchery/imagebuilder/deb/debtest"
	"hatchery/internal/imagetest"
)

// armProgram is a program for a 32-bit ARM processor: GOARM=6, 7.
func armProgram(t *testing.T, goarm string) string {
	t.Helper()
	data, err := armPrograms(goarm)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var armPrograms = func() func(string) (string, error) {
	var mu sync.Mutex
	made := map[string]string{}
	return func(goarm string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if made[goarm] != "" {
			return made[goarm], nil
		}
		dir, err := os.MkdirTemp("", "hatchery-arm")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
			return "", err
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", "program", "main.go")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm", "GOARM="+goarm, "CGO_ENABLED=0", "GO111MODULE=off", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		data, err := os.ReadFile(filepath.Join(dir, "program"))
		made[goarm] = string(data)
		return made[goarm], err
	}
}()

// dockerArchive is an archive that has a Docker of version, which needs a
// package beside itself.
func dockerArchive(t *testing.T, version string) *apttest.Archive {
	t.Helper()
	archive := apttest.New(t)
	archive.Architectures = []string{"armhf"}
	addDocker(t, archive, version, "6")
	archive.Publish()
	return archive
}

func addDocker(t *testing.T, archive *apttest.Archive, version, goarm string) {
	t.Helper()
	archive.Add(
		debtest.Build(t, debtest.Control("docker.io", version, "armhf", "Depends: containerd (>= 1.6), adduser", "Recommends: apparmor", "Installed-Size: 3000"),
			[]debtest.File{
				debtest.Executable("/usr/sbin/dockerd", armProgram(t, goarm)),
				{Path: "/etc/default/docker", Content: "# nothing\n"},
			},
			debtest.Conffiles("/etc/default/docker"), debtest.Script("preinst", "#!/bin/sh\nset -e\n"), debtest.Script("postinst", "#!/bin/sh\nset -e\n")),
		debtest.Build(t, debtest.Control("containerd", "1.6.20~ds1-1", "armhf", "Depends: runc"),
			[]debtest.File{debtest.Executable("/usr/bin/containerd", armProgram(t, "6"))}, debtest.Compression("zst")),
		debtest.Build(t, debtest.Control("runc", "1.1.5-1", "armhf"),
			[]debtest.File{debtest.Executable("/usr/sbin/runc", armProgram(t, "5"))}, debtest.Compression("gz")),
		debtest.Build(t, debtest.Control("adduser", "3.134", "all"), []debtest.File{debtest.Executable("/usr/sbin/adduser", "#!/usr/bin/perl\n")}),
		debtest.Build(t, debtest.Control("apparmor", "3.0", "armhf"), []debtest.File{{Path: "/etc/apparmor/parser.conf", Content: "x\n"}}),
	)
}

// dockerBase is a miniature whose only source of packages is the archive.
func dockerBase(t *testing.T, archive *apttest.Archive, options ...imagetest.Option) string {
	t.Helper()
	options = append(options, imagetest.WithoutFile("/etc/apt/sources.list.d/raspi.list"))
	for _, name := range slices.Sorted(maps.Keys(archive.Files())) {
		options = append(options, imagetest.WithFile(name, archive.Files()[name], 0o644, 0, 0))
	}
	return imagetest.Bookworm(t, options...)
}

// docker writes a cluster file with what it says of docker.
func (w *workspace) docker(base, docker string) {
	w.t.Helper()
	w.write("cluster.yaml", fmt.Sprintf("name: homelab\nbase: {image: %s}\nuser: {authorized_keys: [./key.pub]}\n%s", base, docker))
}

// TestDocker builds a cluster whose cluster file says nothing of Docker, so
// that it is in all images.
func TestDocker(t *testing.T) {
	archive := dockerArchive(t, "20.10.24+dfsg1-1")
	base := dockerBase(t, archive)
	w := newWorkspace(t, base, "")
	w.docker(base, "")
	out := w.hatchery("build", "-q")
	if want := "Docker 20.10.24 in controller, p1, p2, p3 and p4: 4 packages, "; !strings.Contains(out, want) || !strings.Contains(out, "unpacked now") {
		t.Errorf("no %q in:\n%s", want, out)
	}
	archive.Requests()
	for _, target := range allTargets {
		e2fsck(t, w.path("out/"+target+".img"))
	}
	cat := func(path string) string { return w.hatchery("inspect", "cat", "out/p1.img", path) }
	for _, want := range []string{"Package: docker.io\nStatus: hold ok unpacked\n", "Package: runc\nStatus: hold ok unpacked\n"} {
		if status := cat("/var/lib/dpkg/status"); !strings.Contains(status, want) {
			t.Errorf("no %q in dpkg's status:\n%.2000s", want, status)
		}
	}
	if scripts := cat("/var/lib/hatchery/packages/scripts"); scripts != "docker.io armhf preinst /var/lib/dpkg/info/docker.io.preinst install\n" {
		t.Errorf("the scripts for the node: %q", scripts)
	}
	if auto := cat("/var/lib/apt/extended_states"); !strings.Contains(auto, "Package: runc\nArchitecture: armhf\nAuto-Installed: 1\n") || strings.Contains(auto, "docker.io") {
		t.Errorf("marks: %s", auto)
	}
	if got := cat("/usr/sbin/dockerd"); got != armProgram(t, "6") {
		t.Errorf("dockerd has %d bytes", len(got))
	}
	for _, path := range []string{"/etc/docker/daemon.json", "/etc/default/docker.dpkg-new", "/var/lib/hatchery/packages/pending"} {
		cat(path)
	}
	if group := cat("/etc/group"); !strings.Contains(group, "\ndocker:x:") || !strings.HasSuffix(strings.SplitN(group[strings.Index(group, "\ndocker:x:")+1:], "\n", 2)[0], ":pi") {
		t.Errorf("the user is not in the group docker:\n%s", group)
	}

	// What went in is told, with where it came from.
	var manifest struct {
		Targets []struct {
			Layers   []struct{ File string }
			Packages []struct{ Name, Version, Architecture, Digest, Source string }
		}
	}
	w.readJSON("out/manifest.json", &manifest)
	for _, target := range manifest.Targets {
		if len(target.Packages) != 4 || len(target.Layers) != 2 || target.Layers[0].File != manifest.Targets[0].Layers[0].File {
			t.Errorf("the manifest has %+v", target)
		}
		for _, p := range target.Packages {
			if !strings.HasPrefix(p.Source, archive.URI()+"/pool/") || !strings.HasPrefix(p.Digest, "sha256:") {
				t.Errorf("the manifest has %+v", p)
			}
		}
	}
	var bill struct {
		Packages []struct{ Name, VersionInfo string }
	}
	w.readJSON("out/p1.spdx.json", &bill)
	if names := fmt.Sprint(bill.Packages); !strings.Contains(names, "{docker.io 20.10.24+dfsg1-1}") || !strings.Contains(names, "{dpkg ") {
		t.Errorf("the bill of materials has %s", names)
	}

	// A second build fetches and unpacks nothing; an offline one can be made.
	if out := w.hatchery("build", "-q", "--offline"); !strings.Contains(out, "as before") || strings.Contains(out, "written") {
		t.Errorf("the second build:\n%s", out)
	}
	if asked := archive.Requests(); len(asked) > 0 {
		t.Errorf("the second build asked for %v", asked)
	}

	// On another workstation, with the lock and the keys, the images are the
	// same, though the archive has moved on.
	first := w.imageDigests("out")
	addDocker(t, archive, "26.1.5+dfsg1-9", "6")
	archive.Publish()
	for _, gone := range []string{"out", "cache"} {
		if err := os.RemoveAll(w.path(gone)); err != nil {
			t.Fatal(err)
		}
	}
	w.hatchery("build", "-q")
	for target, digest := range w.imageDigests("out") {
		if digest != first[target] {
			t.Errorf("%s is another image on another workstation", target)
		}
	}
	for _, asked := range archive.Requests() {
		if !strings.HasSuffix(asked, ".deb") {
			t.Errorf("with a lock, %s was fetched", asked)
		}
	}

	// lock moves on; what is built then has the new one.
	locked := w.hatchery("lock", "-q")
	if !strings.Contains(locked, "20.10.24+dfsg1-1 → 26.1.5+dfsg1-9") || !strings.Contains(locked, "1 updated, 3 unchanged") {
		t.Errorf("lock said:\n%s", locked)
	}
	if out := w.hatchery("build", "-q"); !strings.Contains(out, "Docker 26.1.5 in ") {
		t.Errorf("after lock:\n%s", out)
	}
	if layers, _ := filepath.Glob(w.path("out/layers/docker-*.layer")); len(layers) != 1 {
		t.Errorf("the output folder has the Docker layers %v", layers)
	}
	w.hatchery("cache", "verify", "-q")

	// Without Docker there is nothing of it.
	w.docker(base, "docker: {packages: []}\n")
	w.hatchery("build", "-q", "p1")
	tree := w.hatchery("inspect", "tree", "out/p1.img", "/")
	for _, gone := range []string{"dockerd", "daemon.json", "packages/pending"} {
		if strings.Contains(tree, gone) {
			t.Errorf("without Docker, the image has %s", gone)
		}
	}
}

func (w *workspace) readJSON(name string, v any) {
	w.t.Helper()
	data, err := os.ReadFile(w.path(name))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestDockerRefused is what may be wrong with packages, and what is said of it:
// no image and no layer is made.
func TestDockerRefused(t *testing.T) {
	for _, test := range []struct {
		summary string
		archive func(t *testing.T, a *apttest.Archive)
		docker  string
		flags   []string
		code    int
		says    []string
	}{
		{summary: "a tampered package", archive: func(t *testing.T, a *apttest.Archive) { a.TamperDebs() },
			code: exitFailed, says: []string{"the package ", "sha256", "hatchery lock"}},
		{summary: "a tampered index", archive: func(t *testing.T, a *apttest.Archive) { a.TamperIndexes() },
			code: exitFailed, says: []string{"/etc/apt/sources.list:1", "Packages"}},
		{summary: "a tampered Release file", archive: func(t *testing.T, a *apttest.Archive) { a.TamperRelease() },
			code: exitFailed, says: []string{"/etc/apt/sources.list:1", "signature"}},
		{summary: "somebody else's key", archive: func(t *testing.T, a *apttest.Archive) {
			a.Signers = []*apttest.Key{apttest.NewKey(t, "Somebody")}
			a.Publish()
		}, code: exitFailed, says: []string{"/etc/apt/sources.list:1", "key"}},
		{summary: "no signature", archive: func(t *testing.T, a *apttest.Archive) { a.Unsigned = true; a.Publish() },
			code: exitFailed, says: []string{"/etc/apt/sources.list:1", "signed"}},
		{summary: "an expired archive", archive: func(t *testing.T, a *apttest.Archive) { a.Expire() },
			code: exitFailed, says: []string{"/etc/apt/sources.list:1", "--ignore-expiry"}},
		{summary: "a mirror that truncates", archive: func(t *testing.T, a *apttest.Archive) { a.Truncate(".deb") },
			code: exitFailed, says: []string{"cannot fetch the package "}},
		{summary: "a package that claims to be endless", archive: func(t *testing.T, a *apttest.Archive) {
			a.Add(endless(t))
			a.Publish()
		}, docker: "docker: {packages: [endless]}\n", code: exitFailed, says: []string{"cannot unpack endless_1_armhf.deb", "data.tar", "it holds more than the 8589934592 bytes"}},
		{summary: "a package that is missing", docker: "docker: {packages: [dokcer.io]}\n",
			code: exitUsage, says: []string{"docker.packages", "dokcer.io", "docker.io"}},
		{summary: "a version that is missing", docker: "docker: {packages: [docker.io=19.03.1]}\n",
			code: exitUsage, says: []string{"docker.packages", "19.03.1", "20.10.24+dfsg1-1"}},
		{summary: "a dependency that is missing", archive: func(t *testing.T, a *apttest.Archive) {
			a.Add(debtest.Build(t, debtest.Control("extra", "1", "armhf", "Depends: nowhere (>= 2)"), nil))
			a.Publish()
		}, docker: "docker: {packages: [docker.io, extra]}\n", code: exitUsage, says: []string{"extra", "nowhere (>= 2)"}},
		{summary: "two packages that each need the other before", archive: func(t *testing.T, a *apttest.Archive) {
			a.Add(debtest.Build(t, debtest.Control("hen", "1", "armhf", "Pre-Depends: egg"), nil), debtest.Build(t, debtest.Control("egg", "1", "armhf", "Pre-Depends: hen"), nil))
			a.Publish()
		}, docker: "docker: {packages: [hen]}\n", code: exitUsage, says: []string{"hen", "egg", "can only be unpacked when there is"}},
		{summary: "a program for ARMv7", archive: func(t *testing.T, a *apttest.Archive) {
			a.Remove()
			addDocker(t, a, "20.10.24+dfsg1-1", "7")
			a.Publish()
		}, code: exitUsage, says: []string{"docker.io", "/usr/sbin/dockerd", "ARMv7", "ARMv6"}},
		{summary: "a package that is no longer there", archive: func(t *testing.T, a *apttest.Archive) {
			for _, path := range a.Paths(".deb") {
				a.Replace(path, nil)
			}
		}, code: exitUsage, says: []string{"the archive does not have", "any more", "hatchery lock"}},
		{summary: "an archive without the suite", archive: func(t *testing.T, a *apttest.Archive) { a.Replace("dists/bookworm/InRelease", nil) },
			code: exitUsage, says: []string{"/etc/apt/sources.list:1"}},
		{summary: "offline with an empty cache", flags: []string{"--offline"}, code: exitUsage, says: []string{"offline"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			archive := dockerArchive(t, "20.10.24+dfsg1-1")
			if test.archive != nil {
				test.archive(t, archive)
			}
			base := dockerBase(t, archive)
			w := newWorkspace(t, base, "")
			w.docker(base, test.docker)
			expectFailure(t, w, w.command(append([]string{"build", "-q"}, test.flags...)...), test.code, test.says)
			if left, _ := filepath.Glob(w.path("cache/hatchery/layers/docker-*")); len(left) > 0 {
				t.Errorf("left in the cache: %v", left)
			}
		})
	}
}

// endless is a package with a file that would fill any card: its header says
// so, and nothing of it follows.
func endless(t *testing.T) []byte {
	t.Helper()
	var data bytes.Buffer
	h := &tar.Header{Name: "./big", Typeflag: tar.TypeReg, Mode: 0o644, Size: 9 << 30, Format: tar.FormatGNU}
	if err := tar.NewWriter(&data).WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	control := debtest.Tar(t, debtest.File{Path: "./control", Content: debtest.Control("endless", "1", "armhf") + "\n"})
	return debtest.Archive(
		debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
		debtest.Member{Name: "control.tar.gz", Content: debtest.Compress(t, "gz", control)},
		debtest.Member{Name: "data.tar.gz", Content: debtest.Compress(t, "gz", data.Bytes())},
	)
}

// container is a container image for a platform, with one program in it.
func container(t *testing.T, p v1.Platform, program string) v1.Image {
	t.Helper()
	tar := debtest.Tar(t, debtest.Executable("hello", program))
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tar)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		image, err = mutate.ConfigFile(image, &v1.ConfigFile{
			OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
			RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(t, image)}, Config: v1.Config{Cmd: []string{"/hello"}},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func diffIDs(t *testing.T, image v1.Image) []v1.Hash {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config.RootFS.DiffIDs
}

// containerFile writes such an image for ARM as docker save does.
func containerFile(t *testing.T, path, tag, goarm string) {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err == nil {
		err = tarball.WriteToFile(path, ref, container(t, v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, armProgram(t, goarm)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDockerPreload preloads container images from a registry and from a file.
func TestDockerPreload(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	push := func(tag string, variants ...v1.Platform) {
		t.Helper()
		index := mutate.IndexMediaType(empty.Index, "application/vnd.docker.distribution.manifest.list.v2+json")
		for _, p := range variants {
			program := armProgram(t, "6")
			if p.Architecture != "arm" {
				program = "#!/bin/sh\n"
			}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: container(t, p, program), Descriptor: v1.Descriptor{Platform: &p}})
		}
		ref, err := name.ParseReference(host + "/" + tag)
		if err == nil {
			err = remote.WriteIndex(ref, index)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	arm := func(variant string) v1.Platform {
		return v1.Platform{OS: "linux", Architecture: "arm", Variant: variant}
	}
	amd64 := v1.Platform{OS: "linux", Architecture: "amd64"}
	push("hello:1", amd64, arm("v7"), arm("v6"))
	push("modern:1", amd64, arm("v7"))

	base := dockerBase(t, dockerArchive(t, "20.10.24+dfsg1-1"))
	w := newWorkspace(t, base, "")
	containerFile(t, w.path("local.tar"), "local:2", "6")
	w.docker(base, "docker: {preload: ["+host+"/hello:1, ./local.tar]}\n")
	if out := w.hatchery("build", "-q", "p1", "p2"); !strings.Contains(out, "4 packages and 2 container images") {
		t.Errorf("build said:\n%s", out)
	}
	e2fsck(t, w.path("out/p1.img"))
	images := w.hatchery("inspect", "cat", "out/p1.img", "/var/lib/hatchery/preload/images.tar")
	for _, want := range []string{host + "/hello:1", "docker.io/library/local:2", `"architecture":"arm"`} {
		if !strings.Contains(images, want) {
			t.Errorf("the archive for docker load has no %s", want)
		}
	}
	// The program in them counts among the image's; both are one image with two
	// names.
	programs := func(args ...string) (n, refused int) {
		t.Helper()
		var report struct{ Programs, Refused int }
		if err := json.Unmarshal([]byte(w.hatchery(append([]string{"inspect", "cpu", "out/p1.img", "--json"}, args...)...)), &report); err != nil {
			t.Fatal(err)
		}
		return report.Programs, report.Refused
	}
	everywhere, _ := programs()
	inLib, _ := programs("/var/lib")
	inUsr, _ := programs("/usr")
	if inLib != 1 || everywhere != inUsr+inLib {
		t.Errorf("%d programs, %d of them in /usr and %d in container images", everywhere, inUsr, inLib)
	}
	if _, refused := programs("/var/lib/hatchery", "--model", "zero-2-w"); refused != 0 {
		t.Errorf("%d programs do not fit a newer model", refused)
	}
	lock, err := os.ReadFile(w.path("cluster.lock"))
	if err != nil || !strings.Contains(string(lock), "linux/arm/v6") || strings.Contains(string(lock), "local") {
		t.Errorf("%v; cluster.lock has\n%s", err, lock)
	}
	// What a name stands for is pinned: it may lead elsewhere now, or be gone.
	first := w.imageDigests("out")
	push("hello:1", arm("v7"))
	if err := os.RemoveAll(w.path("out")); err != nil {
		t.Fatal(err)
	}
	w.hatchery("build", "-q", "p1", "p2")
	if again := w.imageDigests("out"); !maps.Equal(first, again) {
		t.Errorf("another image is preloaded: %v, then %v", first, again)
	}

	for _, test := range []struct {
		summary, docker string
		says            []string
	}{
		{"no variant for the processor", "docker: {preload: [" + host + "/modern:1]}\n", []string{"docker.preload", "modern:1", "linux/arm/v7", "linux/arm/v6"}},
		{"no such image", "docker: {preload: [" + host + "/nowhere:1]}\n", []string{"docker.preload", "nowhere:1"}},
		{"a program for another processor in it", "docker: {preload: [./wrong.tar]}\n", []string{"wrong.tar", "/hello", "ARMv7"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorkspace(t, base, "")
			containerFile(t, w.path("wrong.tar"), "wrong:1", "7")
			w.docker(base, test.docker)
			expectFailure(t, w, w.command("build", "-q", "p1"), exitUsage, test.says)
		})
	}
	t.Run("one that may pass is told of by inspect", func(t *testing.T) {
		w := newWorkspace(t, base, "")
		containerFile(t, w.path("wrong.tar"), "wrong:1", "7")
		w.docker(base, "docker: {preload: [./wrong.tar]}\ncpu: {allow: {\"wrong:1:/hello\": it never runs}}\n")
		w.hatchery("build", "-q", "p1")
		report := w.hatchery("inspect", "--cpu", "out/p1.img")
		if want := "A model zero has ARMv6: 1 program does not fit.\n  docker.io/library/wrong:1: /hello needs ARMv7 (GOARM=7), but a model zero has ARMv6\n"; !strings.Contains(report, want) {
			t.Errorf("no %q in:\n%s", want, report)
		}
	})
}

// TestDockerSources takes packages from an archive that cluster.yaml names,
// with its key: the base's own keys do not count for it.
func TestDockerSources(t *testing.T) {
	own := dockerArchive(t, "20.10.24+dfsg1-1")
	base := dockerBase(t, own)
	archive := apttest.New(t)
	archive.Architectures, archive.Suite, archive.Components = []string{"armhf"}, "bookworm", []string{"stable"}
	archive.Add(
		debtest.Build(t, debtest.Control("docker-ce", "5:28.5.2-1~raspbian.12~bookworm", "armhf", "Depends: containerd, runc (>= 1.2)"), []debtest.File{debtest.Executable("/usr/bin/dockerd", armProgram(t, "6"))}),
		debtest.Build(t, debtest.Control("runc", "1.3.0-1", "armhf"), []debtest.File{debtest.Executable("/usr/sbin/runc", armProgram(t, "6"))}),
	)
	archive.Publish()
	source := func(key string) string {
		return fmt.Sprintf("docker: {packages: [docker-ce], sources: {docker: {uri: %q, components: [stable]%s}}}\n", archive.URI(), key)
	}
	prepare := func(t *testing.T, docker string) *workspace {
		w := newWorkspace(t, base, "")
		w.write("docker.asc", string(archive.Key()))
		w.write("other.asc", string(own.Key()))
		w.docker(base, docker)
		return w
	}

	w := prepare(t, source(", key: ./docker.asc"))
	if out := w.hatchery("build", "-q", "p1"); !strings.Contains(out, "Docker 28.5.2 in p1: 3 packages, ") {
		t.Errorf("build said:\n%s", out)
	}
	var manifest struct {
		Targets []struct {
			Packages []struct{ Name, Source string }
		}
	}
	w.readJSON("out/manifest.json", &manifest)
	from := map[string]string{}
	for _, p := range manifest.Targets[0].Packages {
		from[p.Name], _, _ = strings.Cut(p.Source, "/pool/")
	}
	if want := map[string]string{"docker-ce": archive.URI(), "runc": archive.URI(), "containerd": own.URI()}; !maps.Equal(from, want) {
		t.Errorf("got packages from %v, want %v", from, want)
	}
	// An engine of that version takes what older ones do not.
	w.docker(base, source(", key: ./docker.asc"))
	w.hatchery("build", "-q", "controller")
	if text := w.hatchery("inspect", "cat", "out/controller.img", "/etc/docker/daemon.json"); !strings.Contains(text, "ip-forward-no-drop") {
		t.Errorf("the engine 28.5.2 gets\n%s", text)
	}

	for _, test := range []struct {
		summary, docker string
		code            int
		says            []string
	}{
		{"no key of its own", source(""), exitUsage, []string{"docker.sources.docker", "is signed by the key", "give the archive's own key"}},
		{"another archive's key", source(", key: ./other.asc"), exitUsage, []string{"docker.sources.docker", "other.asc", "give the archive's own key"}},
		{"Docker's own package without its source", "docker: {packages: [docker-ce]}\n", exitUsage, []string{"docker.packages", "docker: {sources: …}"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := prepare(t, test.docker)
			expectFailure(t, w, w.command("build", "-q", "p1"), test.code, test.says)
		})
	}
}

// TestDockerUpgrade: what the base has already is replaced where cluster.yaml
// says so, and not before.
func TestDockerUpgrade(t *testing.T) {
	archive := dockerArchive(t, "20.10.24+dfsg1-1")
	archive.Add(
		debtest.Build(t, debtest.Control("extra", "1", "armhf", "Depends: kmod (>= 99)"), nil),
		debtest.Build(t, debtest.Control("kmod", "99", "armhf"), []debtest.File{{Path: "/usr/share/kmod", Content: "new\n"}}),
	)
	archive.Publish()
	base := dockerBase(t, archive)
	w := newWorkspace(t, base, "")
	w.docker(base, "docker: {packages: [extra]}\n")
	expectFailure(t, w, w.command("build", "-q", "p1"), exitUsage, []string{"docker.packages", "kmod", "99", "upgrade: true"})
	w.docker(base, "docker: {packages: [extra], upgrade: true}\n")
	w.hatchery("build", "-q", "p1")
	e2fsck(t, w.path("out/p1.img"))
	status := w.hatchery("inspect", "cat", "out/p1.img", "/var/lib/dpkg/status")
	if n := strings.Count(status, "Package: kmod\n"); n != 1 || !strings.Contains(status, "\nVersion: 99\n") {
		t.Errorf("kmod is there %d times:\n%s", n, status)
	}
}

// TestDockerKilled kills builds while they make the Docker layer: the next one
// gives what an undisturbed one does.
func TestDockerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("many builds")
	}
	base := dockerBase(t, dockerArchive(t, "20.10.24+dfsg1-1"))
	w := newWorkspace(t, base, "")
	w.docker(base, "docker: {preload: [./hello.tar]}\n")
	containerFile(t, w.path("hello.tar"), "hello:1", "6")
	w.hatchery("build", "-q", "p1")
	want := w.imageDigests("out")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	again := func() time.Duration {
		for _, gone := range []string{"out", "cache/hatchery/layers", "cache/hatchery/apt", "cache/hatchery/containers"} {
			if err := os.RemoveAll(w.path(gone)); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		w.hatchery("build", "-q", "p1")
		return time.Since(begun)
	}
	took := again()
	for round := range 10 {
		for _, gone := range []string{"out", "cache/hatchery/layers", "cache/hatchery/apt", "cache/hatchery/containers"} {
			os.RemoveAll(w.path(gone))
		}
		cmd := w.command("build", "-q", "p1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(took))))
		cmd.Process.Kill()
		cmd.Wait()
		w.hatchery("build", "-q", "p1")
		if got := w.imageDigests("out"); got["p1"] != want["p1"] {
			t.Fatalf("round %d: the run after the kill gave another image than an undisturbed one", round)
		}
		if partial, _ := filepath.Glob(w.path("cache/hatchery/layers/*.part*")); len(partial) > 0 {
			t.Errorf("round %d: left in the cache: %v", round, partial)
		}
	}
	w.hatchery("cache", "verify", "-q")
}
