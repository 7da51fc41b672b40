package dockerlayer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/firstboot/packages"
	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/deb/debtest"
	"hatchery/imagebuilder/dockerlayer"
	"hatchery/imagebuilder/dpkg"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/download"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/progress"
)

// A kitchen has a base image, and a cache in which a package lies already.
type kitchen struct {
	in     dockerlayer.Inputs
	o      dockerlayer.Options
	judged int
}

func newKitchen(t *testing.T) *kitchen {
	t.Helper()
	place := imagetest.Bookworm(t, imagetest.WithArchitecture("armhf"))
	f, err := os.Open(place)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := digest.FromReader(f)
	if err != nil {
		t.Fatal(err)
	}
	base, err := layer.OpenBase(place, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })

	dir := t.TempDir()
	cache, err := baseimage.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := debtest.Build(t, "Package: hello\nVersion: 1.0\nArchitecture: armhf\nMaintainer: nobody <nobody@archive.example>\nDescription: greets\n",
		[]debtest.File{{Path: "/usr/bin/hello", Mode: 0o755, Content: "greet\n"}})
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	if err := os.WriteFile(filepath.Join(dir, "apt", "debs", sum+".deb"), content, 0o400); err != nil {
		t.Fatal(err)
	}
	client := download.New()
	client.Offline = true
	k := &kitchen{}
	k.in = dockerlayer.Inputs{Base: base, Epoch: time.Unix(1_600_000_000, 0), Packages: []dockerlayer.Package{{Deb: apt.Deb{
		Name: "hello", Version: "1.0", Architecture: "armhf", URL: "https://archive.example/hello.deb", SHA256: sum, Size: int64(len(content)),
	}}}}
	k.o = dockerlayer.Options{
		Cache: cache, APT: apt.Options{Cache: dir, Client: client}, Preload: preload.Options{Cache: dir, Client: client}, Progress: progress.Discard,
		JudgeID: "one", Judge: func(context.Context, *ext4.FS, *dockerlayer.Record, []*preload.Image) error { k.judged++; return nil },
	}
	return k
}

func (k *kitchen) open(t *testing.T) *dockerlayer.Layer {
	t.Helper()
	l, err := dockerlayer.Open(t.Context(), k.in, k.o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestOnce: a layer is made and judged once, and is the same whenever it is
// made.
func TestOnce(t *testing.T) {
	k := newKitchen(t)
	first := k.open(t)
	d, place := first.Digest(), first.Path()
	if !first.Made || k.judged != 1 || place != k.o.Cache.LayerPath(k.in.Key()) {
		t.Errorf("made %v, judged %d times, at %s", first.Made, k.judged, place)
	}
	if text := read(t, first, "/usr/bin/hello"); text != "greet\n" {
		t.Errorf("got %q", text)
	}
	if left, _ := filepath.Glob(filepath.Join(k.o.Cache.Layers(), ".*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	again := k.open(t)
	if again.Made || again.Digest() != d || k.judged != 1 {
		t.Errorf("made %v, judged %d times", again.Made, k.judged)
	}
	again.Close()

	k.o.JudgeID = "another"
	k.open(t).Close()
	k.open(t).Close()
	if k.judged != 2 {
		t.Errorf("for another processor: judged %d times in all", k.judged)
	}

	if err := os.WriteFile(place, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	anew := k.open(t)
	defer anew.Close()
	if !anew.Made || anew.Digest() != d {
		t.Errorf("after damage: made %v, %s, want %s", anew.Made, anew.Digest(), d)
	}
}

// TestRefused: what the judge refuses is not in the cache.
func TestRefused(t *testing.T) {
	k := newKitchen(t)
	wrong := errors.New("needs ARMv7")
	k.o.Judge = func(context.Context, *ext4.FS, *dockerlayer.Record, []*preload.Image) error { return wrong }
	if _, err := dockerlayer.Open(t.Context(), k.in, k.o); !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(k.o.Cache.Layers())
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestKey: whatever changes the layer changes its key.
func TestKey(t *testing.T) {
	k := newKitchen(t)
	key := k.in.Key()
	for _, test := range []struct {
		summary string
		change  func(*dockerlayer.Inputs)
	}{
		{"another package", func(in *dockerlayer.Inputs) { in.Packages[0].SHA256 = strings.Repeat("0", 64) }},
		{"automatic", func(in *dockerlayer.Inputs) { in.Packages[0].Automatic = true }},
		{"no package", func(in *dockerlayer.Inputs) { in.Packages = nil }},
		{"upgrade", func(in *dockerlayer.Inputs) { in.Upgrade = true }},
		{"another epoch", func(in *dockerlayer.Inputs) { in.Epoch = in.Epoch.Add(time.Second) }},
		{"a container image", func(in *dockerlayer.Inputs) { in.Containers = []preload.Pinned{{Digest: "sha256:1"}} }},
	} {
		in := k.in
		in.Packages = append([]dockerlayer.Package{}, in.Packages...)
		test.change(&in)
		if in.Key() == key {
			t.Errorf("%s: the key is the same", test.summary)
		}
	}
}

// TestThePlacesThatTheNodeKnows: the agent looks where things are laid.
func TestThePlacesThatTheNodeKnows(t *testing.T) {
	if dpkg.ScriptsFile != "/var/lib/hatchery/packages/scripts" {
		t.Errorf("the agent runs no scripts of %s", dpkg.ScriptsFile)
	}
	root := t.TempDir()
	archive := filepath.Join(root, filepath.FromSlash(dockerlayer.PreloadFile))
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive, []byte("images"), 0o644); err != nil {
		t.Fatal(err)
	}
	left, err := packages.Look(packages.Options{StateDir: filepath.Join(root, "var/lib/hatchery"), Calls: filepath.Join(root, "calls")})
	if err != nil || !left.Load {
		t.Errorf("the agent finds %+v, %v", left, err)
	}
}

func read(t *testing.T, l *dockerlayer.Layer, name string) string {
	t.Helper()
	table, err := parttable.Read(l, l.Size())
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partition(parttable.Root)
	root, err := ext4.OpenReadOnly(p.Reader(l), p.Size)
	if err != nil {
		t.Fatal(err)
	}
	f, err := root.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestWrittenTo: a layer in the cache that somebody wrote to is not used: it is
// made anew, and is what it was.
func TestWrittenTo(t *testing.T) {
	k := newKitchen(t)
	l := k.open(t)
	place, was := l.Path(), l.Digest()
	l.Close()
	content, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	// A bit of its data, which no header covers: the last block that has any.
	at := len(content) - 1
	for content[at] == 0 {
		at--
	}
	for _, damage := range []struct {
		summary string
		content []byte
	}{
		{"a bit", func() []byte { c := bytes.Clone(content); c[at/2] ^= 1; return c }()},
		{"its end", content[:len(content)/2]},
	} {
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, damage.content, 0o400); err != nil {
			t.Fatal(err)
		}
		again := k.open(t)
		if !again.Made || again.Digest() != was {
			t.Errorf("%s is damaged: made anew %v, digest %s, want %s", damage.summary, again.Made, again.Digest(), was)
		}
		if err := again.Verify(t.Context()); err != nil {
			t.Errorf("%s was damaged: %v", damage.summary, err)
		}
		again.Close()
	}
}
