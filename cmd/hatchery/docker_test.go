//go:build linux

package main

import (
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
		{summary: "a package that is missing", docker: "docker: {packages: [dokcer.io]}\n",
			code: exitUsage, says: []string{"docker.packages", "dokcer.io", "docker.io"}},
		{summary: "a version that is missing", docker: "docker: {packages: [docker.io=19.03.1]}\n",
			code: exitUsage, says: []string{"docker.packages", "19.03.1", "20.10.24+dfsg1-1"}},
		{summary: "a dependency that is missing", archive: func(t *testing.T, a *apttest.Archive) {
			a.Add(debtest.Build(t, debtest.Control("extra", "1", "armhf", "Depends: nowhere (>= 2)"), nil))
			a.Publish()
		}, docker: "docker: {packages: [docker.io, extra]}\n", code: exitUsage, says: []string{"extra", "nowhere (>= 2)"}},
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
