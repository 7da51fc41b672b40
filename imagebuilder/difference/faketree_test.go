package difference_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder/diskimage"
)

// A fakeTree is a tree of files in memory, in the order in which they were
// given.
type fakeTree struct {
	nodes   []diskimage.Node
	content map[string]string
	busy    bool // a tree is for one goroutine at a time
	walkErr error
	readErr map[string]error
	opened  map[string]int
}

var epoch = time.Unix(1778630400, 0).UTC()

// fake makes a tree of lines: a mode as octal digits behind a letter of the
// type (- d l c b p s), uid:gid, a path in Go's quotes if it needs them, and
// then the content or a symlink's target in quotes, and options: inode=, links=,
// time= (seconds after the epoch), dev=MAJOR,MINOR, x:NAME=VALUE, size=,
// partition=, problem=. Folders above are made; the order is a walk's.
func fake(t testing.TB, lines string) *fakeTree {
	t.Helper()
	f := &fakeTree{content: map[string]string{}, readErr: map[string]error{}, opened: map[string]int{}}
	have := map[string]bool{}
	for l := range strings.Lines(lines) {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		words := splitQuoted(t, l)
		if len(words) < 3 {
			t.Fatalf("%q says too little", l)
		}
		n := diskimage.Node{Path: words[2], ModTime: epoch, Links: 1}
		n.Mode = parseMode(t, words[0])
		fmt.Sscanf(words[1], "%d:%d", &n.UID, &n.GID)
		content := ""
		for i, w := range words[3:] {
			key, value, option := strings.Cut(w, "=")
			number, _ := strconv.ParseInt(value, 10, 64)
			switch {
			case i == 0 && !(option && slices.Contains([]string{"inode", "links", "time", "dev", "size", "partition", "problem"}, key)) && !strings.HasPrefix(w, "x:"):
				content = w
			case key == "inode":
				n.Inode = uint64(number)
			case key == "links":
				n.Links = uint32(number)
			case key == "time":
				n.ModTime = epoch.Add(time.Duration(number) * time.Second)
			case key == "dev":
				fmt.Sscanf(value, "%d,%d", &n.Major, &n.Minor)
			case key == "size":
				n.Size = number
			case key == "partition":
				n.Partition = int(number)
			case key == "problem":
				n.Problem = value
			case strings.HasPrefix(key, "x:"):
				if n.Xattrs == nil {
					n.Xattrs = map[string][]byte{}
				}
				n.Xattrs[key[2:]] = []byte(value)
			default:
				t.Fatalf("%q: %q", l, w)
			}
		}
		switch {
		case n.Mode.IsRegular():
			f.content[n.Path] = content
			if n.Size == 0 {
				n.Size = int64(len(content))
			}
		case n.Mode&fs.ModeSymlink != 0:
			n.Target, n.Size = content, int64(len(content))
		}
		f.nodes = append(f.nodes, n)
		have[n.Path] = true
	}
	for _, n := range slices.Clone(f.nodes) {
		for p := n.Path; p != "/"; {
			p = path.Dir(p)
			if !have[p] {
				have[p] = true
				f.nodes = append(f.nodes, diskimage.Node{Path: p, Mode: fs.ModeDir | 0o755, ModTime: epoch, Links: 2})
			}
		}
	}
	if !have["/"] {
		f.nodes = append(f.nodes, diskimage.Node{Path: "/", Mode: fs.ModeDir | 0o755, ModTime: epoch, Links: 2})
	}
	slices.SortStableFunc(f.nodes, func(a, b diskimage.Node) int {
		return cmp.Compare(strings.ReplaceAll(a.Path, "/", "\x00"), strings.ReplaceAll(b.Path, "/", "\x00"))
	})
	return f
}

func splitQuoted(t testing.TB, l string) (words []string) {
	t.Helper()
	for l = strings.TrimSpace(l); l != ""; l = strings.TrimSpace(l) {
		if l[0] == '"' {
			quoted, err := strconv.QuotedPrefix(l)
			if err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			w, _ := strconv.Unquote(quoted)
			words, l = append(words, w), l[len(quoted):]
			continue
		}
		w, rest, _ := strings.Cut(l, " ")
		words, l = append(words, w), rest
	}
	return words
}

func parseMode(t testing.TB, s string) fs.FileMode {
	t.Helper()
	bits, err := strconv.ParseUint(s[1:], 8, 12)
	if err != nil {
		t.Fatal(err)
	}
	mode := fs.FileMode(bits & 0o777)
	for i, bit := range []fs.FileMode{fs.ModeSticky, fs.ModeSetgid, fs.ModeSetuid} {
		if bits&(0o1000<<i) != 0 {
			mode |= bit
		}
	}
	types := map[byte]fs.FileMode{
		'-': 0, 'd': fs.ModeDir, 'l': fs.ModeSymlink, 'c': fs.ModeDevice | fs.ModeCharDevice, 'b': fs.ModeDevice,
		'p': fs.ModeNamedPipe, 's': fs.ModeSocket,
	}
	return mode | types[s[0]]
}

// alone says if two goroutines use the tree at once, for the race detector
// and, now and then, without it.
func (f *fakeTree) alone() func() {
	if f.busy {
		panic("a tree is used by two goroutines")
	}
	f.busy = true
	return func() { f.busy = false }
}

func (f *fakeTree) Lstat(p string) (diskimage.Node, error) {
	defer f.alone()()
	for _, n := range f.nodes {
		if n.Path == p {
			return n, nil
		}
	}
	return diskimage.Node{}, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
}

func (f *fakeTree) ReadDir(p string) ([]diskimage.Node, error) {
	defer f.alone()()
	var list []diskimage.Node
	for _, n := range f.nodes {
		if n.Path != "/" && path.Dir(n.Path) == p {
			list = append(list, n)
		}
	}
	return list, nil
}

func (f *fakeTree) Open(p string) (io.ReadCloser, error) {
	defer f.alone()()
	f.opened[p]++
	if err := f.readErr[p]; err != nil {
		return nil, err
	}
	content, ok := f.content[p]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	for _, n := range f.nodes {
		if n.Path == p && n.Size > int64(len(content)) { // a file that ends in a hole
			return io.NopCloser(io.MultiReader(strings.NewReader(content), io.LimitReader(zeros{}, n.Size-int64(len(content))))), nil
		}
	}
	return io.NopCloser(strings.NewReader(content)), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (f *fakeTree) Walk(root string, visit func(diskimage.Node) error) error {
	skip := ""
	for _, n := range f.nodes {
		if skip != "" && strings.HasPrefix(n.Path, skip+"/") {
			continue
		}
		skip = ""
		err := visit(n)
		switch {
		case errors.Is(err, fs.SkipDir) && n.IsDir():
			skip = n.Path
		case err != nil:
			return err
		}
	}
	return f.walkErr
}
