package preserve_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/preserve"
	"hatchery/internal/kept"
	"hatchery/internal/testtool"
)

// made is an archive of entries, whatever they are, and a controller that offers it.
func made(t testing.TB, roots []kept.Root, entries ...tar.Header) *shelf {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := strings.Repeat("x", int(h.Size))
		h.Format = tar.FormatPAX
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	must(t, w.Close())
	return offering(b.Bytes(), roots)
}

func offering(archive []byte, roots []kept.Root) *shelf {
	sum := sha256.Sum256(archive)
	return &shelf{archive: archive, offer: kept.Offer{Digest: hex.EncodeToString(sum[:]), Bytes: int64(len(archive)), Roots: roots}}
}

func folderEntry(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name + "/"} }
func fileEntry(name string) tar.Header   { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 3} }
func linkEntry(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}
func hardEntry(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// TestHostileArchives: nothing lands outside, and what is in place stays.
func TestHostileArchives(t *testing.T) {
	v := []kept.Root{{Kind: kept.Volume, Name: "v"}}
	sparse := func(record string, size int64) tar.Header {
		h := fileEntry("volumes/v/f")
		h.Size, h.PAXRecords = size, map[string]string{kept.SparseRecord: record}
		return h
	}
	top := folderEntry("volumes/v")
	var deep []tar.Header
	for i := range 300 {
		deep = append(deep, folderEntry("volumes/v"+strings.Repeat("/d", i)))
	}
	for _, test := range []struct {
		summary string
		roots   []kept.Root
		entries []tar.Header
		words   string
	}{
		{"outside by dots", v, []tar.Header{top, fileEntry("volumes/v/../../../../escaped")}, "no entry's name"},
		{"outside by dots at the beginning", v, []tar.Header{top, fileEntry("../escaped")}, "no entry's name"},
		{"an absolute path", v, []tar.Header{top, fileEntry("/escaped")}, "no entry's name"},
		{"no name", v, []tar.Header{top, fileEntry(".")}, "was not announced"},
		{"a name twice", v, []tar.Header{top, fileEntry("volumes/v/f"), fileEntry("volumes/v/f")}, "is there twice"},
		{"a folder twice", v, []tar.Header{top, folderEntry("volumes/v/f"), fileEntry("volumes/v/g"), folderEntry("volumes/v/f")}, "is there twice"},
		{"the root twice", v, []tar.Header{top, top}, "is there twice"},
		{"through a symbolic link", v, []tar.Header{top, linkEntry("volumes/v/l", ".."), fileEntry("volumes/v/l/escaped")}, "does not come after its folder"},
		{"a folder over a symbolic link", v, []tar.Header{top, linkEntry("volumes/v/l", "/"), folderEntry("volumes/v/l"), fileEntry("volumes/v/l/escaped")}, "is there twice"},
		{"a file over a symbolic link", v, []tar.Header{top, linkEntry("volumes/v/l", "../../escaped"), fileEntry("volumes/v/l")}, "is there twice"},
		{"the root as a symbolic link", v, []tar.Header{linkEntry("volumes/v", ".."), fileEntry("volumes/v/escaped")}, "does not come after its folder"},
		{"a hard link outside", v, []tar.Header{top, hardEntry("volumes/v/h", "../secret")}, "not in the archive"},
		{"a hard link to an absolute path", v, []tar.Header{top, hardEntry("volumes/v/h", "/etc/passwd")}, "not in the archive"},
		{"a hard link through dots", v, []tar.Header{top, hardEntry("volumes/v/h", "volumes/v/../../secret")}, "not in the archive"},
		{"a hard link through a symbolic link", v, []tar.Header{top, linkEntry("volumes/v/l", "../.."), hardEntry("volumes/v/h", "volumes/v/l/secret")}, "is not there"},
		{"a hard link to a folder", v, []tar.Header{top, hardEntry("volumes/v/h", "volumes/v")}, "it is a link to"},
		{"a hard link to what comes later", v, []tar.Header{top, hardEntry("volumes/v/h", "volumes/v/later"), fileEntry("volumes/v/later")}, "it is a link to"},
		{"what was not announced", v, []tar.Header{top, fileEntry("volumes/w/f")}, "was not announced"},
		{"not in its folder", v, []tar.Header{top, fileEntry("volumes/v/a/b/c")}, "does not come after its folder"},
		{"not what was announced", v, []tar.Header{}, "is not in it"},
		{"folders in folders in folders", v, deep, "deep in each other"},
		{"another kind of entry", v, []tar.Header{top, {Typeflag: tar.TypeCont, Name: "volumes/v/f"}}, "none of what was kept"},
		{"pieces that overlap", v, []tar.Header{top, sparse("100 0:2 1:1", 3)}, "is no piece"},
		{"pieces beyond the end", v, []tar.Header{top, sparse("100 99:3", 3)}, "is no piece"},
		{"pieces that are not there", v, []tar.Header{top, sparse("100 0:50", 3)}, "are not the 3"},
		{"pieces before the beginning", v, []tar.Header{top, sparse("100 -3:3", 3)}, "is no piece"},
		{"a file larger than any", v, []tar.Header{top, sparse("9223372036854775807", 0)}, "no file's size"},
		{"a volume that is a path", []kept.Root{{Kind: kept.Volume, Name: "../../etc"}}, nil, "neither a volume nor"},
		{"a path with dots", []kept.Root{{Kind: kept.File, Name: "/srv/../etc"}}, nil, "neither a volume nor"},
		{"the root", []kept.Root{{Kind: kept.File, Name: "/"}}, nil, "neither a volume nor"},
		{"a volume twice", []kept.Root{v[0], v[0]}, []tar.Header{top}, "is there twice"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			s := made(t, test.roots, test.entries...)
			n := newNode(t, dir, nil, s)
			lay(t, dir, map[string]string{"docker/volumes/v/_data/of the image": "i", "state/secret": "s", "secret": "s"})
			before := listing(t, filepath.Join(dir, "docker"))
			err := n.keeper().Restore(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Fatalf("%v, want %q", err, test.words)
			}
			if len(test.entries) > 0 && !errors.Is(err, preserve.ErrBadArchive) && !strings.Contains(err.Error(), "is there twice") {
				t.Errorf("%v is no ErrBadArchive", err)
			}
			same(t, "Docker's folder", listing(t, filepath.Join(dir, "docker")), before)
			if found, _ := filepath.Glob(filepath.Join(dir, "*escaped*")); len(found) > 0 {
				t.Errorf("it has made %v", found)
			}
			if found, _ := filepath.Glob(filepath.Join(dir, "*/*escaped*")); len(found) > 0 {
				t.Errorf("it has made %v", found)
			}
			if n.stops > 0 || s.receipt != nil {
				t.Errorf("the engine was stopped %d times, receipt %+v", n.stops, s.receipt)
			}
		})
	}
}

