package baseimage_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/progress"
)

// A stock is a cache with something of each kind in it.
type stock struct {
	cache      *baseimage.Cache
	dir        string
	old, fresh []byte // raw images
	oldFile    []byte // the gzip file that the old one came out of
	part       []byte // of a download that was broken off
	whole      []byte // a download that gives no image
}

const day = 24 * time.Hour

func newStock(t *testing.T) *stock {
	s := &stock{old: disk(40, 1<<20), fresh: disk(41, 1<<20)}
	s.oldFile, s.part, s.whole = gzipped(t, s.old), gzipped(t, disk(42, 1<<20)), []byte("this is no image")
	s.cache, s.dir = newCache(t)
	get := func(ref baseimage.Ref, fails bool) {
		t.Helper()
		image, err := s.cache.Get(t.Context(), ref, progress.Discard)
		if fails != (err != nil) {
			t.Fatal(err)
		}
		if err == nil {
			image.Close()
		}
	}
	for _, name := range []string{"old.img.gz", "again.img.gz"} {
		get(baseimage.Ref{Source: put(t, name, s.oldFile)}, false)
	}
	get(baseimage.Ref{Source: put(t, "old.img.zst", zstded(t, s.old))}, false)
	get(baseimage.Ref{Source: put(t, "fresh.img", s.fresh)}, false)
	server := serve(t, s.part)
	server.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasPrefix(r.URL.Path, "/whole"):
			w.Write(s.whole)
			return true
		case n > 1:
			panic(http.ErrAbortHandler)
		}
		server.breakAfter(w, 1000)
		return true
	}
	s.cache.SetClient(server.Client(), time.Minute, time.Millisecond)
	get(baseimage.Ref{Source: server.URL + "/part.img.gz?token=T0KEN", SHA256: sum(s.part), Size: int64(len(s.part))}, true)
	get(baseimage.Ref{Source: server.URL + "/whole.img.gz", SHA256: sum(s.whole)}, true)
	if err := os.WriteFile(filepath.Join(s.dir, "images", "."+sum(nil)+".hatchery-tmp"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	s.age(t, "locks/use-"+sum(s.old)+".lock", 40*day)
	s.age(t, "downloads/"+sum(s.part)+".part", 35*day)
	s.age(t, "downloads/"+sum(s.whole)+".part", 3*day)
	return s
}

func (s *stock) age(t *testing.T, name string, by time.Duration) {
	t.Helper()
	past := time.Now().Add(-by)
	if err := os.Chtimes(filepath.Join(s.dir, name), past, past); err != nil {
		t.Fatal(err)
	}
}

func (s *stock) image(raw []byte) string { return filepath.Join(s.dir, "images", sum(raw)+".img") }

// names gives what digests are of, in the words of the test.
func (s *stock) names(text string) string {
	return strings.NewReplacer(sum(s.old), "OLD", sum(s.fresh), "FRESH", sum(s.part), "PART", sum(s.whole), "WHOLE", sum(nil), "NONE",
		sum(s.oldFile), "OLD.GZ", "sha256:", "", s.dir, "CACHE").Replace(text)
}

func TestList(t *testing.T) {
	s := newStock(t)
	entries, err := s.cache.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		line := fmt.Sprintf("%s %s %s %d/%d whole=%v used=%v days ago in-use=%v", e.Kind, e.Digest, e.Path, e.Size, e.Total, e.Whole,
			int(time.Since(e.LastUse)/day), e.InUse)
		var names []string
		for _, source := range e.Sources {
			names = append(names, filepath.Base(source.Name))
			if source.Size == 0 && source.Digest.Encoded() != sum(s.whole) || source.Digest.Validate() != nil {
				t.Errorf("source %+v", source)
			}
		}
		slices.Sort(names)
		got = append(got, s.names(line)+" "+strings.Join(names, "+"))
		if e.OnDisk <= 0 || e.OnDisk > e.Size+8192 {
			t.Errorf("%s takes %d bytes on the disk", line, e.OnDisk)
		}
		if strings.Contains(fmt.Sprintf("%+v", e), "T0KEN") {
			t.Errorf("a secret shows: %+v", e)
		}
	}
	want := []string{
		"image FRESH CACHE/images/FRESH.img 1048576/0 whole=false used=0 days ago in-use=false fresh.img",
		"image OLD CACHE/images/OLD.img 1048576/0 whole=false used=40 days ago in-use=false old.img.gz+old.img.zst",
		"download WHOLE CACHE/downloads/WHOLE.part 16/16 whole=true used=3 days ago in-use=false whole.img.gz",
		fmt.Sprintf("download PART CACHE/downloads/PART.part 1000/%d whole=false used=35 days ago in-use=false part.img.gz", len(s.part)),
		"half-made NONE CACHE/images/.NONE.hatchery-tmp 5000/0 whole=false used=0 days ago in-use=false ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestListTellsHoles: an image takes less than its size.
func TestListTellsHoles(t *testing.T) {
	raw := make([]byte, 16<<20)
	raw[510], raw[511] = 0x55, 0xaa
	cache, _ := newCache(t)
	if _, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a.img.gz", gzipped(t, raw))}, progress.Discard); err != nil {
		t.Fatal(err)
	}
	entries, err := cache.List()
	if err != nil || len(entries) != 1 || entries[0].Size != 16<<20 || entries[0].OnDisk > 1<<20 {
		t.Errorf("%+v, %v", entries, err)
	}
}

func TestPrune(t *testing.T) {
	tests := []struct {
		summary string
		options func(s *stock) baseimage.PruneOptions
		want    string // what is removed
	}{
		{"nothing is that old", func(*stock) baseimage.PruneOptions { return baseimage.PruneOptions{Unused: 100 * day} }, "NONE"},
		{"unused for a month", func(*stock) baseimage.PruneOptions { return baseimage.PruneOptions{Unused: 30 * day} }, "OLD PART NONE"},
		{"unused for a day", func(*stock) baseimage.PruneOptions { return baseimage.PruneOptions{Unused: day} }, "OLD WHOLE PART NONE"},
		{"all", func(*stock) baseimage.PruneOptions { return baseimage.PruneOptions{} }, "FRESH OLD WHOLE PART NONE"},
		{"named by the image", func(s *stock) baseimage.PruneOptions {
			return baseimage.PruneOptions{Keep: []digest.Digest{digest.FromBytes(s.old), digest.FromString("another")}}
		}, "FRESH WHOLE PART NONE"},
		{"named by the file it came out of", func(s *stock) baseimage.PruneOptions {
			return baseimage.PruneOptions{Keep: []digest.Digest{digest.FromBytes(s.oldFile)}}
		}, "FRESH WHOLE PART NONE"},
		{"a download that is named", func(s *stock) baseimage.PruneOptions {
			return baseimage.PruneOptions{Unused: day, Keep: []digest.Digest{digest.FromBytes(s.part)}}
		}, "OLD WHOLE NONE"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := newStock(t)
			options := test.options(s)
			before := files(t, s.dir)
			for _, dry := range []bool{true, false} {
				options.DryRun = dry
				pruned, err := s.cache.Prune(options)
				if err != nil {
					t.Fatal(err)
				}
				var removed []string
				for _, p := range pruned {
					if p.Removed {
						removed = append(removed, s.names(p.Digest.String()))
					}
					if p.Why == "" {
						t.Errorf("%s: no reason", p.Path)
					}
					if _, err := os.Lstat(p.Path); (err != nil) != (p.Removed && !dry) {
						t.Errorf("dry run %v: %s: removed %v, there: %v", dry, p.Path, p.Removed, err)
					}
				}
				if got := strings.Join(removed, " "); got != test.want {
					t.Errorf("dry run %v: removed %s, want %s", dry, got, test.want)
				}
				if after := files(t, s.dir); dry && !slices.Equal(after, before) {
					t.Errorf("the dry run changed\n%q to\n%q", before, after)
				}
			}
			// No record of what is gone is left, and what is left is known.
			for _, name := range files(t, s.dir) {
				kind, d, _ := strings.Cut(strings.TrimSuffix(filepath.Base(name), ".json"), "-")
				if strings.HasPrefix(name, "index/image-") && !slices.Contains(files(t, s.dir), "images/"+d+".img") ||
					strings.HasPrefix(name, "index/download-") && !slices.Contains(files(t, s.dir), "downloads/"+d+".part") {
					t.Errorf("%s is left of a %s that is gone", name, kind)
				}
			}
			gone := strings.Contains(test.want, "OLD")
			report := new(recorder)
			image, err := s.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "old.img.gz", s.oldFile)}, report)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, image, s.old)
			if made := slices.Contains(report.take(), "decompress old.img.gz"); made != gone {
				t.Errorf("made again: %v, want %v", made, gone)
			}
		})
	}
}

