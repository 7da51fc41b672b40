package imagebuilder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/internal/imagetest"
	"hatchery/internal/spec"
	"hatchery/internal/testtool"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx5a0Vd1zXVx6y0dJmQ8Qm3i1r7pM0ZbS2jJx0k7r3E test"

// A bench is a folder in which clusters are built from one miniature.
type bench struct {
	t         *testing.T
	dir, base string
}

func newBench(t *testing.T) *bench {
	t.Setenv("SOURCE_DATE_EPOCH", "1763769600")
	return &bench{t: t, dir: t.TempDir(), base: imagetest.Bookworm(t)}
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// cluster loads a cluster file, with more lines than the three that it needs.
func (b *bench) cluster(name, more string) *spec.Cluster {
	b.t.Helper()
	text := fmt.Sprintf("name: %s\nbase: {image: %q}\nuser: {authorized_keys: [%q]}\n%sdocker: {packages: []}\n", name, b.base, key, more)
	path := b.path("cluster.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	cluster, err := spec.Load(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return cluster
}

func (b *bench) try(c *spec.Cluster, out string, targets ...string) (*imagebuilder.Result, error) {
	return imagebuilder.Build(context.Background(), c, imagebuilder.Options{Out: b.path(out), Cache: b.path("cache"), Targets: targets})
}

// build builds and gives the state of each target.
func (b *bench) build(c *spec.Cluster, out string, targets ...string) map[string]string {
	b.t.Helper()
	result, err := b.try(c, out, targets...)
	if err != nil {
		b.t.Fatal(err)
	}
	states := map[string]string{}
	for _, t := range result.Targets {
		states[t.Target] = t.State
	}
	return states
}

func (b *bench) read(name string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// TestOtherNamesKeepTheirContent: a backup made of hard links survives.
func TestOtherNamesKeepTheirContent(t *testing.T) {
	b := newBench(t)
	b.build(b.cluster("homelab", ""), "out", "p1")
	before := b.read("out/p1.img")
	if err := os.Link(b.path("out/p1.img"), b.path("backup.img")); err != nil {
		t.Skip(err)
	}
	states := b.build(b.cluster("homelab", "slots: {p1: {hostname: oneil}}\n"), "out", "p1")
	if states["p1"] != imagebuilder.ImageWritten {
		t.Errorf("p1 was %s, want %s", states["p1"], imagebuilder.ImageWritten)
	}
	if !bytes.Equal(b.read("backup.img"), before) {
		t.Error("the image's other name shows another content")
	}
	if bytes.Equal(b.read("out/p1.img"), before) {
		t.Error("the image did not change, so nothing was shown")
	}
}

// TestSwappedLayer: a layer that is not the one on record is not believed.
func TestSwappedLayer(t *testing.T) {
	b := newBench(t)
	large := b.path("mine/p1/srv/large")
	if err := os.MkdirAll(filepath.Dir(large), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, bytes.Repeat([]byte("hatchery"), 1<<17), 0o644); err != nil {
		t.Fatal(err)
	}
	slots := "slots: {p1: {}, p2: {}}\noverlays: [./mine]\n"
	b.build(b.cluster("homelab", slots), "out", "p1", "p2")
	layers := func(target string) string {
		found, err := filepath.Glob(b.path("out/layers/" + target + "-*.layer"))
		if err != nil || len(found) != 1 {
			t.Fatalf("layers of %s: %v, %v", target, found, err)
		}
		return found[0]
	}
	other, err := os.ReadFile(layers("p2"))
	if err != nil {
		t.Fatal(err)
	}
	swapped := layers("p1")
	if err := os.Remove(swapped); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(swapped, other, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(large); err != nil {
		t.Fatal(err)
	}
	c := b.cluster("homelab", slots)
	b.build(c, "out", "p1")
	b.build(c, "afresh", "p1")
	if !bytes.Equal(b.read("out/p1.img"), b.read("afresh/p1.img")) {
		t.Error("blocks of the older image were left in")
	}
}

// TestFoldersThatAreNotOurs are refused before anything in them is touched.
func TestFoldersThatAreNotOurs(t *testing.T) {
	b := newBench(t)
	c := b.cluster("homelab", "")
	if err := os.Mkdir(b.path("photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path("photos/cat.jpg"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.build(c, "out", "p1")
	for _, test := range []struct {
		summary string
		cluster *spec.Cluster
		out     string
		want    string
	}{
		{"a folder with other things", c, "photos", "cat.jpg"},
		{"the project's own folder", c, ".", "holds other things"},
		{"the folder of keys", c, "identity", "holds the cluster's keys"},
		{"a folder in the folder of keys", c, "identity/out", "holds the cluster's keys"},
		{"another cluster's outputs", b.cluster("elsewhere", ""), "out", "the images of the cluster homelab"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := b.try(test.cluster, test.out, "p1")
			var input *imagebuilder.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want an InputError with %q", err, test.want)
			}
		})
	}
	if info, err := os.Stat(b.path("photos")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder of photos is %v now, %v", info.Mode(), err)
	}
}

// TestSlotThatIsGone: its image stays, but not in silence.
func TestSlotThatIsGone(t *testing.T) {
	b := newBench(t)
	b.build(b.cluster("homelab", "slots: {p1: {}, p2: {}}\n"), "out", "p1", "p2")
	result, err := b.try(b.cluster("homelab", "slots: {p1: {}}\n"), "out", "p1")
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "p2.img") {
		t.Errorf("warnings %q, want one of p2.img", result.Warnings)
	}
}

// TestNamesThatFATTakesForOne are refused.
func TestNamesThatFATTakesForOne(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"Notes.txt", "notes.TXT"} {
		path := b.path("mine/node/boot/firmware/" + name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.try(b.cluster("homelab", "overlays: [./mine]\n"), "out", "p1")
	var input *imagebuilder.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), "Notes.txt") || !strings.Contains(err.Error(), "notes.TXT") {
		t.Errorf("%v, want an InputError that names both", err)
	}
}

// TestCmdlineWithoutRoot: such a base would not start, whatever is added.
func TestCmdlineWithoutRoot(t *testing.T) {
	b := newBench(t)
	b.base = imagetest.Bookworm(t, imagetest.WithBootFile("cmdline.txt", "quiet\n"))
	_, err := b.try(b.cluster("homelab", ""), "out", "p1")
	var input *imagebuilder.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), "cmdline.txt") {
		t.Errorf("%v, want an InputError of cmdline.txt", err)
	}
}

