package baseimage_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/progress"
)

// TestExpectedImage: what is known of an image beforehand is compared with
// what comes out of the file, and a wrong one gets no name in the cache.
func TestExpectedImage(t *testing.T) {
	raw, other := disk(30, 1<<20), disk(31, 1<<20)
	formats := []struct {
		name string
		file []byte
	}{
		{"xz", xzed(t, raw, "-T2", "--block-size=256KiB", "-1")},
		{"gz", gzipped(t, raw)},
		{"zst", zstded(t, raw)},
		{"zip", zipped(t, []string{"a.img"}, raw)},
		{"raw", raw},
	}
	tests := []struct {
		summary string
		ref     baseimage.Ref
		says    string // empty: it comes
	}{
		{"all as expected", baseimage.Ref{ImageSHA256: sum(raw), ImageSize: 1 << 20}, ""},
		{"digest known", baseimage.Ref{ImageSHA256: "sha256:" + strings.ToUpper(sum(raw))}, ""},
		{"size known", baseimage.Ref{ImageSize: 1 << 20}, ""},
		{"another digest", baseimage.Ref{ImageSHA256: sum(other)}, "expected " + sum(other) + ", got " + sum(raw)},
		{"another digest, size known", baseimage.Ref{ImageSHA256: sum(other), ImageSize: 1 << 20}, "expected " + sum(other) + ", got " + sum(raw)},
		{"too long", baseimage.Ref{ImageSize: 512 << 10}, "524288"},
		{"too short", baseimage.Ref{ImageSize: 2 << 20}, "the image in it has 1048576 bytes, but 2097152 are expected"},
		{"no digest", baseimage.Ref{ImageSHA256: "12"}, `"12" is no sha256`},
		{"another size of the file", baseimage.Ref{Size: 77}, "bytes, but 77 are expected"},
	}
	for _, format := range formats {
		for _, test := range tests {
			t.Run(format.name+", "+test.summary, func(t *testing.T) {
				cache, dir := newCache(t)
				test.ref.Source = put(t, "a", format.file)
				// Twice: the second time finds what the first one left.
				for range 2 {
					image, err := cache.Get(t.Context(), test.ref, progress.Discard)
					if test.says == "" {
						if err != nil {
							t.Fatal(err)
						}
						checkImage(t, image, raw)
						continue
					}
					var input *baseimage.InputError
					if err == nil || !strings.Contains(err.Error(), test.says) || !errors.As(err, &input) {
						t.Fatalf("got %v, want an InputError %q", err, test.says)
					}
					for _, name := range files(t, dir) {
						if !strings.HasPrefix(name, "index/file-") {
							t.Errorf("left: %s", name)
						}
					}
				}
				if test.says == "" || strings.HasPrefix(test.summary, "no digest") || test.ref.Size > 0 {
					return
				}
				if _, err := cache.Get(t.Context(), baseimage.Ref{Source: test.ref.Source}, progress.Discard); err != nil {
					t.Fatal(err)
				}
				if _, err := cache.Get(t.Context(), test.ref, progress.Discard); err == nil || !strings.Contains(err.Error(), "expected") {
					t.Errorf("from the cache: got %v", err)
				}
			})
		}
	}
}

// TestImageFromElsewhere: an image that is here already is not fetched in
// another wrapping.
func TestImageFromElsewhere(t *testing.T) {
	raw := disk(32, 1<<20)
	file := gzipped(t, raw)
	cache, dir := newCache(t)
	if _, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "a.img", raw)}, progress.Discard); err != nil {
		t.Fatal(err)
	}
	cache, err := baseimage.OpenCache(dir, baseimage.Offline())
	if err != nil {
		t.Fatal(err)
	}
	ref := baseimage.Ref{Source: "https://example.com/a.img.gz", SHA256: sum(file), Size: int64(len(file)), ImageSHA256: sum(raw), ImageSize: 1 << 20}
	image, err := cache.Get(t.Context(), ref, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	if image.SourceDigest.Encoded() != sum(file) || image.SourceSize != int64(len(file)) || image.Source != ref.Source {
		t.Errorf("source: %+v", image)
	}
	// That it is of that file was told, not seen: who does not tell it too is
	// not given it.
	ref.ImageSHA256 = ""
	var offline *baseimage.OfflineError
	if _, err := cache.Get(t.Context(), ref, progress.Discard); !errors.As(err, &offline) {
		t.Errorf("got %v, want an OfflineError", err)
	}
}