// TestPruneForgets: records of local files that are no more go too.
func TestPruneForgets(t *testing.T) {
	cache, dir := newCache(t)
	place := put(t, "a.img", disk(43, 1<<20))
	if _, err := cache.Get(t.Context(), baseimage.Ref{Source: place}, progress.Discard); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for _, name := range files(t, dir) {
			if strings.HasPrefix(name, "index/file-") {
				n++
			}
		}
		return n
	}
	for _, want := range []int{1, 0} {
		if _, err := cache.Prune(baseimage.PruneOptions{Unused: day}); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != want {
			t.Errorf("%d records, want %d", n, want)
		}
		os.Remove(place)
	}
}

// TestUseIsRecorded: an image is as old as its last use, and a record that
// cannot be written stops nobody.
func TestUseIsRecorded(t *testing.T) {
	s := newStock(t)
	ref := baseimage.Ref{Source: put(t, "old.img.gz", s.oldFile)}
	image, err := s.cache.Get(t.Context(), ref, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	image.Close()
	last := func() time.Time {
		entries, err := s.cache.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Digest == digest.FromBytes(s.old) {
				return e.LastUse
			}
		}
		return time.Time{}
	}
	if age := time.Since(last()); age > time.Hour {
		t.Errorf("last used %v ago", age)
	}
	// A cache of an earlier version has no such record.
	lock := filepath.Join(s.dir, "locks", "use-"+sum(s.old)+".lock")
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.image(s.old)); err != nil || !last().Equal(info.ModTime()) {
		t.Errorf("last used %v, want the time of the image, %v, %v", last(), info.ModTime(), err)
	}
	// A folder in its place can neither be locked nor written.
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	if image, err = s.cache.Get(t.Context(), ref, progress.Discard); err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, s.old)
	pruned, err := s.cache.Prune(baseimage.PruneOptions{})
	if err == nil || !strings.Contains(err.Error(), "cannot remove "+s.image(s.old)) || len(pruned) != 5 {
		t.Errorf("pruned %d entries, %v", len(pruned), err)
	}
	checkImage(t, image, s.old)
}

