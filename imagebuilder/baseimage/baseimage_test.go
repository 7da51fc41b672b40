package baseimage_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"

	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
)

// disk is a raw image: a partition table's signature, data, and holes.
func disk(seed uint64, size int) []byte {
	rng := rand.New(rand.NewPCG(seed, 3))
	image := make([]byte, size)
	for at := 0; at < size; at += 256 << 10 {
		part := image[at:min(size, at+rng.IntN(60<<10))]
		for i := range part {
			part[i] = byte(rng.Uint32() & 0x3f)
		}
	}
	image[510], image[511] = 0x55, 0xaa
	return image
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func xzed(t testing.TB, data []byte, args ...string) []byte {
	cmd := exec.Command(testtool.Need(t, "xz"), append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func gzipped(t testing.TB, parts ...[]byte) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		w := gzip.NewWriter(&b)
		w.Write(p)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(data, nil)
}

func zipped(t testing.TB, names []string, data []byte) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range names {
		m, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		m.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// recorder remembers which work was done.
type recorder struct {
	mu    sync.Mutex
	names []string
	tasks []*task
	begun func(name string)
}

type task struct {
	mu          sync.Mutex
	total, done int64
	ended       bool
}

func (r *recorder) Begin(name string, total int64) progress.Task {
	r.mu.Lock()
	t := &task{total: total}
	r.names = append(r.names, name)
	r.tasks = append(r.tasks, t)
	r.mu.Unlock()
	if r.begun != nil {
		r.begun(name)
	}
	return t
}

func (t *task) Add(n int64) { t.mu.Lock(); t.done += n; t.mu.Unlock() }
func (t *task) End(error)   { t.mu.Lock(); t.ended = true; t.mu.Unlock() }

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := r.names
	r.names = nil
	return names
}

func newCache(t testing.TB) (*baseimage.Cache, string) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, err := baseimage.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.SetSettled(0)
	return c, dir
}

// put writes a file whose modification is long past.
func put(t testing.TB, name string, data []byte) string {
	t.Helper()
	place := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(place, data, 0o644); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(place, past, past); err != nil {
		t.Fatal(err)
	}
	return place
}

// files lists what lies in the cache, without locks and with the digests cut.
func files(t testing.TB, dir string) []string {
	var out []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, _ := filepath.Rel(dir, path); !e.IsDir() && !strings.HasPrefix(rel, "locks") {
			out = append(out, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func checkImage(t *testing.T, image *baseimage.Image, raw []byte) {
	t.Helper()
	got, err := os.ReadFile(image.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, raw) {
		t.Fatalf("the image has %d bytes and other content than the %d that went in", len(got), len(raw))
	}
	if want := sum(raw); image.Digest.Encoded() != want || image.Size != int64(len(raw)) {
		t.Fatalf("told: %v, %d bytes; is: %v, %d bytes", image.Digest, image.Size, want, len(raw))
	}
	if want := image.Digest.Encoded() + ".img"; filepath.Base(image.Path) != want {
		t.Fatalf("the image is at %s, want %s", image.Path, want)
	}
	info, err := os.Stat(image.Path)
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Fatalf("mode %v, %v, want 0400", info.Mode(), err)
	}
}

func TestFormats(t *testing.T) {
	raw := disk(1, 5<<20)
	tests := []struct {
		summary string
		file    []byte
	}{
		{"raw", raw},
		{"xz, several blocks", xzed(t, raw, "-T2", "--block-size=1MiB", "-1")},
		{"xz, one block", xzed(t, raw, "-T1", "-1")},
		{"gzip", gzipped(t, raw)},
		{"gzip, several members", gzipped(t, raw[:1<<20], raw[1<<20:3<<20], raw[3<<20:])},
		{"zstd", zstded(t, raw)},
		{"zstd, several frames", append(zstded(t, raw[:2<<20]), zstded(t, raw[2<<20:])...)},
		{"zip", zipped(t, []string{"2026-raspios.img"}, raw)},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			cache, dir := newCache(t)
			// The name says nothing: content decides.
			place := put(t, "download.bin", test.file)
			report := new(recorder)
			image, err := cache.Get(t.Context(), baseimage.Ref{Source: place, SHA256: strings.ToUpper(sum(test.file))}, report)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, image, raw)
			if image.SourceDigest.Encoded() != sum(test.file) || image.SourceSize != int64(len(test.file)) || image.Source != place {
				t.Fatalf("source is told as %v, %d bytes, %s", image.SourceDigest, image.SourceSize, image.Source)
			}
			for i, task := range report.tasks {
				if !task.ended || task.total < task.done || task.done < task.total*9/10 {
					t.Errorf("%s: %d of %d done, ended: %v", report.names[i], task.done, task.total, task.ended)
				}
			}
			if n := len(report.take()); n != 2 {
				t.Errorf("%d tasks, want two", n)
			}

			// The second build does nothing at all.
			again, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, report)
			if err != nil || !cmp.Equal(again, image, cmpopts.IgnoreUnexported(baseimage.Image{})) {
				t.Fatalf("again: %+v, %v, want %+v", again, err, image)
			}
			if names := report.take(); len(names) != 0 {
				t.Errorf("the second time it did: %q", names)
			}
			if left := files(t, dir); len(left) != 4 {
				t.Errorf("left in the cache: %q", left)
			}
		})
	}
}

