package baseimage_test

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// A larder is a cache with what goes into a Docker layer, and with the layer.
type larder struct {
	cache *baseimage.Cache
	dir   string
	key   string            // of the layer
	names map[string]string // by path: what a test calls it
}

const (
	debText      = "a package"
	sharedText   = "a layer that two container images share"
	otherText    = "another layer"
	configText   = "{}"
	strangerText = "a layer that no manifest names"
	indexText    = "Package: a"
)

func manifestOf(texts ...string) string {
	var layers []string
	for _, text := range texts {
		layers = append(layers, fmt.Sprintf(`{"digest": "sha256:%s"}`, sum([]byte(text))))
	}
	return fmt.Sprintf(`{"config": {"digest": "sha256:%s"}, "layers": [%s]}`, sum([]byte(configText)), strings.Join(layers, ", "))
}

func newLarder(t *testing.T) *larder {
	t.Helper()
	l := &larder{key: sum([]byte("inputs")), names: map[string]string{}}
	l.cache, l.dir = newCache(t)
	image, err := l.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "base.img", disk(50, 1<<20))}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	l.makeLayer(t, image)
	long := sha512.Sum512([]byte(indexText))
	for _, file := range []struct{ name, path, content string }{
		{"deb", "apt/debs/" + sum([]byte(debText)) + ".deb", debText},
		{"half a deb", "apt/debs/" + sum([]byte("x")) + ".part", "half"},
		{"release", "apt/lists/" + sum([]byte("http://archive.example bookworm")) + ".release", "signed"},
		{"index", "apt/lists/" + sum([]byte(indexText)) + ".packages", indexText},
		{"index by SHA-512", fmt.Sprintf("apt/lists/%x.xz", long), indexText},
		{"half an index", fmt.Sprintf("apt/lists/%x.part", long), "half"},
		{"manifest", "containers/blobs/sha256/" + sum([]byte(manifestOf(sharedText, otherText))), manifestOf(sharedText, otherText)},
		{"manifest 2", "containers/blobs/sha256/" + sum([]byte(manifestOf(sharedText))), manifestOf(sharedText)},
		{"config", "containers/blobs/sha256/" + sum([]byte(configText)), configText},
		{"shared", "containers/blobs/sha256/" + sum([]byte(sharedText)), sharedText},
		{"other", "containers/blobs/sha256/" + sum([]byte(otherText)), otherText},
		{"stranger", "containers/blobs/sha256/" + sum([]byte(strangerText)), strangerText},
		{"what was said", "platforms/" + sum([]byte("docker.io/library/alpine:3.20")) + ".json", "{}"},
		{"half a blob", "containers/blobs/sha256/." + sum([]byte("y")) + ".hatchery-tmp", "half"},
		{"half a layer", "layers/.docker-" + sum([]byte("z")) + ".hatchery-tmp", "half"},
		// What is none of it is left alone.
		{"", "platforms/README.json", ""}, {"", "apt/debs/README", ""}, {"", "apt/lists/" + strings.Repeat("a", 63) + ".xz", ""}, {"", "apt/lists/" + sum(nil) + ".bz2", ""},
		{"", "containers/blobs/sha256/" + strings.ToUpper(sum([]byte("x"))), ""}, {"", "containers/layers/" + sum([]byte(sharedText)), "known"}, {"", "layers/mine", ""},
	} {
		place := filepath.Join(l.dir, filepath.FromSlash(file.path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o700), os.WriteFile(place, []byte(file.content), 0o600)); err != nil {
			t.Fatal(err)
		}
		if file.name != "" {
			l.names[place] = file.name
		}
	}
	l.names[l.cache.LayerPath(l.key)] = "layer"
	return l
}