// TestInUseStays: what a build has in use is not removed until it is closed,
// within a process and between two.
func TestInUseStays(t *testing.T) {
	s := newStock(t)
	first, err := s.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a", s.oldFile)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "b", s.oldFile)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	other := startChild(t, s.dir, put(t, "fresh.img", s.fresh), "")
	other.waitFor(t, "has "+sum(s.fresh))

	there := func(raw []byte) bool {
		t.Helper()
		pruned, err := s.cache.Prune(baseimage.PruneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pruned {
			if p.Digest == digest.FromBytes(raw) {
				if p.Removed == p.InUse || p.InUse != (p.Why == "in use") {
					t.Errorf("%+v", p)
				}
				return !p.Removed
			}
		}
		return false
	}
	if !there(s.old) || !there(s.fresh) {
		t.Fatal("an image vanished under its users")
	}
	first.Close()
	if !there(s.old) {
		t.Fatal("the image vanished under its second user")
	}
	second.Close()
	if there(s.old) {
		t.Error("nobody uses it, and it stays")
	}
	if !there(s.fresh) {
		t.Error("the image vanished under the other process")
	}
	other.kill(t)
	if there(s.fresh) {
		t.Error("its user was killed, and it stays")
	}
}

// TestTakenMeanwhile: an image that was not in use when it was listed, and is
// now, stays.
func TestTakenMeanwhile(t *testing.T) {
	s := newStock(t)
	entries, err := s.cache.List()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(entries, func(e baseimage.Entry) bool { return e.Digest == digest.FromBytes(s.old) })
	image, err := s.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a", s.oldFile)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := s.cache.RemoveImage(entries[at]); removed || err != nil {
		t.Errorf("removed: %v, %v", removed, err)
	}
	checkImage(t, image, s.old)
	image.Close()
	if removed, err := s.cache.RemoveImage(entries[at]); !removed || err != nil {
		t.Errorf("removed: %v, %v", removed, err)
	}
}