func TestHolesStayHoles(t *testing.T) {
	raw := make([]byte, 64<<20)
	copy(raw, disk(1, 1<<20))
	for _, file := range [][]byte{raw, xzed(t, raw, "-0", "-T2", "--block-size=8MiB"), gzipped(t, raw)} {
		cache, dir := newCache(t)
		image, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "image", file)}, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, raw)
		out := testtool.Run(t, "du", "-k", "--apparent-size", image.Path) + testtool.Run(t, "du", "-k", image.Path)
		var apparent, real int
		if _, err := fmt.Sscanf(out, "%d "+image.Path+"\n%d", &apparent, &real); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if apparent != 64<<10 || real > 2<<10 {
			t.Errorf("%d KiB on disk for %d KiB, of which 1 MiB is data", real, apparent)
		}
		_ = dir
	}
}

// TestOneImageFromTwoSources: equal images are kept once.
func TestOneImageFromTwoSources(t *testing.T) {
	raw := disk(2, 2<<20)
	cache, dir := newCache(t)
	a, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a", xzed(t, raw))}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "b", raw)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if a.Path != b.Path || a.SourceDigest == b.SourceDigest {
		t.Fatalf("%+v and %+v", a, b)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "images"))
	if len(entries) != 1 {
		t.Fatalf("images: %v", entries)
	}
}

