package imagebuilder_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/declared"
	"hatchery/internal/spec"
	"hatchery/internal/testtool"
)

// files writes files of the bench.
func (b *bench) files(contents map[string]string) {
	b.t.Helper()
	for name, content := range contents {
		if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(b.path(name), []byte(content), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

// containerImage is one for a platform, with a program in it if there is one.
func containerImage(t *testing.T, architecture, variant string, program []byte) v1.Image {
	t.Helper()
	config, err := empty.Image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = "linux", architecture, variant
	image, err := mutate.ConfigFile(empty.Image, config)
	if err != nil || program == nil {
		return image
	}
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	if err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		t.Fatal(err)
	}
	return image
}

// images are a registry's host, with the images that it is given; close ends it.
func images(t *testing.T, all map[string][]v1.Platform) (host string, end func()) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	for ref, platforms := range all {
		var add []mutate.IndexAddendum
		for _, p := range platforms {
			add = append(add, mutate.IndexAddendum{Add: containerImage(t, p.Architecture, p.Variant, nil), Descriptor: v1.Descriptor{Platform: &p}})
		}
		to, err := name.ParseReference(host + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(to, mutate.AppendManifests(empty.Index, add...)); err != nil {
			t.Fatal(err)
		}
	}
	return host, server.Close
}

var (
	zero  = v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}
	later = v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	wide  = v1.Platform{OS: "linux", Architecture: "arm64"}
)

// TestWorkloadsInImages: the controller is told what to run, closed to others, nobody
// else is, and nothing of a secret is anywhere but in the controller's image.
func TestWorkloadsInImages(t *testing.T) {
	b := newBench(t)
	host, _ := images(t, map[string][]v1.Platform{"web:1": {zero, later, wide}})
	t.Setenv("CF_TOKEN", "secret-of-the-environment")
	b.files(map[string]string{
		"stacks/web.yml": "services:\n  web:\n    image: " + host + "/web:1\n    environment: {PASSWORD: \"${PASSWORD}\"}\n    secrets: [cf_token, disk, own]\n    configs: [site]\n    networks: [proxy]\n" +
			"networks: {proxy: {external: true}}\nsecrets: {cf_token: {external: true}, disk: {external: true}, own: {file: ./own.txt}}\nconfigs: {site: {external: true}}\n",
		"stacks/own.txt": "secret-of-a-stack", "variables.env": "PASSWORD=secret-of-a-variable\n", "disk.txt": "secret-of-a-file", "site.conf": "the site",
	})
	const more = "slots: {p1: {}}\nworkloads: [stacks/web.yml]\nenv_file: variables.env\nnetworks: {proxy: {attachable: true}}\n" +
		"secrets: {cf_token: $CF_TOKEN, disk: disk.txt, later: pushed}\nconfigs: {site: site.conf}\nwait_for: all\n"
	states := b.build(b.cluster("homelab", more), "out")
	if states["controller"] != imagebuilder.ImageWritten || states["p1"] != imagebuilder.ImageWritten {
		t.Errorf("the images are %v", states)
	}
	tree := func(target string) diskimage.Tree {
		t.Helper()
		tree, err := openImage(t, b.path("out/"+target+".img")).Tree()
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	controller := tree("controller")
	for path, want := range map[string]struct {
		mode    fs.FileMode
		content string
	}{
		"/var/lib/hatchery/secrets":          {fs.ModeDir | 0o700, ""},
		"/var/lib/hatchery/secrets/cf_token": {0o600, "secret-of-the-environment"},
		"/var/lib/hatchery/secrets/disk":     {0o600, "secret-of-a-file"},
		"/var/lib/hatchery/secrets/web_own":  {0o600, "secret-of-a-stack"},
		"/etc/hatchery/workloads.json":       {0o600, ""},
	} {
		node, err := diskimage.Stat(controller, path)
		if err != nil || node.Mode != want.mode || node.UID != 0 {
			t.Errorf("%s: %v of %d, %v; want %v", path, node.Mode, node.UID, err, want.mode)
			continue
		}
		if content, err := diskimage.ReadFile(controller, path, 1<<20); want.content != "" && string(content) != want.content {
			t.Errorf("%s has %q, %v", path, content, err)
		}
		if _, err := diskimage.Stat(tree("p1"), path); err == nil {
			t.Errorf("p1 has %s", path)
		}
	}
	data, err := diskimage.ReadFile(controller, "/etc/hatchery/workloads.json", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	w, err := declared.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if w.WaitFor != "all" || w.ArchGuard != "error" || len(w.Stacks) != 1 || !cmp.Equal(w.Secrets, []declared.Secret{{Name: "cf_token"}, {Name: "disk"}, {Name: "later", Pushed: true}}) ||
		!cmp.Equal(w.Configs, []declared.Config{{Name: "site", Content: []byte("the site")}}) || len(w.Networks) != 1 || !w.Networks[0].Attachable {
		t.Errorf("the controller is told %s", data)
	}
	if env := w.Stacks[0].Services[0].Spec.TaskTemplate.ContainerSpec.Env; !slices.Contains(env, "PASSWORD=secret-of-a-variable") {
		t.Errorf("the variable is not filled in: %q", env)
	}
	private := map[string]bool{}
	for _, p := range inspect(t, b.path("out/controller.img"), b.path("cache")).Private {
		private[p.Path] = true
	}
	for _, path := range []string{"/etc/hatchery/workloads.json", "/var/lib/hatchery/secrets/web_own"} {
		if !private[path] {
			t.Errorf("inspect does not warn of %s", path)
		}
	}

	var manifest imagebuilder.Manifest
	if err := json.Unmarshal(b.read("out/manifest.json"), &manifest); err != nil {
		t.Fatal(err)
	}
	want := &imagebuilder.WorkloadsEntry{
		WaitFor: "all", ArchGuard: "error", Networks: []string{"proxy"}, Configs: []imagebuilder.ContentEntry{{Name: "site"}},
		Stacks:  []imagebuilder.StackEntry{{Name: "web", File: "web.yml", Services: []imagebuilder.ServiceEntry{{Name: "web_web", Image: host + "/web:1"}}}},
		Secrets: []imagebuilder.ContentEntry{{Name: "cf_token"}, {Name: "disk"}, {Name: "later", Pushed: true}, {Name: "web_own"}},
	}
	for _, target := range manifest.Targets {
		if target.Target == "controller" {
			if diff := cmp.Diff(want, target.Workloads); diff != "" {
				t.Errorf("the manifest (-want +got):\n%s", diff)
			}
		} else if target.Workloads != nil {
			t.Errorf("%s is said to have %v", target.Target, target.Workloads)
		}
	}
	holders := map[string]bool{}
	for _, dir := range []string{"out", "cache"} {
		err := filepath.WalkDir(b.path(dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if bytes.Contains(content, []byte("secret-of-")) {
				rel, _ := filepath.Rel(b.dir, path)
				holders[strings.SplitN(filepath.ToSlash(rel), "-", 2)[0]] = true
				if info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s has a secret in it, and mode %v", rel, info.Mode())
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]bool{"out/controller.img": true, "out/layers/controller": true}, holders); diff != "" {
		t.Errorf("files with secrets in them (-want +got):\n%s", diff)
	}

	// Again, elsewhere, and with another secret.
	if states := b.build(b.cluster("homelab", more), "out"); states["controller"] != imagebuilder.ImageUnchanged {
		t.Errorf("built again, the controller is %s", states["controller"])
	}
	b.build(b.cluster("homelab", more), "out2", "controller")
	if !bytes.Equal(b.read("out/controller.img"), b.read("out2/controller.img")) {
		t.Error("built elsewhere, the controller's image differs")
	}
	t.Setenv("CF_TOKEN", "another")
	if states := b.build(b.cluster("homelab", more), "out"); states["controller"] == imagebuilder.ImageUnchanged || states["p1"] != imagebuilder.ImageUnchanged {
		t.Errorf("with another secret the images are %v", states)
	}
	plan, err := imagebuilder.Plan(t.Context(), b.cluster("homelab", more), imagebuilder.Options{Cache: b.path("cache")})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, plan.Workloads); diff != "" || bytes.Contains(text, []byte("secret-of-")) {
		t.Errorf("the plan has secrets in it: %v, or (-want +got):\n%s", bytes.Contains(text, []byte("secret-of-")), diff)
	}

	// A node's image needs none of it.
	os.Unsetenv("CF_TOKEN")
	b.build(b.cluster("homelab", more), "out", "p1")
	_, err = b.try(b.cluster("homelab", more), "out")
	var mistakes *spec.Errors
	if !errors.As(err, &mistakes) || !strings.Contains(err.Error(), "cluster.yaml:8:21: secrets.cf_token: the secret cf_token: the variable CF_TOKEN is not set") {
		t.Errorf("without the variable: %v", err)
	}
}

// TestWorkloadFaults: everything that is wrong is told at once, where it stands.
func TestWorkloadFaults(t *testing.T) {
	b := newBench(t)
	b.files(map[string]string{
		"one.yml":   "services:\n  web:\n    image: a:${TAG}\n    networks: [proxy]\n    ports: [\"8080:80\"]\nnetworks: {proxy: {external: true}}\n",
		"two.yml":   "services:\n  web:\n    image: b:1\n    deploy: {placement: {constraints: [node.labels.disk == ssd]}}\n",
		"three.yml": "services: {web: {image: \"c:1\", ports: [\"8080:80\"]}}\nconfigs: {site: {name: site, file: ./full}}\n",
		"four.yml":  "services: {web: {image: \"c:1\", ports: [\"8080:80\"]}}\n", "empty": "", "bad.env": "A B=1\n", "full": "x",
	})
	for _, c := range []struct {
		summary, more string
		want          []string
	}{
		{"stacks", "workloads: [one.yml, two.yml]\n", []string{
			"one.yml:3:5: services.web.image: the variable TAG is not set", "one.yml:6:12: networks.proxy: it is external, but cluster.yaml declares no proxy in networks",
			"two.yml:4:26: services.web.deploy.placement.constraints: no node of the cluster meets them",
		}},
		{"contents", "secrets: {a: empty, b: $HATCHERY_NO_SUCH_VARIABLE}\nconfigs: {c: empty}\n", []string{
			"cluster.yaml:4:14: secrets.a: the secret a: it is empty", "cluster.yaml:4:24: secrets.b: the secret b: the variable HATCHERY_NO_SUCH_VARIABLE is not set", "configs.c: the config c: it is empty",
		}},
		{"an env file", "workloads: [one.yml]\nenv_file: bad.env\nnetworks: {proxy: {}}\n", []string{"cluster.yaml: env_file: ", "bad.env: line 1"}},
		{"together", "workloads: [three.yml, four.yml]\nconfigs: {site: full}\n", []string{"four.yml:1:32: services.web.ports: port 8080/tcp is published by service web of stack three", "it makes site, which cluster.yaml declares too"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			cluster := b.cluster("homelab", c.more)
			_, err := imagebuilder.ReadWorkloads(t.Context(), cluster, imagebuilder.WorkloadOptions{Cache: b.path("cache"), Offline: true})
			var mistakes *spec.Errors
			if !errors.As(err, &mistakes) {
				t.Fatalf("the error is %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("there is no %q in\n%v", want, err)
				}
			}
		})
	}
}

// TestProblemsOfBoth: a cluster file with mistakes has its stack files judged too.
func TestProblemsOfBoth(t *testing.T) {
	b := newBench(t)
	b.files(map[string]string{"one.yml": "services:\n  web:\n    image: a:${TAG}\n    networks: [proxy]\nnetworks: {proxy: {external: true}}\n",
		"cluster.yaml": "name: homelab\nbase: raspios_lite_armhf\nuser: {authorized_keys: [" + key + "]}\nworkloads: [one.yml]\nslots: {p9x: {}}\nsecrets: {t: gone}\n"})
	_, err := spec.Load(b.path("cluster.yaml"))
	var mistakes *spec.Errors
	if !errors.As(err, &mistakes) || len(mistakes.Problems) != 2 {
		t.Fatalf("the cluster file has %v", err)
	}
	more := imagebuilder.WorkloadProblems(t.Context(), mistakes)
	if len(more) != 1 || !strings.Contains(more[0].String(), "one.yml:3:5: services.web.image: the variable TAG is not set") {
		t.Errorf("its stack file has %v", more)
	}
	if _, err := spec.Load(b.path("one.yml") + ".none"); !errors.As(err, &mistakes) || imagebuilder.WorkloadProblems(t.Context(), mistakes) != nil {
		t.Errorf("of a file that is not there: %v", err)
	}
}

// TestWorkloadGuard: what registries say of images decides, as long as they say it, and
// from then on what they said last.
func TestWorkloadGuard(t *testing.T) {
	b := newBench(t)
	host, end := images(t, map[string][]v1.Platform{"all:1": {zero, later, wide}, "seven:1": {later, wide}})
	read := func(image, more string, offline bool) (*imagebuilder.Workloads, error) {
		t.Helper()
		b.files(map[string]string{
			"web.yml":      "services:\n  web:\n    image: " + image + "\n",
			"cluster.yaml": "name: homelab\nbase: raspios_lite_arm64\nuser: {authorized_keys: [" + key + "]}\nslots: {p1: {}}\ncontroller: {model: 4}\nworkloads: [web.yml]\n" + more,
		})
		cluster, err := spec.Load(b.path("cluster.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return imagebuilder.ReadWorkloads(t.Context(), cluster, imagebuilder.WorkloadOptions{Cache: b.path("cache"), Offline: offline})
	}
	const lacks = "web.yml:3:5: services.web.image: it may land on p1 (ARMv6), and "
	if w, err := read(host+"/all:1", "", false); err != nil || len(w.Warnings) > 0 {
		t.Errorf("an image for all: %v, %v", w, err)
	}
	if _, err := read(host+"/seven:1", "", false); err == nil || !strings.Contains(err.Error(), lacks) || !strings.Contains(err.Error(), "take an image that has linux/arm/v6") {
		t.Errorf("one for none of the slots: %v", err)
	}
	w, err := read(host+"/seven:1", "arch_guard: off\n", false)
	if err != nil || len(w.Warnings) > 0 {
		t.Errorf("with nobody looking: %v, %v", w, err)
	}
	end()
	past := time.Now().Add(-40 * 24 * time.Hour)
	said, err := filepath.Glob(b.path("cache/platforms/*.json"))
	if err != nil || len(said) != 2 {
		t.Fatal(said, err)
	}
	for _, place := range said {
		if err := os.Chtimes(place, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := read(host+"/seven:1", "", false); err == nil || !strings.Contains(err.Error(), lacks) {
		t.Errorf("with the registry gone: %v", err)
	}
	// What was used now stays when the cache is pruned.
	cache, err := baseimage.OpenCache(b.path("cache"))
	if err == nil {
		_, err = cache.Prune(baseimage.PruneOptions{Unused: 30 * 24 * time.Hour})
	}
	if left, _ := filepath.Glob(b.path("cache/platforms/*.json")); err != nil || len(left) != 1 {
		t.Errorf("of what was said, a month later: %q, %v", left, err)
	}
	if _, err := read(host+"/seven:1", "", true); err == nil || !strings.Contains(err.Error(), lacks) {
		t.Errorf("offline: %v", err)
	}
	w, err = read(host+"/other:1", "", false)
	if err != nil || len(w.Warnings) != 1 || !strings.Contains(w.Warnings[0].String(), "web.yml:3:5: services.web.image: "+host+"/other:1 cannot be read") || !strings.Contains(w.Warnings[0].Message, "the controller looks again") {
		t.Errorf("of an image that nobody knows: %v, %v", w, err)
	}
	w, err = read("172.19.181.254:5000/hello:1", "registry: true\n", false)
	if err != nil || len(w.Warnings) != 1 || !strings.Contains(w.Warnings[0].Message, "the cluster's own") {
		t.Errorf("of one in the cluster's registry: %v, %v", w, err)
	}
}

// TestGuardedAuto: a controller that could be anything is taken for the least, and the
// remedy is said.
func TestGuardedAuto(t *testing.T) {
	b := newBench(t)
	host, _ := images(t, map[string][]v1.Platform{"wide:1": {later, wide}})
	b.files(map[string]string{"web.yml": "services:\n  web:\n    image: " + host + "/wide:1\n    deploy: {placement: {constraints: [node.labels.hatchery.slot == controller]}}\n"})
	for _, c := range []struct{ base, model, want string }{
		{"raspios_lite_armhf", "auto", "it may land on controller (ARMv6), and "},
		{"raspios_lite_armhf", "auto", "The model of the controller is auto, so it could be a Zero"},
		{"raspios_lite_armhf", "4", ""}, {"raspios_lite_arm64", "auto", ""},
	} {
		b.files(map[string]string{"cluster.yaml": "name: homelab\nbase: " + c.base + "\nuser: {authorized_keys: [" + key + "]}\nslots: {p1: {base: raspios_lite_armhf}}\ncontroller: {model: " + c.model + "}\nworkloads: [web.yml]\n"})
		cluster, err := spec.Load(b.path("cluster.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = imagebuilder.ReadWorkloads(t.Context(), cluster, imagebuilder.WorkloadOptions{Cache: b.path("cache")})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s on %s: %v; want %q", c.model, c.base, err, c.want)
		}
	}
}

// TestGuardedArchive: an image that is preloaded from a file is known by the programs in
// it, whatever it calls itself.
func TestGuardedArchive(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles for two processors")
	}
	b := newBench(t)
	b.files(map[string]string{"main.go": "package main\n\nfunc main() {}\n", "web.yml": "services:\n  web:\n    image: hello:1\n"})
	program := func(goarm string) []byte {
		t.Helper()
		build := exec.CommandContext(t.Context(), testtool.Need(t, "go"), "build", "-o", b.path("hello"+goarm), b.path("main.go"))
		build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm", "CGO_ENABLED=0", "GOARM="+goarm)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return b.read("hello" + goarm)
	}
	for _, c := range []struct {
		summary, variant, goarm, guard string
		want, warning                  string
		constraints                    []string
	}{
		{summary: "for a Zero", variant: "v6", goarm: "6", guard: "error"},
		{summary: "for a Zero, of no variant", variant: "", goarm: "6", guard: "error"},
		{summary: "the trap", variant: "v6", goarm: "7", guard: "error", want: "calls itself linux/arm/v6, but its /hello is another matter"},
		{summary: "the trap, kept off", variant: "v6", goarm: "7", guard: "fix", warning: "the constraints [node.labels.hatchery.arch == armv7] are added", constraints: []string{"node.labels.hatchery.arch == armv7"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			tag, err := name.NewTag("hello:1")
			if err != nil {
				t.Fatal(err)
			}
			if err := tarball.WriteToFile(b.path("hello.tar"), tag, containerImage(t, "arm", c.variant, program(c.goarm))); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("name: homelab\nbase: {image: %q}\nuser: {authorized_keys: [%q]}\nslots: {p1: {}, p2: {model: zero-2-w}}\ncontroller: {model: 2}\nworkloads: [web.yml]\narch_guard: %s\ndocker: {preload: [./hello.tar]}\n",
				"raspios_lite_armhf", key, c.guard)
			b.files(map[string]string{"cluster.yaml": text})
			cluster, err := spec.Load(b.path("cluster.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			w, err := imagebuilder.ReadWorkloads(t.Context(), cluster, imagebuilder.WorkloadOptions{Cache: b.path("cache"), Offline: true})
			switch {
			case c.want != "":
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the error is %v", err)
				}
				return
			case err != nil:
				t.Fatal(err)
			case c.warning == "" && len(w.Warnings) > 0, c.warning != "" && (len(w.Warnings) != 1 || !strings.Contains(w.Warnings[0].Message, c.warning)):
				t.Errorf("the warnings are %v", w.Warnings)
			}
			if diff := cmp.Diff(c.constraints, w.Declared.Stacks[0].Services[0].Constraints()); diff != "" {
				t.Errorf("the constraints (-want +got):\n%s", diff)
			}
		})
	}
}
