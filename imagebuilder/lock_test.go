package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/clusterlock"
	"hatchery/internal/spec"
)

func (b *pinBench) refresh(c *spec.Cluster, o LockOptions) (*LockResult, error) {
	return RefreshLock(context.Background(), c, o)
}

// states are what became of the pins, in short.
func states(r *LockResult) []string {
	var got []string
	for _, i := range r.Images {
		was, is := "-", "-"
		if i.Was != nil {
			was = i.Was.Released
		}
		if i.Is != nil {
			is = i.Is.Released
		}
		got = append(got, fmt.Sprintf("%s %s %s %s", i.Name, i.State, was, is))
	}
	return got
}

// backdate sets the lock's epoch to one that is long past, and gives it.
func (b *pinBench) backdate() int64 {
	b.t.Helper()
	_, err := clusterlock.Update(context.Background(), b.dir, func(l *clusterlock.Lock) error {
		l.Epoch = time.Unix(8, 0)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return 8
}

func TestRefreshLock(t *testing.T) {
	b := newPinBench(t)
	const two = "raspios_oldstable_lite_armhf"
	c := b.cluster("raspios_lite_armhf", "controller: {base: "+two+"}\n")
	step := func(what string, c *spec.Cluster, o LockOptions, want ...string) *LockResult {
		t.Helper()
		r, err := b.refresh(c, o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, states(r)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		return r
	}

	r := step("a dry run", c, LockOptions{DryRun: true}, "raspios_lite_armhf added - 2025-12-04", two+" added - 2025-11-24")
	if b.lock() != "" || r.Written || !r.Changed() {
		t.Fatalf("a dry run: %+v, and the lock is\n%s", r, b.lock())
	}
	r = step("the first time", c, LockOptions{}, "raspios_lite_armhf added - 2025-12-04", two+" added - 2025-11-24")
	if !r.Written || r.Epoch == 0 || r.EpochWas != 0 || b.lock() == "" {
		t.Errorf("the first time: %+v", r)
	}

	then := b.backdate()
	before := b.lock()
	r = step("nothing new", c, LockOptions{}, "raspios_lite_armhf unchanged 2025-12-04 2025-12-04", two+" unchanged 2025-11-24 2025-11-24")
	if r.Written || r.Changed() || r.Epoch != then || b.lock() != before {
		t.Errorf("nothing new: %+v\n%s", r, b.lock())
	}

	image := b.file("2026.img", "hello")
	b.server.Publish("raspios_lite_armhf", "2026-03-01", image, image)
	b.server.Publish(two, "2026-03-02", image, image)
	r = step("one of them", c, LockOptions{Names: []string{two}}, two+" updated 2025-11-24 2026-03-02")
	if !r.Written || r.EpochWas != then || time.Since(time.Unix(r.Epoch, 0)) > time.Hour || r.Images[0].Is.SHA256 != helloD {
		t.Errorf("one of them: %+v", r)
	}
	if ref := b.ref(c); !strings.Contains(ref.Source, "2025-12-04") {
		t.Errorf("the other is now %+v", ref)
	}

	b.backdate()
	before = b.lock()
	r = step("a dry run of news", c, LockOptions{DryRun: true}, "raspios_lite_armhf updated 2025-12-04 2026-03-01", two+" unchanged 2026-03-02 2026-03-02")
	if b.lock() != before || r.Written {
		t.Errorf("a dry run of news: %+v\n%s", r, b.lock())
	}
	t.Setenv("SOURCE_DATE_EPOCH", "99")
	r = step("an epoch from outside", c, LockOptions{}, "raspios_lite_armhf updated 2025-12-04 2026-03-01", two+" unchanged 2026-03-02 2026-03-02")
	if r.Epoch != 99 || !strings.Contains(b.lock(), "epoch: 99\n") {
		t.Errorf("an epoch from outside: %+v\n%s", r, b.lock())
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")

	// Without a base that uses it a pin goes, which changes no image.
	r = step("one base less", b.cluster("raspios_lite_armhf", ""), LockOptions{}, "raspios_lite_armhf unchanged 2026-03-01 2026-03-01", two+" removed 2026-03-02 -")
	if !r.Written || r.Epoch != 99 || strings.Contains(b.lock(), two) {
		t.Errorf("one base less: %+v\n%s", r, b.lock())
	}
	r = step("a file alone", b.cluster(image, ""), LockOptions{}, "raspios_lite_armhf removed 2026-03-01 -")
	if r.Epoch != 99 || strings.Contains(b.lock(), "images:") {
		t.Errorf("a file alone: %+v\n%s", r, b.lock())
	}
}

// TestRefreshNothing: a cluster without anything to pin gets no lock of it.
func TestRefreshNothing(t *testing.T) {
	b := newPinBench(t)
	c := b.cluster(b.file("x.img", "hello"), "")
	r, err := b.refresh(c, LockOptions{})
	if err != nil || r.Written || r.Changed() || len(r.Images) != 0 || b.lock() != "" {
		t.Errorf("%+v, %v\n%s", r, err, b.lock())
	}
	if asked := b.server.Requests(); len(asked) != 0 {
		t.Errorf("asked for %q", asked)
	}
}

// TestRefreshURL: the digest beside a URL is fetched again, the query shown
// nowhere.
func TestRefreshURL(t *testing.T) {
	b := newPinBench(t)
	digest := zeros
	b.server.Answer("/a.img.sha256", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "token=hunter2" {
			w.WriteHeader(403)
		}
		fmt.Fprintln(w, digest)
	})
	c := b.cluster("'"+b.server.URL+"/a.img?token=hunter2'", "")
	if _, err := b.refresh(c, LockOptions{}); err != nil {
		t.Fatal(err)
	}
	digest = helloD
	r, err := b.refresh(c, LockOptions{Names: []string{b.server.URL + "/a.img?token=hunter2"}})
	if err != nil || len(r.Images) != 1 || r.Images[0].State != PinUpdated || r.Images[0].Is.SHA256 != helloD {
		t.Fatalf("%+v, %v", r, err)
	}
	if ref := b.ref(c); ref.SHA256 != helloD || !strings.HasSuffix(ref.Source, "hunter2") {
		t.Errorf("%+v", ref)
	}
	if strings.Contains(b.lock()+fmt.Sprint(states(r)), "hunter2") {
		t.Errorf("the lock is\n%s", b.lock())
	}
	if r, err := b.refresh(c, LockOptions{Names: []string{r.Images[0].Name}}); err != nil || len(r.Images) != 1 {
		t.Errorf("by the name that the lock has: %+v, %v", r, err)
	}
}

func TestRefreshThatFails(t *testing.T) {
	for _, test := range []struct {
		summary, base string
		names         []string
		lock          string
		want          string
	}{
		{"a name that is no base", "raspios_lite_armhf", []string{"raspios_lite_arm64"}, "", `"raspios_lite_arm64" is no base image of the cluster that is pinned: those are raspios_lite_armhf`},
		{"one of two", "raspios_lite_armhf", []string{"raspios_lite_armhf", "p1"}, "", `"p1" is no base image`},
		{"where nothing is pinned", "x.img", []string{"x.img"}, "", `"x.img" is not pinned: the cluster's bases are files`},
		{"a name that there is not", "raspios_lite", nil, "", "did you mean raspios_lite_arm64 or raspios_lite_armhf"},
		{"a release that is published no more", "{image: raspios_lite_armhf, sha256: " + helloD + "}", nil, "", "but the OS list has the one with"},
		{"a broken lock", "raspios_lite_armhf", nil, "epoch: never\n", "epoch is \"never\""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			b := newPinBench(t)
			b.file("x.img", "")
			if test.lock != "" {
				b.file(clusterlock.Name, test.lock)
			}
			_, err := b.refresh(b.cluster(test.base, ""), LockOptions{Names: test.names})
			var input *InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) || b.lock() != test.lock {
				t.Errorf("got  %v\nwant %s; the lock is\n%s", err, test.want, b.lock())
			}
		})
	}
}

// TestTwoDigestsOfOneName: of two targets that want different releases under
// one name, one cannot have it.
func TestTwoDigestsOfOneName(t *testing.T) {
	b := newPinBench(t)
	e := b.entry("raspios_oldstable_lite_armhf")
	c := b.cluster("raspios_oldstable_lite_armhf", "slots: {p1: {base: {image: raspios_oldstable_lite_armhf, sha256: "+e.SHA256+"}}, p2: {base: {image: raspios_oldstable_lite_armhf, sha256: "+zeros+"}}}\n")
	var input *InputError
	if _, err := b.refresh(c, LockOptions{}); !errors.As(err, &input) || !strings.Contains(err.Error(), zeros) {
		t.Error(err)
	}
	if _, err := b.pin(c, pinOptions{}); !errors.As(err, &input) || !strings.Contains(err.Error(), zeros) {
		t.Error(err)
	}
}

func TestOSList(t *testing.T) {
	b := newPinBench(t)
	l, err := OSList(t.Context(), b.server.ListURL, nil)
	if err != nil || len(l.Entries()) != 7 {
		t.Errorf("%v", err)
	}
	var input *InputError
	if _, err := OSList(t.Context(), b.server.URL+"/nothing", nil); !errors.As(err, &input) {
		t.Errorf("%v, want an InputError", err)
	}
}