// TestBadInput: an error that a user can act upon, known as such, and nothing
// under a final name.
func TestBadInput(t *testing.T) {
	raw := disk(3, 3<<20)
	good := xzed(t, raw, "-T2", "--block-size=1MiB", "-1")
	flipped := bytes.Clone(good)
	flipped[len(good)/2] ^= 4
	gz := gzipped(t, raw)
	flippedGzip := bytes.Clone(gz)
	flippedGzip[len(gz)-6] ^= 1
	html := []byte("\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>")
	zst := zstded(t, raw)
	zipFile := zipped(t, []string{"a.img"}, raw)
	flippedZip := bytes.Clone(zipFile)
	flippedZip[len(zipFile)/2] ^= 1

	tests := []struct {
		summary string
		file    []byte
		sha256  string
		says    []string
	}{
		{"truncated xz", good[:len(good)/2&^3], "", []string{"truncated", fmt.Sprintf("offset %d", len(good)/2&^3), "download it again"}},
		{"flipped bit in xz", flipped, "", []string{"xz: corrupt block 2 at offset ", "download it again"}},
		{"flipped bit, with the digest", flipped, sum(good), []string{"wrong sha256: expected " + sum(good), "got " + sum(flipped), "download it again"}},
		{"wrong sha256", good, sum(raw), []string{"expected " + sum(raw), "got " + sum(good), "of the file named, not of the image inside"}},
		{"malformed sha256", good, "abc", []string{`"abc" is no sha256`}},
		{"HTML", html, "", []string{"is an HTML page, not an image: was it a log-in or error page?"}},
		{"HTML with the digest", html, sum(good), []string{"expected " + sum(good), "is an HTML page, not an image"}},
		{"compressed HTML", gzipped(t, html), "", []string{"what is compressed in it is an HTML page"}},
		{"xz of a tar", xzed(t, tarHead()), "", []string{"what is compressed in it is a tar archive"}},
		{"xz of xz", xzed(t, good), "", []string{"compressed twice"}},
		{"empty", nil, "", []string{"is an empty file"}},
		{"xz of nothing", xzed(t, nil), "", []string{"what is compressed in it is an empty file"}},
		{"gzip of nothing", gzipped(t, nil), "", []string{"what is compressed in it is an empty file"}},
		{"text", []byte("raspios.img.xz: 1234\n"), "", []string{"is a text file"}},
		{"noise", bytes.Repeat([]byte{7, 0, 0xff}, 2000), "", []string{"unknown kind of file"}},
		{"bzip2", []byte("BZh91AY&SY"), "", []string{"is a bzip2 file", "unpack it first"}},
		{"truncated gzip", gz[:len(gz)/2], "", []string{"truncated at offset", "download it again"}},
		{"flipped gzip", flippedGzip, "", []string{"corrupt before offset", "download it again"}},
		{"garbage after gzip", append(bytes.Clone(gz), "garbage that is no member"...), "", []string{"corrupt before offset"}},
		{"truncated zstd", zst[:len(zst)/2], "", []string{"truncated at offset"}},
		{"truncated zip", zipFile[:len(zipFile)/2], "", []string{"the zip file's directory cannot be read"}},
		{"flipped zip", flippedZip, "", []string{"corrupt before offset"}},
		{"zip of two images", zipped(t, []string{"lite.img", "docs/", "full.IMG"}, nil), "", []string{`holds several images: "lite.img", "full.IMG"`}},
		{"zip without an image", zipped(t, []string{"README.txt", "x.img.xz"}, []byte("x")), "", []string{`no .img: it has "README.txt", "x.img.xz"`}},
		{"empty zip", zipped(t, nil, nil), "", []string{"it has nothing at all"}},
		{"image cut within a sector", raw[:len(raw)-7], "", []string{"no whole number of sectors"}},
		{"BCJ filter", xzed(t, raw, "--arm", "--lzma2"), "", []string{"BCJ ARM", "unpack it with xz -d"}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			cache, dir := newCache(t)
			place := put(t, "raspios.img.xz", test.file)
			image, err := cache.Get(t.Context(), baseimage.Ref{Source: place, SHA256: test.sha256}, progress.Discard)
			if err == nil {
				t.Fatalf("no error, but %+v", image)
			}
			var input *baseimage.InputError
			if !errors.As(err, &input) {
				t.Errorf("%v: is no InputError", err)
			}
			for _, want := range append(test.says, "base image "+place+": ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			for _, left := range files(t, dir) {
				if !strings.HasPrefix(left, "index/file-") {
					t.Errorf("left behind: %s", left)
				}
			}
		})
	}
}

func tarHead() []byte {
	b := make([]byte, 2048)
	copy(b, "etc/passwd")
	copy(b[257:], "ustar\x0000")
	return b
}

func TestNoFile(t *testing.T) {
	cache, _ := newCache(t)
	for _, test := range []struct{ source, says string }{
		{filepath.Join(t.TempDir(), "nothing.img"), "no such file"},
		{t.TempDir(), "it is no regular file"},
		{os.DevNull, "it is no regular file"},
		{"https://example.com/raspios.img.xz", "a URL needs the sha256"},
		{"http://example.com/raspios.img.xz", "a URL needs the sha256"},
	} {
		_, err := cache.Get(t.Context(), baseimage.Ref{Source: test.source}, progress.Discard)
		var input *baseimage.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want an InputError %q", test.source, err, test.says)
		}
	}
}

// TestChangedSource: the digest on record is believed only while the file is
// the same.
func TestChangedSource(t *testing.T) {
	cache, _ := newCache(t)
	first, second := disk(4, 1<<20), disk(5, 1<<20)
	place := put(t, "a.img", first)
	image, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, first)

	// Written in place, as a loop mount would: the cached copy is another
	// file, and stays as it was.
	if err := os.WriteFile(place, second, 0o644); err != nil {
		t.Fatal(err)
	}
	cache.SetSettled(time.Minute)
	checkImage(t, image, first)
	image, err = cache.Get(t.Context(), baseimage.Ref{Source: place}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, second)

	// A file that was changed a moment ago may change again unseen: its
	// digest is not believed yet.
	report := new(recorder)
	if _, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, report); err != nil {
		t.Fatal(err)
	}
	if names := report.take(); !slices.Equal(names, []string{"verify a.img"}) {
		t.Errorf("did %q, want to verify again", names)
	}

	// The digest that is asked for is compared with the record too.
	past := time.Now().Add(-time.Hour)
	os.Chtimes(place, past, past)
	for range 2 {
		_, err = cache.Get(t.Context(), baseimage.Ref{Source: place, SHA256: sum(first)}, progress.Discard)
		if err == nil || !strings.Contains(err.Error(), "wrong sha256") {
			t.Errorf("got %v, want a wrong sha256", err)
		}
	}
}

