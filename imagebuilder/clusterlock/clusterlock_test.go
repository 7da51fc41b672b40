package clusterlock_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/imagebuilder/clusterlock"
)

var update = flag.Bool("update", false, "write the goldens anew")

// TestMain is also a process that adds pins until it is killed, or has added
// as many as it is told: see TestWritersBesideEachOther.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CLUSTERLOCK_WRITER"); dir != "" {
		for i := 0; ; i++ {
			name := fmt.Sprintf("%s_%d", os.Getenv("CLUSTERLOCK_NAME"), i%40)
			_, err := clusterlock.Update(context.Background(), dir, func(l *clusterlock.Lock) error {
				l.Images[name] = pin(fmt.Sprintf("https://example.org/%s/%d.img.xz", name, i))
				return nil
			})
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			if i == 39 && os.Getenv("CLUSTERLOCK_ENDLESS") == "" {
				os.Exit(0)
			}
		}
	}
	os.Exit(m.Run())
}

func pin(url string) clusterlock.Image {
	return clusterlock.Image{URL: url, SHA256: strings.Repeat("0", 64), Size: 5, ImageSHA256: strings.Repeat("ab", 32), ImageSize: 7, Released: "2025-12-04"}
}

func write(t *testing.T, dir, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, clusterlock.Name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, clusterlock.Name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func alone(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != clusterlock.Name {
		t.Errorf("the folder holds %v, %v; want %s alone", entries, err, clusterlock.Name)
	}
}

var now = time.Unix(1763769600, 999)

func TestEpoch(t *testing.T) {
	for _, test := range []struct {
		summary, variable, lock string
		want                    int64
		fail                    string
	}{
		{"the customary zero", "0", "", 0, ""},
		{"the variable before the lock", "7", "epoch: 8\n", 7, ""},
		{"the lock", "", "epoch: 8\n", 8, ""},
		{"with what older versions wrote above it", "", "# Made by hatchery; keep it with cluster.yaml.\nepoch: 8\n", 8, ""},
		{"with Windows' line ends and mark", "", "\ufeffepoch: 8\r\n", 8, ""},
		{"neither", "", "", now.Unix(), ""},
		{"the variable leaves a broken lock alone", "7", "epoch: [\n", 7, ""},
		{"no number", "yesterday", "", 0, "SOURCE_DATE_EPOCH is \"yesterday\""},
		{"a fraction", "1.5", "", 0, "SOURCE_DATE_EPOCH"},
		{"before 1970", "-1", "", 0, "SOURCE_DATE_EPOCH"},
		{"past what FAT can say", "4354819200", "", 0, "SOURCE_DATE_EPOCH"},
		{"a lock with a fraction", "", "epoch: 1.5\n", 0, "cluster.lock: epoch is \"1.5\""},
		{"a lock of nonsense", "", "epoch: [\n", 0, "cluster.lock: line 1: "},
		{"a lock without an epoch", "", "{}\n", 0, "cluster.lock: epoch is \"\""},
		{"an empty lock", "", " ", 0, "cluster.lock: epoch is \"\""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Setenv("SOURCE_DATE_EPOCH", test.variable)
			dir := t.TempDir()
			if test.lock != "" {
				write(t, dir, test.lock)
			}
			for _, epoch := range []func(string, time.Time) (time.Time, error){clusterlock.Peek, clusterlock.Epoch} {
				got, err := epoch(dir, now)
				var input *clusterlock.InputError
				switch {
				case test.fail != "":
					if !errors.As(err, &input) || !strings.Contains(err.Error(), test.fail) {
						t.Errorf("%v, want an InputError with %q", err, test.fail)
					}
				case err != nil || !got.Equal(time.Unix(test.want, 0)) || got.Location() != time.UTC:
					t.Errorf("got %v, %v, want %d", got, err, test.want)
				}
				if test.lock != "" && read(t, dir) != test.lock {
					t.Errorf("the lock is now\n%s", read(t, dir))
				}
			}
		})
	}
}

