package imageregistry_test

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/imageregistry"
)

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

// sizeOf is what the files below a folder have.
func sizeOf(t testing.TB, dir string) (size int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	}))
	return size
}

// TestImagesQuota: what does not fit is refused with the remedy, and room is made by what
// no tag leads to, when nobody pushes.
func TestImagesQuota(t *testing.T) {
	s := newSite(t, "http://192.0.2.1", imageregistry.Limits{Images: 2_500_000, Quiet: time.Nanosecond})
	images, _ := s.node(1)
	if done, err := s.Sweep(t.Context(), true); err != nil || !done {
		t.Errorf("with nothing there: %v, %v", done, err)
	}
	first, second, third := image(t, 500_000, 2), image(t, 500_000, 2), image(t, 500_000, 2)
	must(t, push(t, images+"/app:latest", first), push(t, images+"/app:latest", second))
	err := push(t, images+"/app:latest", third)
	if err == nil || !strings.Contains(err.Error(), "the registry is full") {
		t.Fatalf("a third: %v", err)
	}
	// What a tag led to once is kept as long as there is room: services name images by
	// their digests.
	sweep := func(untagged bool) {
		t.Helper()
		// The last push may be about to end.
		eventually(t, "a sweep", func() bool {
			done, err := s.Sweep(t.Context(), untagged)
			must(t, err)
			return done
		})
	}
	sweep(false)
	if _, err := pull(t, images+"/app@"+digestOf(t, first).String()); err != nil {
		t.Errorf("after an ordinary sweep: %v", err)
	}
	sweep(true)
	if _, err := pull(t, images+"/app@"+digestOf(t, first).String()); err == nil {
		t.Error("what no tag leads to is still there")
	}
	if got, err := pull(t, images+"/app:latest"); err != nil || got != digestOf(t, second) {
		t.Errorf("what the tag leads to: %v, %v", got, err)
	}
	must(t, push(t, images+"/app:latest", third))
	if got, err := pull(t, images+"/app:latest"); err != nil || got != digestOf(t, third) {
		t.Errorf("the third, now that there is room: %v, %v", got, err)
	}

	busy := newSite(t, "http://192.0.2.1", imageregistry.Limits{})
	images, _ = busy.node(1)
	must(t, push(t, images+"/app:latest", first))
	if done, err := busy.Sweep(t.Context(), true); err != nil || done {
		t.Errorf("right after a push: %v, %v", done, err)
	}
}

// TestUploadsGivenUp: what was uploaded and is gone again takes no room.
func TestUploadsGivenUp(t *testing.T) {
	s := newSite(t, "http://192.0.2.1", imageregistry.Limits{Images: 2_500_000})
	images, _ := s.node(1)
	call := func(method, url string, body string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		must(t, err)
		answer, err := http.DefaultClient.Do(r)
		must(t, err)
		answer.Body.Close()
		return answer
	}
	at := func(answer *http.Response) string {
		t.Helper()
		location, err := answer.Location()
		must(t, err)
		return location.String()
	}
	for i := range 4 {
		upload := at(call(http.MethodPost, "http://"+images+"/v2/app/blobs/uploads/", ""))
		part := call(http.MethodPatch, upload, strings.Repeat("x", 1_000_000))
		if part.StatusCode != http.StatusAccepted {
			t.Fatalf("upload %d: %s", i, part.Status)
		}
		if gone := call(http.MethodDelete, at(part), ""); gone.StatusCode != http.StatusNoContent {
			t.Fatalf("giving upload %d up: %s", i, gone.Status)
		}
	}
	must(t, push(t, images+"/app:latest", image(t, 500_000, 2)))
}

// TestCacheQuota: the cache gives up what was not used for longest, and more than it may
// have it never takes.
func TestCacheQuota(t *testing.T) {
	h := newHub(t)
	s := newSite(t, h.URL, imageregistry.Limits{Cache: 4_000_000})
	_, mirror := s.node(1)
	var layers []string
	get := func(name string) {
		t.Helper()
		if _, err := pull(t, mirror+"/library/"+name+":1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		time.Sleep(20 * time.Millisecond) // times of files differ
	}
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, name := range names {
		i := image(t, 1_000_000, 1)
		must(t, push(t, h.host+"/library/"+name+":1", i))
		layers = append(layers, layersOf(t, i)[0])
	}
	for _, name := range names {
		get(name)
		get("a") // which is therefore never given up
		if size := sizeOf(t, s.options.Dir); size > 4_000_000 {
			t.Errorf("after %s the cache has %d bytes", name, size)
		}
	}
	if n := h.count(layers[0]); n != 1 {
		t.Errorf("what was used again and again was fetched %d times", n)
	}
	get("b")
	if n := h.count(layers[1]); n != 2 {
		t.Errorf("what was not used for longest was fetched %d times, so it was not given up", n)
	}
	huge := image(t, 5_000_000, 1)
	must(t, push(t, h.host+"/library/huge:1", huge))
	if _, err := pull(t, mirror+"/library/huge:1"); err == nil {
		t.Error("more than fits was pulled through the cache")
	}
	if size := sizeOf(t, s.options.Dir); size > 4_000_000 {
		t.Errorf("after that the cache has %d bytes", size)
	}
	for _, name := range []string{"f", "a"} {
		before := h.count(layers[strings.Index("abcdef", name)])
		get(name)
		if h.count(layers[strings.Index("abcdef", name)]) != before {
			t.Errorf("for what never fits %s was given up", name)
		}
	}
}

// TestExpire: what was fetched is dropped when its time has come.
func TestExpire(t *testing.T) {
	h := newHub(t)
	s := newSite(t, h.URL, imageregistry.Limits{Expire: time.Second})
	_, mirror := s.node(1)
	must(t, push(t, h.host+"/library/a:1", image(t, 1_000_000, 1)))
	if _, err := pull(t, mirror+"/library/a:1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the layer is dropped", func() bool { return sizeOf(t, s.options.Dir) < 100_000 })
	if _, err := pull(t, mirror+"/library/a:1"); err != nil {
		t.Errorf("it is fetched again: %v", err)
	}
}