// makeLayer makes a Docker layer in the way that the package's comment asks for.
func (l *larder) makeLayer(t *testing.T, image *baseimage.Image) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	done, err := l.cache.LockLayer(t.Context(), l.key, progress.Discard)
	must(err)
	defer done()
	release, err := l.cache.UseLayer(t.Context(), l.key)
	must(err)
	defer release()
	base, err := layer.OpenBase(image.Path, image.Digest)
	must(err)
	defer base.Close()
	top, err := layer.Create(l.cache.PartialLayer(l.key), base, base.Size())
	must(err)
	_, err = top.WriteAt([]byte(strings.Repeat("Docker ", 5000)), 8192)
	must(err)
	d, err := top.Seal()
	must(err)
	must(top.Close())
	must(os.WriteFile(l.cache.LayerRecord(l.key), []byte(fmt.Sprintf(`{"format": 1, "digest": %q, "files": ["x"],
		"packages": [{"name": "docker.io", "version": "20.10", "architecture": "armhf", "sha256": %q}, {"name": "runc", "version": "1", "automatic": true}],
		"containers": [{"image": "alpine:3.20\u001b[2J"}]}`, d, sum([]byte(debText)))), 0o600))
	must(os.Rename(l.cache.PartialLayer(l.key), l.cache.LayerPath(l.key)))
	computed := strings.TrimSuffix(l.cache.LayerPath(l.key), ".layer") + ".blockmap"
	must(os.WriteFile(computed, []byte("computed of it"), 0o600))
}