// TestEpochIsLocked: Peek leaves no trace, Epoch does, and once.
func TestEpochIsLocked(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := t.TempDir()
	if _, err := clusterlock.Peek(dir, now); err != nil {
		t.Fatal(err)
	}
	if _, err := clusterlock.Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after a peek: %v, want %v", err, fs.ErrNotExist)
	}
	for _, at := range []time.Time{now, now.Add(time.Hour)} {
		got, err := clusterlock.Epoch(dir, at)
		if err != nil || got.Unix() != now.Unix() {
			t.Errorf("got %v, %v, want %v", got, err, now)
		}
	}
	if !strings.HasSuffix(read(t, dir), "\nepoch: 1763769600\n") || !strings.HasPrefix(read(t, dir), "# Made by hatchery") {
		t.Errorf("the lock is\n%s", read(t, dir))
	}
	alone(t, dir)
	t.Setenv("SOURCE_DATE_EPOCH", "7")
	if got, err := clusterlock.Epoch(t.TempDir(), now); err != nil || got.Unix() != 7 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestForm(t *testing.T) {
	l := &clusterlock.Lock{Epoch: now, Packages: []clusterlock.PackageSet{set(base1, "armhf"), set(base2, "arm64")}, Containers: containers(), Images: map[string]clusterlock.Image{
		"raspios_oldstable_lite_armhf": pin("https://example.org/raspios_oldstable_lite_armhf/a.img.xz"),
		"raspios_lite_armhf":           pin("https://example.org/raspios_lite_armhf/a.img.xz?x=1&y=%20"),
		"null":                         pin("https://example.org/null/a.img.xz"),
		"1e5":                          pin("https://example.org/1e5/a.img.xz"),
		"https://example.org/images/a.img.xz?query-sha256=0123456789abcdef": {SHA256: "1e" + strings.Repeat("0", 62)},
	}}
	golden := filepath.Join("testdata", "cluster.lock")
	if *update {
		if err := os.WriteFile(golden, l.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), string(l.Bytes())); diff != "" {
		t.Error(diff)
	}
	again, err := clusterlock.Parse(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	l.Epoch = time.Unix(l.Epoch.Unix(), 0).UTC()
	if diff := cmp.Diff(l, again); diff != "" {
		t.Error(diff)
	}
}

func TestLocksThatAreRefused(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	image := func(fields string) string { return "epoch: 8\nimages:\n  a:\n    " + fields + "\n" }
	good := "url: https://example.org/a/b\n    sha256: " + digest
	for _, test := range []struct{ summary, content, want string }{
		{"a key of a later version", "epoch: 8\nkernels: {}\n", "a newer hatchery may have written it"},
		{"a key of a later version in an image", image(good + "\n    signature: x"), "a newer hatchery may have written it"},
		{"an epoch twice", "epoch: 8\nepoch: 9\n", "line 2: "},
		{"an image twice", "epoch: 8\nimages: {a: {url: 'https://x/y', sha256: " + digest + "}, a: {}}\n", "line 2: "},
		{"both sides of a merge", "epoch: 8\n<<<<<<< HEAD\nimages: {}\n=======\n>>>>>>> theirs\n", "merge conflict"},
		{"no digest", image("url: https://example.org/a/b"), `images: "a": sha256 is missing`},
		{"a short digest", image("url: https://example.org/a/b\n    sha256: abc"), "sha256 is missing, or no SHA-256"},
		{"no URL", image("sha256: " + digest), "url is missing"},
		{"a file", image("url: file:///etc/passwd\n    sha256: " + digest), "url is no https URL"},
		{"a URL with an account", image("url: https://me:pw@example.org/a\n    sha256: " + digest), "url is no https URL"},
		{"what would disturb a terminal", image("url: \"https://example.org/\\u009b2J\"\n    sha256: " + digest), "characters that are none"},
		{"a negative size", image(good + "\n    size: -1"), "its sizes make no sense"},
		{"a size of text", image(good + "\n    size: much"), "line 6: "},
		{"a wrong digest of the image", image(good + "\n    image_sha256: x"), "image_sha256"},
		{"a date of words", image(good + "\n    released: yesterday"), "released"},
		{"a path for a name", "epoch: 8\nimages: {../a: {url: 'https://x/y', sha256: " + digest + "}}\n", "neither a name nor a URL"},
		{"images as a list", "epoch: 8\nimages:\n  - a\n", "line 3: "},
		{"a list in brackets", "epoch: 8\nimages: [a]\n", "a list in brackets has no place"},
		{"a list", "- epoch: 8\n", "line 1: "},
		{"a list in a list", "epoch: 8\npackages:\n  - - a\n", "line 3: a list in a list"},
		{"an alias", "epoch: &a 8\nimages: *a\n", "has no place in it"},
		{"a tag", "epoch: !!str 8\n", "has no place in it"},
		{"two documents", "epoch: 8\n---\nepoch: 9\n", "has no place in it"},
		{"deep", "epoch: 8\nimages: " + strings.Repeat("{a: ", 5000), "nested too deeply"},
		{"large", "epoch: 8\n" + strings.Repeat("# x\n", 1<<18), "larger than 1 MiB"},
		{"many words", "epoch: 8\n" + "packages:\n" + strings.Repeat("  - a: 1\n", 30_000), "more than 100000 words"},
		{"many keys", "epoch: 8\nimages:\n" + numbered(1001), "line 1003: more than 1000 keys"},
		{"many keys in braces", "epoch: 8\nimages: {" + strings.ReplaceAll(numbered(1001), "\n", ",") + "}\n", "line 2: more than 1000 keys"},
		{"many keys of a list's entry", "epoch: 8\npackages:\n  - base: x\n  " + strings.ReplaceAll(numbered(1001), "\n", "\n  "), "line 1004: more than 1000 keys"},
		{"binary", "epoch: 8\n\xff", "not UTF-8"},
		{"an endless number", "epoch: " + strings.Repeat("8", 1<<19), "epoch is"},
		{"an endless word", "epoch: 8\n" + strings.Repeat("x", 1<<19) + ": 1\n", "a newer hatchery"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, test.content)
			_, err := clusterlock.Read(dir)
			var input *clusterlock.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "remove it to lock anew") || len(err.Error()) > 1000 {
				t.Errorf("got %v, want an InputError with %q", err, test.want)
			}
			if _, err := clusterlock.Update(t.Context(), dir, func(*clusterlock.Lock) error { return nil }); !errors.As(err, &input) || read(t, dir) != test.content {
				t.Errorf("an update: %v, and the lock is now\n%.200s", err, read(t, dir))
			}
			alone(t, dir)
		})
	}
}