// TestPruneBesideBuilds: builds come and go while everything is pruned all the
// time, and each reads its image to the end by its name.
func TestPruneBesideBuilds(t *testing.T) {
	_, dir := newCache(t)
	raws := [][]byte{disk(44, 1<<20), disk(45, 1<<20)}
	sources := []string{put(t, "a.img.gz", gzipped(t, raws[0])), put(t, "b.img", raws[1])}
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	var builds, pruners sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		pruners.Go(func() {
			cache, err := baseimage.OpenCache(dir)
			if err != nil {
				t.Error(err)
				return
			}
			for {
				select {
				case <-done:
					return
				default:
				}
				pruned, err := cache.Prune(baseimage.PruneOptions{})
				if err != nil {
					t.Error(err)
				}
				for _, p := range pruned {
					if p.Removed && p.Kind == baseimage.KindHalfMade {
						t.Errorf("removed under the build that makes it: %s", p.Path)
					}
				}
				if _, err := cache.List(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 4 {
		builds.Go(func() {
			cache, err := baseimage.OpenCache(dir)
			if err != nil {
				t.Error(err)
				return
			}
			for n := range rounds {
				which := (i + n) % len(sources)
				image, err := cache.Get(t.Context(), baseimage.Ref{Source: sources[which]}, progress.Discard)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := os.ReadFile(image.Path)
				if err != nil || !bytes.Equal(got, raws[which]) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				image.Close()
			}
		})
	}
	builds.Wait()
	close(done)
	pruners.Wait()
}

func TestVerify(t *testing.T) {
	tests := []struct {
		summary string
		damage  func(t *testing.T, s *stock)
		problem string // of the old image; "" none
	}{
		{"good", func(*testing.T, *stock) {}, ""},
		{"rotten", func(t *testing.T, s *stock) { flip(t, s.image(s.old)) }, "its content is not what it was: it has the sha256 "},
		{"cut", func(t *testing.T, s *stock) {
			os.Chmod(s.image(s.old), 0o600)
			if err := os.Truncate(s.image(s.old), 512); err != nil {
				t.Fatal(err)
			}
		}, "its content is not what it was: it has the sha256 "},
		{"no record", func(t *testing.T, s *stock) {
			os.RemoveAll(filepath.Join(s.dir, "index"))
			os.Mkdir(filepath.Join(s.dir, "index"), 0o700)
		}, ""},
		{"moved", func(t *testing.T, s *stock) {
			now := time.Now()
			if err := os.Chtimes(s.image(s.old), now, now); err != nil {
				t.Fatal(err)
			}
		}, ""},
	}
	for _, test := range tests {
		for _, remove := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, remove %v", test.summary, remove), func(t *testing.T) {
				s := newStock(t)
				test.damage(t, s)
				findings, err := s.cache.Verify(t.Context(), baseimage.VerifyOptions{Remove: remove})
				if err != nil {
					t.Fatal(err)
				}
				looked := 0
				for _, f := range findings {
					looked++
					old := f.Digest == digest.FromBytes(s.old)
					if !old && f.Problem != "" || old && ((f.Problem == "") != (test.problem == "") || !strings.HasPrefix(f.Problem, test.problem)) {
						t.Errorf("%s: %q, want %q", s.names(f.Path), f.Problem, test.problem)
					}
					if _, err := os.Stat(f.Path); f.Removed != (remove && f.Problem != "") || f.Removed != (err != nil) {
						t.Errorf("%s: removed %v, there: %v", s.names(f.Path), f.Removed, err)
					}
				}
				want := 3 // two images, and the whole download
				if test.summary == "no record" {
					want = 2 // nobody knows that the download is whole
				}
				if looked != want {
					t.Errorf("looked at %d, want %d", looked, want)
				}
				// To look at an image is no use of it.
				entries, err := s.cache.List()
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if e.Digest == digest.FromBytes(s.old) && time.Since(e.LastUse) < 39*day {
						t.Errorf("verify counts as a use: %v", e.LastUse)
					}
				}
				if test.problem != "" {
					return
				}
				// What verify looked at, the next build believes.
				report := new(recorder)
				image, err := s.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "old.img.gz", s.oldFile)}, report)
				if err != nil {
					t.Fatal(err)
				}
				checkImage(t, image, s.old)
				if did := report.take(); slices.Contains(did, "verify the cached image of old.img.gz") {
					t.Errorf("did %q", did)
				}
			})
		}
	}
}