// TestRestoredTime: a program can set the modification time of what it wrote
// back, but not the time of the last change.
func TestRestoredTime(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a time of the last change")
	}
	first, second := disk(4, 1<<20), disk(5, 1<<20)
	cache, _ := newCache(t)
	place := put(t, "a.img", first)
	image, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, place, second)
	again, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, again, second)

	// The same with an image in the cache.
	rewrite(t, image.Path, second)
	back := put(t, "b.img", first)
	if image, err = cache.Get(t.Context(), baseimage.Ref{Source: back}, progress.Discard); err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, first)
}

// rewrite writes a file in place and restores its modification time. It waits
// until the file system's clock tells the change from the one before.
func rewrite(t *testing.T, place string, data []byte) {
	t.Helper()
	before, err := os.Stat(place)
	if err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(t.TempDir(), "probe")
	now := func() time.Time {
		if err := os.WriteFile(probe, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(probe)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	for start := now(); !now().After(start); {
		time.Sleep(time.Millisecond)
	}
	if err := os.Chmod(place, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(place, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(place, before.Mode()), os.Chtimes(place, before.ModTime(), before.ModTime())} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestMovedCache: a cache on another disk is verified once, not fetched anew.
func TestMovedCache(t *testing.T) {
	raw := disk(6, 1<<20)
	file := gzipped(t, raw)
	s := serve(t, file)
	cache, dir := downloadCache(t, s)
	ref := baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file)}
	if _, err := cache.Get(t.Context(), ref, progress.Discard); err != nil {
		t.Fatal(err)
	}
	s.Close()
	moved := filepath.Join(t.TempDir(), "moved")
	testtool.Run(t, "cp", "-a", dir, moved)
	cache, err := baseimage.OpenCache(moved)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[verify the cached image of a.img.gz]", "[]"} {
		report := new(recorder)
		image, err := cache.Get(t.Context(), ref, report)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, raw)
		if got := fmt.Sprint(report.take()); got != want {
			t.Errorf("did %s, want %s", got, want)
		}
	}
}

// TestDamagedCache: what is not as it was left is made again.
func TestDamagedCache(t *testing.T) {
	raw := disk(6, 1<<20)
	cache, dir := newCache(t)
	place := put(t, "a.img.xz", xzed(t, raw))
	get := func() {
		t.Helper()
		image, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, raw)
	}
	get()
	image := filepath.Join(dir, "images", sum(raw)+".img")
	for _, damage := range []struct {
		summary string
		do      func() error
	}{
		{"removed", func() error { return os.Remove(image) }},
		{"cut", func() error { os.Chmod(image, 0o600); return os.Truncate(image, 4096) }},
		{"written to", func() error {
			os.Chmod(image, 0o600)
			return os.WriteFile(image, disk(7, 1<<20), 0o600)
		}},
		{"index broken", func() error {
			for _, name := range files(t, dir) {
				if strings.HasPrefix(name, "index/") {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(`{"format":1,`), 0o600); err != nil {
						return err
					}
				}
			}
			return nil
		}},
		{"index removed", func() error { return os.RemoveAll(filepath.Join(dir, "index")) }},
	} {
		if err := damage.do(); err != nil {
			t.Fatal(damage.summary, err)
		}
		var err error
		if cache, err = baseimage.OpenCache(dir); err != nil {
			t.Fatal(err)
		}
		get()
	}
}