// numbered is n entries of a mapping.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  a%d: 1\n", i)
	}
	return b.String()
}

func TestKey(t *testing.T) {
	const secret = "hunter2"
	keys := map[string]string{}
	for _, image := range []string{
		"raspios_lite_armhf", "https://example.org/a.img.xz", "https://example.org/a.img.xz?token=hunter2", "https://example.org/a.img.xz?file=b", "https://example.org/%zz?hunter2",
	} {
		key := clusterlock.Key(image)
		if strings.Contains(key, secret) || keys[key] != "" {
			t.Errorf("%s is locked as %s, like %q", image, key, keys[key])
		}
		keys[key] = image
		if !strings.Contains(image, "?") && key != image {
			t.Errorf("%s is locked as %s", image, key)
		}
	}
}

func TestUpdate(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := t.TempDir()
	add := func(name string) func(*clusterlock.Lock) error {
		return func(l *clusterlock.Lock) error {
			l.Images[name] = pin("https://example.org/" + name + "/1.img.xz")
			return nil
		}
	}
	write(t, dir, "# mine\nepoch: 8\n")
	if _, err := clusterlock.Update(t.Context(), dir, func(*clusterlock.Lock) error { return nil }); err != nil || read(t, dir) != "# mine\nepoch: 8\n" {
		t.Errorf("an update of nothing: %v\n%s", err, read(t, dir))
	}
	broken := errors.New("broken")
	if _, err := clusterlock.Update(t.Context(), dir, func(l *clusterlock.Lock) error { add("a")(l); return broken }); !errors.Is(err, broken) || read(t, dir) != "# mine\nepoch: 8\n" {
		t.Errorf("an update that fails: %v\n%s", err, read(t, dir))
	}
	if _, err := clusterlock.Update(t.Context(), dir, func(l *clusterlock.Lock) error {
		l.Images["a"] = clusterlock.Image{URL: "ftp://x"}
		return nil
	}); err == nil || read(t, dir) != "# mine\nepoch: 8\n" {
		t.Errorf("an update to what could not be read again: %v\n%s", err, read(t, dir))
	}
	for _, name := range []string{"b_x", "a_x"} {
		l, err := clusterlock.Update(t.Context(), dir, add(name))
		if err != nil || l.Epoch.Unix() != 8 || l.Images[name].Size != 5 {
			t.Fatalf("%+v, %v", l, err)
		}
	}
	alone(t, dir)
	l, err := clusterlock.Read(dir)
	if err != nil || len(l.Images) != 2 || strings.Index(read(t, dir), "a_x") > strings.Index(read(t, dir), "b_x") {
		t.Errorf("%+v, %v\n%s", l, err, read(t, dir))
	}

	t.Setenv("SOURCE_DATE_EPOCH", "77")
	fresh := t.TempDir()
	if l, err := clusterlock.Update(t.Context(), fresh, add("a_x")); err != nil || l.Epoch.Unix() != 77 {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestLink: who keeps the lock elsewhere, with a link to it, goes on doing so.
func TestLink(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere, "epoch: 8\n")
	if err := os.Symlink(filepath.Join(elsewhere, clusterlock.Name), filepath.Join(dir, clusterlock.Name)); err != nil {
		t.Skip(err)
	}
	if _, err := clusterlock.Update(t.Context(), dir, func(l *clusterlock.Lock) error { l.Epoch = now; return nil }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(dir, clusterlock.Name)); err != nil || info.Mode()&fs.ModeSymlink == 0 || !strings.Contains(read(t, elsewhere), "epoch: 1763769600\n") {
		t.Errorf("%v, %v\n%s", info.Mode(), err, read(t, elsewhere))
	}
}

// TestNoFile: a folder or a pipe of that name is neither read for ever nor
// overwritten.
func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, clusterlock.Name), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := clusterlock.Read(dir)
	var input *clusterlock.InputError
	if !errors.As(err, &input) {
		t.Error(err)
	}
	if _, err := clusterlock.Update(t.Context(), filepath.Join(dir, "gone"), func(*clusterlock.Lock) error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func writer(t *testing.T, dir, name string, more ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(more, "CLUSTERLOCK_WRITER="+dir, "CLUSTERLOCK_NAME="+name)...)
	cmd.Stdout = os.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestWritersBesideEachOther: of what several processes lock at once nothing
// is lost.
func TestWritersBesideEachOther(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := t.TempDir()
	var writers []*exec.Cmd
	for _, name := range []string{"a", "b", "c"} {
		writers = append(writers, writer(t, dir, name))
	}
	for _, w := range writers {
		if err := w.Wait(); err != nil {
			t.Error(err)
		}
	}
	l, err := clusterlock.Read(dir)
	if err != nil || len(l.Images) != 120 {
		t.Fatalf("%d pins, %v; want 120", len(l.Images), err)
	}
	alone(t, dir)
}

// TestKilledWriters: whenever a writer is killed the lock is whole, the next
// one goes on, and cleans up.
func TestKilledWriters(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "8")
	dir := t.TempDir()
	write(t, dir, "epoch: 8\n")
	for round := range 10 {
		w := writer(t, dir, "a", "CLUSTERLOCK_ENDLESS=1")
		for before := read(t, dir); read(t, dir) == before; {
			time.Sleep(time.Duration(round) * time.Millisecond)
		}
		if err := w.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		w.Wait()
		if _, err := clusterlock.Read(dir); err != nil {
			t.Fatal(err)
		}
	}
	// What a kill between two system calls leaves, which is hard to hit.
	if err := os.WriteFile(filepath.Join(dir, ".cluster.lock.123.hatchery-tmp"), []byte("epo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := clusterlock.Update(t.Context(), dir, func(l *clusterlock.Lock) error { clear(l.Images); return nil }); err != nil {
		t.Fatal(err)
	}
	alone(t, dir)
}

func FuzzParse(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "cluster.lock"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	for _, seed := range []string{"epoch: 8\n", "epoch: 8\nimages: {a: {url: 'https://x/y', sha256: " + strings.Repeat("ab", 32) + "}}\n", "? a\n: b", "{{{", "epoch: |\n 8\n", "epoch: 8\npackages:\n  - base: a\n    wanted: \n", "epoch: 8\ncontainers:\n- image: a\n  platform: linux/arm\n  digest: sha256:" + strings.Repeat("ab", 32) + "\n", "<<: *a", "\t", "a: 'b", "epoch: 8 #"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := clusterlock.Parse(data)
		if err != nil {
			return
		}
		again, err := clusterlock.Parse(l.Bytes())
		if err != nil || !cmp.Equal(l, again, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v becomes %+v, %v\n%s", l, again, err, l.Bytes())
		}
	})
}