func TestOffline(t *testing.T) {
	raw := disk(33, 1<<20)
	file := gzipped(t, raw)
	s := serve(t, file)
	online, dir := downloadCache(t, s)
	cache, err := baseimage.OpenCache(dir, baseimage.Offline())
	if err != nil {
		t.Fatal(err)
	}
	cache.SetClient(s.Client(), 0, 0)
	ref := baseimage.Ref{Source: s.URL + "/a.img.gz?token=T0KEN", SHA256: sum(file)}
	part := filepath.Join(dir, "downloads", sum(file)+".part")
	missing := func(summary string, left int) {
		t.Helper()
		_, err := cache.Get(t.Context(), ref, progress.Discard)
		want := "base image " + s.URL + "/a.img.gz: it is not in the cache, and nothing is fetched offline: build once with a network," +
			" or bring a.img.gz here by other means and put it there with `hatchery cache add`"
		var offline *baseimage.OfflineError
		var input *baseimage.InputError
		if err == nil || err.Error() != want || !errors.As(err, &offline) || !errors.As(err, &input) {
			t.Errorf("%s: got  %v\nwant the OfflineError %s", summary, err, want)
		}
		if info, err := os.Stat(part); left > 0 && (err != nil || info.Size() != int64(left)) || left == 0 && err == nil {
			t.Errorf("%s: left %v, want %d bytes", summary, info, left)
		}
	}
	missing("nothing is there", 0)
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
	if err := os.WriteFile(part, file[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	missing("a part is there", 1000)

	// All of it, and not unpacked yet.
	if err := os.WriteFile(part, file, 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := cache.Get(t.Context(), ref, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	if s.requests.Load() != 0 {
		t.Errorf("%d requests", s.requests.Load())
	}

	// A file that was brought here by other means.
	dir = filepath.Join(t.TempDir(), "other")
	if cache, err = baseimage.OpenCache(dir, baseimage.Offline()); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{put(t, "a.img.gz", file), ref.Source} {
		if image, err = cache.Get(t.Context(), baseimage.Ref{Source: source, SHA256: sum(file)}, progress.Discard); err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, raw)
	}
	if !cache.Client().Offline || online.Client().Offline {
		t.Error("the clients do not know who is offline")
	}
}

// TestUnpackableDownload: what was fetched and is as it was announced is not
// fetched again, whatever is wrong with what is in it.
func TestUnpackableDownload(t *testing.T) {
	raw := disk(34, 1<<20)
	file := gzipped(t, raw)
	s := serve(t, file)
	cache, dir := downloadCache(t, s)
	ref := baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file), ImageSHA256: sum(nil)}
	for range 2 {
		if _, err := cache.Get(t.Context(), ref, progress.Discard); err == nil || !strings.Contains(err.Error(), "expected "+sum(nil)+", got "+sum(raw)) {
			t.Errorf("got %v", err)
		}
		want := []string{"downloads/" + sum(file) + ".part", "index/download-" + sum(file) + ".json"}
		if left := files(t, dir); !slices.Equal(left, want) {
			t.Errorf("left: %q, want %q", left, want)
		}
	}
	ref.ImageSHA256 = sum(raw)
	image, err := cache.Get(t.Context(), ref, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	if n := s.requests.Load(); n != 1 {
		t.Errorf("%d requests, want one", n)
	}
	if left := files(t, dir); strings.Contains(fmt.Sprint(left), "download") {
		t.Errorf("left: %q", left)
	}
}