// TestBomb: few bytes of an archive do not become many on the card.
func TestBomb(t *testing.T) {
	v := []kept.Root{{Kind: kept.Volume, Name: "v"}}
	for _, format := range []string{"gnu", "pax"} {
		dir := t.TempDir()
		lay(t, dir, map[string]string{"volumes/v/f": ""})
		must(t, os.Truncate(filepath.Join(dir, "volumes/v/f"), 1<<30))
		file := filepath.Join(dir, "bomb.tar")
		testtool.Run(t, "tar", "-C", dir, "-S", "--format="+format, "-cf", file, "volumes/v")
		archive, err := os.ReadFile(file)
		must(t, err)
		n := newNode(t, filepath.Join(dir, "root"), nil, offering(archive, v))
		if err := n.keeper().Restore(t.Context(), nil); !errors.Is(err, preserve.ErrBadArchive) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// TestNotKeptAnyMore: what node.json does not name is passed over, and told.
func TestNotKeptAnyMore(t *testing.T) {
	dir := t.TempDir()
	etc := filepath.Join(dir, "etc/passwd")
	state := filepath.Join(dir, "state")
	roots := []kept.Root{{Kind: kept.File, Name: etc}, {Kind: kept.File, Name: state}, {Kind: kept.Volume, Name: "v"}}
	s := made(t, roots, fileEntry("files"+etc), folderEntry("files"+state), fileEntry("files"+state+"/x"), folderEntry("volumes/v"), fileEntry("volumes/v/f"))
	n := newNode(t, dir, []string{"state"}, s)
	must(t, n.keeper().Restore(t.Context(), nil))
	if _, err := os.Lstat(etc); err == nil {
		t.Error("what is not kept was put back")
	}
	if _, err := os.Lstat(filepath.Join(state, "x")); err == nil {
		t.Error("the agent's state was replaced")
	}
	if _, err := os.Lstat(filepath.Join(dir, "docker/volumes/v/f")); err != nil {
		t.Error(err)
	}
	if s.receipt == nil || len(s.receipt.Left) != 2 || s.receipt.Left[0].Name != etc || s.receipt.Left[1].Name != state {
		t.Errorf("receipt %+v", s.receipt)
	}
	if _, detail, _ := n.keeper().Done(); !strings.Contains(detail, "but for "+etc) {
		t.Errorf("it says %q", detail)
	}
}

// TestDamaged: an archive that is not what was saved is not put into place.
func TestDamaged(t *testing.T) {
	v := []kept.Root{{Kind: kept.Volume, Name: "v"}}
	whole := made(t, v, folderEntry("volumes/v"), fileEntry("volumes/v/f")).archive
	another := bytes.Replace(bytes.Clone(whole), []byte("xxx"), []byte("xyx"), 1)
	for _, test := range []struct {
		summary string
		sent    []byte
		change  func(*kept.Offer)
		want    error
		words   string
	}{
		{"another content", another, nil, preserve.ErrBadArchive, "digest"},
		{"cut off", whole[:len(whole)-1300], nil, nil, ""},
		{"cut off at the end", whole[:len(whole)-512], nil, nil, ""},
		{"longer", append(bytes.Clone(whole), 0), nil, preserve.ErrBadArchive, "announced"},
		{"no tar", bytes.Repeat([]byte("no tar "), len(whole)/7), nil, preserve.ErrBadArchive, ""},
		{"more than was announced", whole, func(o *kept.Offer) { o.Bytes = 100 }, preserve.ErrBadArchive, "announced"},
		{"no room", whole, func(o *kept.Offer) {
			o.Bytes, o.Roots = 1<<60, []kept.Root{{Kind: kept.Volume, Name: "v", Bytes: 1 << 59}}
		}, nil, "room for"},
		{"sizes that overflow", whole, func(o *kept.Offer) {
			o.Roots = []kept.Root{{Kind: kept.Volume, Name: "v", Bytes: 1<<63 - 1}, {Kind: kept.Volume, Name: "w", Bytes: 1<<63 - 1}}
		}, preserve.ErrBadArchive, ""},
		{"a strange digest", whole, func(o *kept.Offer) { o.Digest = "../../x" }, nil, "digest"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			s := offering(whole, v)
			s.truth = test.sent
			if test.change != nil {
				test.change(&s.offer)
			}
			n := newNode(t, dir, nil, s)
			err := n.keeper().Restore(t.Context(), nil)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("%v, want %v with %q", err, test.want, test.words)
			}
			if _, err := os.Lstat(filepath.Join(dir, "docker/volumes/v")); err == nil {
				t.Error("it was put into place")
			}
			if done, _, _ := n.keeper().Done(); done {
				t.Error("it is done")
			}
			if _, err := os.Lstat(filepath.Join(dir, "state-restore")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what came of it takes room: %v", err)
			}
		})
	}
}