func TestEpoch(t *testing.T) {
	for _, test := range []struct {
		summary, variable, lock, want string // want "": the build succeeds
	}{
		{"the customary zero", "0", "", ""},
		{"no number", "yesterday", "", "SOURCE_DATE_EPOCH"},
		{"a fraction", "1.5", "", "SOURCE_DATE_EPOCH"},
		{"before 1970", "-1", "", "SOURCE_DATE_EPOCH"},
		{"past what FAT can say", "4354819200", "", "SOURCE_DATE_EPOCH"},
		{"a lock with a fraction", "", "epoch: 1.5\n", "cluster.lock"},
		{"a lock of nonsense", "", "epoch: [\n", "cluster.lock"},
		{"a lock without an epoch", "", "{}\n", "cluster.lock"},
		{"a lock", "", "epoch: 1763769600\n", ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			b := newBench(t)
			t.Setenv("SOURCE_DATE_EPOCH", test.variable)
			if test.lock != "" {
				if err := os.WriteFile(b.path("cluster.lock"), []byte(test.lock), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := b.try(b.cluster("homelab", ""), "out", "p1")
			var input *imagebuilder.InputError
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (!errors.As(err, &input) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want an InputError with %q", err, test.want)
			}
		})
	}
}

// TestUpdateByClone brings an image up to date on a file system with reflinks:
// a reader of the old image goes on reading the old image.
func TestUpdateByClone(t *testing.T) {
	testtool.NeedRoot(t)
	b := newBench(t)
	disk, mnt := b.path("disk"), b.path("out")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 512<<20); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mkfs.xfs", "-q", disk)
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mount", "-o", "loop", disk, mnt)
	defer testtool.Run(t, "umount", mnt)

	b.build(b.cluster("homelab", ""), "out", "p1")
	before := b.read("out/p1.img")
	reader, err := os.Open(b.path("out/p1.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := b.cluster("homelab", "slots: {p1: {hostname: oneil}}\n")
	if states := b.build(c, "out", "p1"); states["p1"] != imagebuilder.ImageUpdated {
		t.Errorf("p1 was %s, want %s", states["p1"], imagebuilder.ImageUpdated)
	}
	still := make([]byte, len(before))
	if _, err := reader.ReadAt(still, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(still, before) {
		t.Error("the image changed under its reader")
	}
	b.build(c, "afresh", "p1")
	if !bytes.Equal(b.read("out/p1.img"), b.read("afresh/p1.img")) {
		t.Error("the updated image differs from one written afresh")
	}
	if states := b.build(c, "out", "p1"); states["p1"] != imagebuilder.ImageUnchanged {
		t.Errorf("p1 was %s, want %s", states["p1"], imagebuilder.ImageUnchanged)
	}
}

// TestOutputsAreClosed: images, layers and what tells of them are nobody
// else's, whatever the umask, and git ignores them.
func TestOutputsAreClosed(t *testing.T) {
	b := newBench(t)
	b.build(b.cluster("homelab", ""), "out", "controller", "p1")
	files := 0
	err := filepath.WalkDir(b.path("out"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return nil
	})
	if err != nil || files < 8 {
		t.Errorf("%d files, %v", files, err)
	}
	if !strings.Contains(string(b.read("out/.gitignore")), "\n*\n") {
		t.Error("git does not ignore the folder")
	}
	manifest := b.read("out/manifest.json")
	if bytes.Contains(manifest, []byte("PRIVATE KEY")) {
		t.Error("the manifest holds a key")
	}
}