// TestVerifyInUse: a damaged image that a build uses is told, and left.
func TestVerifyInUse(t *testing.T) {
	s := newStock(t)
	image, err := s.cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a", s.oldFile)}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	flip(t, image.Path)
	findings, err := s.cache.Verify(t.Context(), baseimage.VerifyOptions{Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Digest == image.Digest && (f.Problem == "" || f.Removed || !f.InUse) {
			t.Errorf("%+v", f)
		}
	}
}

// flip changes a byte behind the cache's back: size and modification time are
// as they were.
func flip(t *testing.T, place string) {
	t.Helper()
	data, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	rewrite(t, place, data)
}

// childVariable makes the test's program get an image, say so, and hold it
// until it is killed.
const childVariable = "HATCHERY_TEST_GET"

func TestMain(m *testing.M) {
	if args := os.Getenv(childVariable); args != "" {
		dir, rest, _ := strings.Cut(args, "\n")
		source, sha256, _ := strings.Cut(rest, "\n")
		hold(dir, baseimage.Ref{Source: source, SHA256: sha256})
	}
	os.Exit(m.Run())
}

func hold(dir string, ref baseimage.Ref) {
	cache, err := baseimage.OpenCache(dir)
	if err != nil {
		panic(err)
	}
	image, err := cache.Get(context.Background(), ref, progress.Discard)
	if err != nil {
		panic(err)
	}
	fmt.Println("has", image.Digest.Encoded())
	io.Copy(io.Discard, os.Stdin) // which nobody closes
	image.Close()
	os.Exit(0)
}

type child struct {
	*exec.Cmd
	out io.Reader
	in  io.Closer
}

func startChild(t *testing.T, dir, source, sha256 string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dir+"\n"+source+"\n"+sha256)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, out, in}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return c
}

func (c *child) waitFor(t *testing.T, line string) {
	t.Helper()
	buf := make([]byte, len(line)+1)
	if _, err := io.ReadFull(c.out, buf); err != nil || string(buf) != line+"\n" {
		t.Fatalf("the child says %q, %v", buf, err)
	}
}

func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
}