// TestManySmallFiles: what is small in an archive, and large on a card, does not fill it.
func TestManySmallFiles(t *testing.T) {
	entries := []tar.Header{folderEntry("volumes/v")}
	for i := range 1000 {
		entries = append(entries, folderEntry(fmt.Sprintf("volumes/v/%d", i)))
	}
	dir := t.TempDir()
	n := newNode(t, dir, nil, made(t, []kept.Root{{Kind: kept.Volume, Name: "v"}}, entries...))
	n.options.Free = func(string) (int64, error) {
		have, _ := os.ReadDir(filepath.Join(dir, "state-restore/0"))
		return preserve.Reserve + 2<<20 - int64(len(have))<<18, nil
	}
	if err := n.keeper().Restore(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
	if got := strings.TrimSpace(testFiles(t, dir)); strings.Contains(got, "volumes/v") || strings.Contains(got, "restore") {
		t.Errorf("there are %s", got)
	}
}

// TestRootInRoot: what is put back first leads nothing that comes after it elsewhere.
func TestRootInRoot(t *testing.T) {
	dir := t.TempDir()
	outer, inner, elsewhere := filepath.Join(dir, "srv"), filepath.Join(dir, "srv/x/y"), filepath.Join(dir, "elsewhere")
	lay(t, dir, map[string]string{"elsewhere/there": ""})
	roots := []kept.Root{{Kind: kept.File, Name: outer}, {Kind: kept.File, Name: inner}}
	s := made(t, roots, folderEntry("files"+outer), linkEntry("files"+outer+"/x", elsewhere), fileEntry("files"+inner))
	n := newNode(t, dir, []string{"srv", "srv/x/y"}, s)
	must(t, n.keeper().Restore(t.Context(), nil))
	if got := strings.TrimSpace(testFiles(t, elsewhere)); got != "there" {
		t.Errorf("elsewhere there are %s", got)
	}
	if s.receipt == nil || len(s.receipt.Left) != 1 || s.receipt.Left[0].Name != inner {
		t.Errorf("receipt %+v", s.receipt)
	}
}

// TestCutBehindTheMark: what the image had in place goes, also when the power went as soon
// as it was noted that all is in place.
func TestCutBehindTheMark(t *testing.T) {
	dir := t.TempDir()
	s := made(t, []kept.Root{{Kind: kept.Volume, Name: "v"}}, folderEntry("volumes/v"))
	n := newNode(t, dir, nil, s)
	broken := errors.New("the power is gone")
	s.cut = func(r *http.Request) error {
		if r.URL.Path == kept.PathRestored {
			return broken
		}
		return nil
	}
	if err := n.keeper().Restore(t.Context(), nil); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	lay(t, dir, map[string]string{"state-restore/0/of the image": "i"})
	s.cut = nil
	must(t, n.keeper().Restore(t.Context(), nil))
	if _, err := os.Lstat(filepath.Join(dir, "state-restore")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the image had is left: %v", err)
	}
}

// TestCutAtAnyPoint ends the agent at each of its calls, with what lies on the card
// then, and has the next one go on.
func TestCutAtAnyPoint(t *testing.T) {
	v := []kept.Root{{Kind: kept.Volume, Name: "v"}, {Kind: kept.Volume, Name: "w"}}
	for cut := range 6 {
		t.Run(fmt.Sprint("cut ", cut), func(t *testing.T) {
			dir := t.TempDir()
			s := made(t, v, folderEntry("volumes/v"), fileEntry("volumes/v/f"), folderEntry("volumes/w"), fileEntry("volumes/w/f"))
			n := newNode(t, dir, nil, s)
			lay(t, dir, map[string]string{"docker/volumes/w/of the image": "i"})
			broken := errors.New("the power is gone")
			left := cut
			step := func() error {
				if left--; left == -1 {
					return broken
				}
				return nil
			}
			s.cut = func(*http.Request) error { return step() }
			n.options.StopEngine = func(context.Context) error { return step() }
			n.options.Free = func(string) (int64, error) { return 1 << 40, step() }
			err := n.keeper().Restore(t.Context(), nil)
			if want := cut < 5; errors.Is(err, broken) != want {
				t.Fatalf("%v", err)
			}
			// What a killed process may have left.
			if cut < 4 {
				lay(t, dir, map[string]string{"state-restore/0/half": "h", "state-restore/7": "x"})
			}
			must(t, n.keeper().Restore(t.Context(), nil))
			if done, _, err := n.keeper().Done(); !done || err != nil || s.receipt == nil {
				t.Errorf("done %v, %v, receipt %+v", done, err, s.receipt)
			}
			got := strings.TrimSpace(testFiles(t, filepath.Join(dir, "docker/volumes")))
			if got != "v v/f w w/f" {
				t.Errorf("there are %s", got)
			}
			if got := strings.TrimSpace(testFiles(t, filepath.Join(dir, "state"))); got != "kept.json" {
				t.Errorf("the state has %s", got)
			}
			if _, err := os.Lstat(filepath.Join(dir, "state-restore")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what was unpacked is left: %v", err)
			}
		})
	}
}

// TestTheUnitsStateFolder has the state folder mounted onto itself, as systemd has it for
// the agent's unit: nothing can be renamed from there to elsewhere.
func TestTheUnitsStateFolder(t *testing.T) {
	testtool.NeedRoot(t)
	dir := t.TempDir()
	n := newNode(t, dir, nil, made(t, []kept.Root{{Kind: kept.Volume, Name: "v"}}, folderEntry("volumes/v"), fileEntry("volumes/v/f")))
	lay(t, dir, map[string]string{"state/there": "", "docker/volumes/v/of the image": "i"})
	state := filepath.Join(dir, "state")
	testtool.Run(t, "mount", "--bind", state, state)
	defer testtool.Run(t, "umount", state)
	must(t, n.keeper().Restore(t.Context(), nil))
	if got := strings.TrimSpace(testFiles(t, filepath.Join(dir, "docker/volumes"))); got != "v v/f" {
		t.Errorf("there are %s", got)
	}
}

func testFiles(t testing.TB, dir string) (all string) {
	t.Helper()
	for line := range strings.Lines(listing(t, dir)) {
		name := strings.SplitN(line, `"`, 3)[1]
		if name != "." {
			all += name + " "
		}
	}
	return all
}

// TestNothingKept pays one call, once for each root.
func TestNothingKept(t *testing.T) {
	for _, test := range []struct {
		summary    string
		controller http.Handler
	}{
		{"nothing", &shelf{}},
		{"a controller that knows nothing of it", http.NotFoundHandler()},
	} {
		calls := 0
		counting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { calls++; test.controller.ServeHTTP(w, r) })
		n := newNode(t, t.TempDir(), nil, counting)
		for range 3 {
			must(t, n.keeper().Restore(t.Context(), nil))
		}
		if done, detail, err := n.keeper().Done(); calls != 1 || !done || err != nil || !strings.Contains(detail, "nothing") {
			t.Errorf("%s: %d calls; done %v, %q, %v", test.summary, calls, done, detail, err)
		}
	}
	// A mark that cannot be read is none that may be passed over: what is in place may
	// be newer.
	n := newNode(t, t.TempDir(), nil, &shelf{})
	lay(t, n.dir, map[string]string{"state/kept.json": "{"})
	if err := n.keeper().Restore(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "kept.json") {
		t.Errorf("%v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	v := []kept.Root{{Kind: kept.Volume, Name: "v"}}
	sparse := fileEntry("volumes/v/s")
	sparse.PAXRecords = map[string]string{kept.SparseRecord: "100 5:3", kept.XattrRecord("user.x"): "y"}
	f.Add(made(f, v, folderEntry("volumes/v"), fileEntry("volumes/v/f"), hardEntry("volumes/v/h", "volumes/v/f"), linkEntry("volumes/v/l", ".."), sparse).archive)
	f.Add(made(f, v, linkEntry("volumes/v", ".."), fileEntry("volumes/v/../../../escaped")).archive)
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		into := filepath.Join(dir, "a/b/c")
		must(t, os.MkdirAll(into, 0o700))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := preserve.Unpack(ctx, bytes.NewReader(archive), into, map[kept.Root]int{v[0]: 0}, nil, nil)
		if ctx.Err() != nil {
			t.Fatal("it hangs")
		}
		for _, outside := range []string{dir, filepath.Join(dir, "a"), filepath.Join(dir, "a/b")} {
			if entries, rerr := os.ReadDir(outside); rerr != nil || len(entries) != 1 {
				t.Fatalf("%s has %v, %v", outside, entries, rerr)
			}
		}
		entries, rerr := os.ReadDir(into)
		if rerr != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "0" || err == nil && len(entries) == 0 {
			t.Fatalf("%v, and there are %v, %v", err, entries, rerr)
		}
	})
}

func FuzzParseSparse(f *testing.F) {
	f.Add("100 0:3 50:7", int64(10))
	f.Add(kept.FormatSparse(1<<40, []kept.Extent{{Offset: 1 << 39, Length: 4096}}), int64(4096))
	f.Fuzz(func(t *testing.T, record string, stored int64) {
		size, data, err := kept.ParseSparse(record, stored)
		if err != nil {
			return
		}
		end, sum := int64(0), int64(0)
		for _, e := range data {
			if e.Offset < end || e.Length < 0 {
				t.Fatalf("%v", data)
			}
			end, sum = e.Offset+e.Length, sum+e.Length
		}
		if end > size || sum != stored {
			t.Fatalf("%d %v of %q", size, data, record)
		}
		again, same, err := kept.ParseSparse(kept.FormatSparse(size, data), stored)
		if err != nil || again != size || len(same) != len(data) {
			t.Fatalf("%d %v %v", again, same, err)
		}
	})
}