func (l *larder) age(t *testing.T, by time.Duration, names ...string) {
	t.Helper()
	past := time.Now().Add(-by)
	for place, name := range l.names {
		if slices.Contains(names, name) {
			if name == "layer" {
				place = filepath.Join(l.dir, "locks", "layer-use-"+l.key+".lock")
			}
			if err := os.Chtimes(place, past, past); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestListFetched(t *testing.T) {
	l := newLarder(t)
	l.age(t, 5*day, "deb", "layer")
	l.age(t, 40*day, "what was said")
	list := func() []string {
		entries, err := l.cache.List()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			if e.Kind == baseimage.KindImage {
				continue
			}
			var from []string
			for _, source := range e.Sources {
				from = append(from, source.Name)
			}
			if e.Size <= 0 || e.OnDisk <= 0 || e.Digest.Validate() != nil || e.Sources == nil {
				t.Errorf("%+v", e)
			}
			got = append(got, fmt.Sprintf("%s: %s, %d days, in use %v, %s", l.names[e.Path], e.Kind, int(time.Since(e.LastUse)/day), e.InUse, strings.Join(from, "+")))
		}
		slices.Sort(got)
		return got
	}
	want := []string{
		"config: container, 0 days, in use false, ",
		"deb: package, 5 days, in use false, docker.io 20.10 armhf",
		"half a blob: download, 0 days, in use false, ",
		"half a deb: download, 0 days, in use false, ",
		"half a layer: half-made, 0 days, in use false, ",
		"half an index: download, 0 days, in use false, ",
		"index by SHA-512: index, 0 days, in use false, ",
		"index: index, 0 days, in use false, ",
		"layer: layer, 5 days, in use false, docker.io 20.10, alpine:3.20?[2J",
		"manifest 2: container, 0 days, in use false, ",
		"manifest: container, 0 days, in use false, ",
		"other: container, 0 days, in use false, ",
		"release: index, 0 days, in use false, ",
		"shared: container, 0 days, in use false, ",
		"stranger: container, 0 days, in use false, ",
		"what was said: platforms, 40 days, in use false, ",
	}
	if got := list(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, test := range []struct {
		summary string
		use     func(context.Context) (func(), error)
		inUse   []string
	}{
		{"packages", l.cache.UsePackages, []string{"deb", "half a deb", "half an index", "index", "index by SHA-512", "release"}},
		{"containers", l.cache.UseContainers, []string{"config", "half a blob", "manifest", "manifest 2", "other", "shared", "stranger"}},
		{"a layer", func(ctx context.Context) (func(), error) { return l.cache.UseLayer(ctx, l.key) }, []string{"layer"}},
		{"the right to make a layer", func(ctx context.Context) (func(), error) {
			return l.cache.LockLayer(ctx, sum([]byte("z")), progress.Discard)
		}, []string{"half a layer"}},
	} {
		release, err := test.use(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range list() {
			if name, rest, _ := strings.Cut(line, ":"); strings.Contains(rest, "in use true") {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, test.inUse) {
			t.Errorf("%s: in use is %q, want %q", test.summary, got, test.inUse)
		}
		// What is in use is not removed, nor is it by verify.
		pruned, err := l.cache.Prune(baseimage.PruneOptions{Keep: []digest.Digest{digest.FromString("x")}, DryRun: false, Unused: 100 * day})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pruned {
			if slices.Contains(test.inUse, l.names[p.Path]) && (p.Removed || p.Why != "in use") {
				t.Errorf("%s: %+v", test.summary, p)
			}
		}
		release()
		if err := os.WriteFile(filepath.Join(l.dir, "layers", ".docker-"+sum([]byte("z"))+".hatchery-tmp"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPruneFetched(t *testing.T) {
	old := []string{"what was said", "deb", "index", "manifest", "config", "shared", "other", "stranger", "half a deb", "layer"}
	keep := func(texts ...string) (all []digest.Digest) {
		for _, text := range texts {
			all = append(all, digest.FromString(text))
		}
		return all
	}
	for _, test := range []struct {
		summary string
		options baseimage.PruneOptions
		left    []string
	}{
		{"nothing is that old", baseimage.PruneOptions{Unused: 100 * day}, append([]string{"half a blob", "half an index", "index by SHA-512", "manifest 2", "release"}, old...)},
		{"unused for a month", baseimage.PruneOptions{Unused: 30 * day}, []string{"half a blob", "half an index", "index by SHA-512", "manifest 2", "release"}},
		{"all", baseimage.PruneOptions{}, nil},
		{"a package that is named", baseimage.PruneOptions{Keep: keep(debText)}, []string{"deb"}},
		{"a container image that is named", baseimage.PruneOptions{Keep: keep(manifestOf(sharedText, otherText))}, []string{"config", "manifest", "other", "shared"}},
		{"another one that shares a layer", baseimage.PruneOptions{Keep: keep(manifestOf(sharedText))}, []string{"config", "manifest 2", "shared"}},
		{"a layer that is named leads nowhere", baseimage.PruneOptions{Keep: keep(otherText)}, []string{"other"}},
		{"half of what is named", baseimage.PruneOptions{Keep: keep("x", "y")}, []string{"half a blob", "half a deb"}},
		{"a layer by its key", baseimage.PruneOptions{Keep: keep("inputs")}, []string{"layer"}},
		{"digests that are none", baseimage.PruneOptions{Keep: []digest.Digest{"sha256:../../x", "", "md5:00"}}, nil},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLarder(t)
			l.age(t, 40*day, old...)
			before := files(t, l.dir)
			for _, dry := range []bool{true, false} {
				test.options.DryRun = dry
				pruned, err := l.cache.Prune(test.options)
				if err != nil {
					t.Fatal(err)
				}
				var left []string
				for _, p := range pruned {
					if name := l.names[p.Path]; name != "" && !p.Removed {
						left = append(left, name)
					}
				}
				slices.Sort(left)
				slices.Sort(test.left)
				if !slices.Equal(left, test.left) {
					t.Errorf("dry run %v: left are %q, want %q", dry, left, test.left)
				}
				if after := files(t, l.dir); dry && !slices.Equal(after, before) {
					t.Errorf("the dry run changed\n%q to\n%q", before, after)
				}
			}
			var there []string
			for _, name := range files(t, l.dir) {
				if what := l.names[filepath.Join(l.dir, name)]; what != "" {
					there = append(there, what)
				}
				if strings.HasPrefix(name, filepath.Join("containers", "layers")) && !slices.Contains(test.left, "shared") {
					t.Errorf("%s is known of a layer that is gone", name)
				}
				if strings.Contains(name, "docker-"+l.key+".") && l.names[filepath.Join(l.dir, name)] == "" && !slices.Contains(test.left, "layer") {
					t.Errorf("%s is left of a layer that is gone", name)
				}
			}
			slices.Sort(there)
			if !slices.Equal(there, test.left) {
				t.Errorf("there are %q, want %q", there, test.left)
			}
			for _, name := range []string{"apt/debs/README", "layers/mine", "apt/lists/" + sum(nil) + ".bz2"} {
				if _, err := os.Stat(filepath.Join(l.dir, filepath.FromSlash(name))); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// TestTakenAfterList: what was taken after it was listed as unused stays, and
// goes once it is let go.
func TestTakenAfterList(t *testing.T) {
	l := newLarder(t)
	entries, err := l.cache.List()
	if err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func(context.Context) (func(), error){
		"layer":       func(ctx context.Context) (func(), error) { return l.cache.UseLayer(ctx, l.key) },
		"deb":         l.cache.UsePackages,
		"half a deb":  l.cache.UsePackages,
		"release":     l.cache.UsePackages,
		"config":      l.cache.UseContainers,
		"half a blob": l.cache.UseContainers,
	} {
		at := slices.IndexFunc(entries, func(e baseimage.Entry) bool { return l.names[e.Path] == name })
		release, err := use(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if removed, err := l.cache.RemoveEntry(entries[at]); removed || err != nil {
			t.Errorf("%s: removed: %v, %v", name, removed, err)
		}
		release()
		if removed, err := l.cache.RemoveEntry(entries[at]); !removed || err != nil {
			t.Errorf("%s: removed: %v, %v", name, removed, err)
		}
	}
}

// TestUseOfALayerIsRecorded: it is as old as its last use.
func TestUseOfALayerIsRecorded(t *testing.T) {
	l := newLarder(t)
	l.age(t, 40*day, "layer")
	release, err := l.cache.UseLayer(t.Context(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	release()
	pruned, err := l.cache.Prune(baseimage.PruneOptions{Unused: day})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pruned {
		if p.Kind == baseimage.KindLayer && p.Why != "used lately" {
			t.Errorf("%+v", p)
		}
	}
}

func TestVerifyFetched(t *testing.T) {
	rewriteText := func(name string) func(t *testing.T, l *larder) {
		return func(t *testing.T, l *larder) {
			for place, what := range l.names {
				if what == name {
					flip(t, place)
				}
			}
		}
	}
	for _, test := range []struct {
		summary, damaged, problem string
		damage                    func(t *testing.T, l *larder)
	}{
		{"good", "", "", func(*testing.T, *larder) {}},
		{"a package", "deb", "its content is not what it was: it has the sha256 ", rewriteText("deb")},
		{"an index", "index", "its content is not what it was: it has the sha256 ", rewriteText("index")},
		{"an index by SHA-512", "index by SHA-512", "its content is not what it was: it has the sha512 ", rewriteText("index by SHA-512")},
		{"a part of a container image", "config", "its content is not what it was", rewriteText("config")},
		{"a Release file, whose signature tells", "", "", rewriteText("release")},
		{"what is not whole", "", "", rewriteText("half a deb")},
		{"the layer's data", "layer", "its content has the digest", func(t *testing.T, l *larder) { breakLayer(t, l, "Docker Docker") }},
		{"the layer's head", "layer", "is not a layer", func(t *testing.T, l *larder) { breakLayer(t, l, "hatchlyr") }},
		{"the layer's map", "layer", "", func(t *testing.T, l *larder) { breakLayer(t, l, "hatchmap") }},
		{"the layer's end", "layer", "", func(t *testing.T, l *larder) {
			os.Chmod(l.cache.LayerPath(l.key), 0o600)
			if err := os.Truncate(l.cache.LayerPath(l.key), 5000); err != nil {
				t.Fatal(err)
			}
		}},
		{"no record", "layer", "its record is missing", func(t *testing.T, l *larder) { os.Remove(l.cache.LayerRecord(l.key)) }},
		{"a record of another layer", "layer", "its record is missing, or of another", func(t *testing.T, l *larder) {
			if err := os.WriteFile(l.cache.LayerRecord(l.key), []byte(`{"digest": "sha256:`+sum(nil)+`"}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"a layer whose base is gone", "", "", func(t *testing.T, l *larder) {
			if err := os.RemoveAll(filepath.Join(l.dir, "images")); err != nil {
				t.Fatal(err)
			}
			os.Mkdir(filepath.Join(l.dir, "images"), 0o700)
		}},
	} {
		for _, remove := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, remove %v", test.summary, remove), func(t *testing.T) {
				l := newLarder(t)
				l.age(t, 5*day, "layer", "deb")
				test.damage(t, l)
				findings, err := l.cache.Verify(t.Context(), baseimage.VerifyOptions{Remove: remove})
				if err != nil {
					t.Fatal(err)
				}
				looked := map[string]bool{}
				for _, f := range findings {
					name := l.names[f.Path]
					looked[name] = true
					bad := name != "" && name == test.damaged
					if (f.Problem != "") != bad || !strings.Contains(f.Problem, test.problem) && bad || f.Removed != (bad && remove) {
						t.Errorf("%s: %q, removed %v", name, f.Problem, f.Removed)
					}
					if _, err := os.Stat(f.Path); (err != nil) != f.Removed {
						t.Errorf("%s: %v", name, err)
					}
				}
				for _, name := range []string{"layer", "deb", "index", "index by SHA-512", "manifest", "stranger"} {
					if !looked[name] {
						t.Errorf("nobody looked at the %s", name)
					}
				}
				if looked["release"] || looked["half a deb"] || looked["half a layer"] {
					t.Errorf("looked at %v", looked)
				}
				// To look at a thing is no use of it.
				entries, err := l.cache.List()
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if name := l.names[e.Path]; name != test.damaged && (name == "layer" || name == "deb") && time.Since(e.LastUse) < 4*day {
						t.Errorf("verify counts as a use of the %s", name)
					}
				}
			})
		}
	}
}

// breakLayer changes a byte of the layer's file where a text stands.
func breakLayer(t *testing.T, l *larder, text string) {
	t.Helper()
	place := l.cache.LayerPath(l.key)
	data, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), text)
	if at < 0 {
		t.Fatalf("no %q in the layer", text)
	}
	data[at] ^= 1
	rewrite(t, place, data)
}

// TestVerifyUsedFetched: what is damaged and in use is told, and left.
func TestVerifyUsedFetched(t *testing.T) {
	l := newLarder(t)
	release, err := l.cache.UseLayer(t.Context(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	breakLayer(t, l, "Docker Docker")
	findings, err := l.cache.Verify(t.Context(), baseimage.VerifyOptions{Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Kind == baseimage.KindLayer && (f.Problem == "" || f.Removed || !f.InUse) {
			t.Errorf("%+v", f)
		}
	}
}

// TestOneMakesALayer: who has the right to make a layer keeps others waiting,
// until it is done or dead.
func TestOneMakesALayer(t *testing.T) {
	cache, dir := newCache(t)
	key := sum([]byte("inputs"))
	done, err := cache.LockLayer(t.Context(), key, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	other, err := baseimage.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := other.LockLayer(impatient, key, progress.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second one may make it: %v", err)
	}
	report, came := new(recorder), make(chan error, 1)
	go func() {
		release, err := other.LockLayer(t.Context(), key, report)
		if err == nil {
			release()
		}
		came <- err
	}()
	if free, err := other.LockLayer(t.Context(), sum([]byte("others")), progress.Discard); err != nil {
		t.Fatal(err)
	} else {
		free()
	}
	for len(report.take()) == 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-came:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	done()
	if err := <-came; err != nil {
		t.Error(err)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	cache, dir := newCache(t)
	for _, key := range []string{"", "x", "../" + sum(nil)[3:], strings.ToUpper(sum([]byte("x"))), sum(nil) + "0"} {
		if _, err := cache.UseLayer(t.Context(), key); err == nil {
			t.Errorf("%q is used", key)
		}
		if _, err := cache.LockLayer(t.Context(), key, progress.Discard); err == nil {
			t.Errorf("%q is locked", key)
		}
	}
	if runtime.GOOS != "windows" {
		for _, sub := range []string{"layers", "apt", "apt/debs", "apt/lists", "containers", "containers/blobs", "containers/blobs/sha256"} {
			if info, err := os.Stat(filepath.Join(dir, sub)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v, %v", sub, info, err)
			}
		}
	}
}

// FuzzLayerRecord: a record that lies beside a layer breaks nothing, and
// commands no terminal.
func FuzzLayerRecord(f *testing.F) {
	cache, err := baseimage.OpenCache(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	key := sum([]byte("inputs"))
	if err := os.WriteFile(cache.LayerPath(key), []byte("x"), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{`{"digest": "x", "packages": [{"name": "\u001b", "sha256": "x"}], "containers": [{"image": "a"}]}`, "null", "[]", `{"packages": {}}`, ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(cache.LayerRecord(key), data, 0o600); err != nil {
			t.Fatal(err)
		}
		entries, err := cache.List()
		if err != nil || len(entries) != 1 {
			t.Fatalf("%+v, %v", entries, err)
		}
		for _, source := range entries[0].Sources {
			if strings.ContainsAny(source.Name, "\x1b\n\u009b") {
				t.Errorf("%q", source.Name)
			}
		}
	})
}