func TestTwoBuildsAtOnce(t *testing.T) {
	raw := disk(8, 4<<20)
	place := put(t, "a.img.xz", xzed(t, raw, "-T2", "--block-size=1MiB"))
	_, dir := newCache(t)
	var wg sync.WaitGroup
	report := new(recorder)
	for range 4 {
		wg.Go(func() {
			cache, err := baseimage.OpenCache(dir)
			if err != nil {
				t.Error(err)
				return
			}
			image, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, report)
			if err != nil {
				t.Error(err)
				return
			}
			if image.Digest.Encoded() != sum(raw) {
				t.Errorf("got %v", image.Digest)
			}
		})
	}
	wg.Wait()
	made := 0
	for _, name := range report.take() {
		if name == "decompress a.img.xz" {
			made++
		}
	}
	if made != 1 {
		t.Errorf("made %d times, want once", made)
	}
}

// TestWaitsForAnother holds a build in the midst of its work, while a second
// one comes, says that it waits, and can be cancelled.
func TestWaitsForAnother(t *testing.T) {
	raw := disk(9, 1<<20)
	place := put(t, "a.img.gz", gzipped(t, raw))
	cache, _ := newCache(t)
	started, proceed := make(chan struct{}), make(chan struct{})
	first := &recorder{begun: func(name string) {
		if strings.HasPrefix(name, "decompress") {
			close(started)
			<-proceed
		}
	}}
	done := make(chan error)
	go func() {
		_, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, first)
		done <- err
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	second := &recorder{begun: func(name string) {
		if strings.HasPrefix(name, "wait for another build that prepares a.img.gz") {
			cancel()
		}
	}}
	if _, err := cache.Get(ctx, baseimage.Ref{Source: place}, second); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	raw := disk(10, 8<<20)
	for _, file := range [][]byte{raw, xzed(t, raw, "-T2", "--block-size=1MiB"), gzipped(t, raw), zstded(t, raw)} {
		for _, verb := range []string{"verify", "decompress", "copy"} {
			cache, dir := newCache(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancelled := false
			report := &recorder{begun: func(name string) {
				if strings.HasPrefix(name, verb) {
					cancelled = true
					cancel()
				}
			}}
			_, err := cache.Get(ctx, baseimage.Ref{Source: put(t, "a", file)}, report)
			cancel()
			if cancelled != errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, cancelled: %v", verb, err, cancelled)
			}
			for _, left := range files(t, dir) {
				if cancelled && !strings.HasPrefix(left, "index/file-") {
					t.Errorf("%s: left behind: %s", verb, left)
				}
			}
		}
	}
}

// TestLeftoversOfKilledBuilds: the half-made images of builds that are no
// more are removed, also those of other sources.
func TestLeftoversOfKilledBuilds(t *testing.T) {
	raw := disk(11, 1<<20)
	file := gzipped(t, raw)
	cache, dir := newCache(t)
	own := filepath.Join(dir, "images", "."+sum(file)+".hatchery-tmp")
	alien := filepath.Join(dir, "images", "."+sum(raw[1:])+".hatchery-tmp")
	for _, place := range []string{own, alien} {
		if err := os.WriteFile(place, raw[:1000], 0o400); err != nil {
			t.Fatal(err)
		}
	}
	image, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a.img.gz", file)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	entries, err := os.ReadDir(filepath.Join(dir, "images"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestFullDisk(t *testing.T) {
	testtool.NeedRoot(t)
	raw := disk(12, 24<<20)
	dir := t.TempDir()
	testtool.Run(t, "mount", "-t", "tmpfs", "-o", "size=2m", "none", dir)
	defer testtool.Run(t, "umount", dir)
	for _, file := range [][]byte{raw, xzed(t, raw, "-T2", "--block-size=1MiB", "-0"), zstded(t, raw)} {
		cache, err := baseimage.OpenCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a.img", file)}, progress.Discard)
		if err == nil || !strings.Contains(err.Error(), dir+"/images is full") {
			t.Fatalf("got %v", err)
		}
		var input *baseimage.InputError
		if errors.As(err, &input) {
			t.Errorf("%v: a full disk is no mistake in the input", err)
		}
		if entries, _ := os.ReadDir(filepath.Join(dir, "images")); len(entries) != 0 {
			t.Errorf("left: %v", entries)
		}
	}
}

func TestCacheIsPrivate(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if _, err := baseimage.OpenCache(""); err != nil {
		t.Fatal(err)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"", "images", "index", "downloads", "locks"} {
		info, err := os.Stat(filepath.Join(user, "hatchery", sub))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%q: %v, %v", sub, info, err)
		}
	}
}
