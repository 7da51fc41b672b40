package bootpart_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/google/go-cmp/cmp"

	"hatchery/internal/bootpart"
	"hatchery/internal/testtool"
)

// TestReadsWhatMtoolsWrote compares with what was put in, and with mtools.
func TestReadsWhatMtoolsWrote(t *testing.T) {
	for _, perCluster := range []int{1, 2, 4, 8} {
		t.Run(fmt.Sprintf("%d sectors a cluster", perCluster), func(t *testing.T) {
			want := raspios()
			image := mkfs(t, perCluster, smallest(perCluster), want)
			want["overlays"] = dirMark
			f, _ := open(t, image)
			if diff := cmp.Diff(want, tree(t, f)); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
			if f.Label() != "BOOTFS" || f.VolumeID() != 0x1a2b3c4d {
				t.Errorf("label %q, volume id %08x", f.Label(), f.VolumeID())
			}
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestEdits makes the edits that a build makes, and lets fsck.vfat, mtools
// and go-diskfs judge.
func TestEdits(t *testing.T) {
	for _, perCluster := range []int{1, 2, 4, 8} {
		t.Run(fmt.Sprintf("%d sectors a cluster", perCluster), func(t *testing.T) {
			want := raspios()
			image := mkfs(t, perCluster, smallest(perCluster), want)
			f, _ := open(t, image)
			step := func(what string, err error) {
				t.Helper()
				if err == nil {
					err = f.Flush()
				}
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				fsck(t, image)
			}
			write := func(name, content string) {
				t.Helper()
				want[name] = content
				step("write "+name, f.WriteFile(name, []byte(content)))
			}
			want["overlays"] = dirMark
			write("cmdline.txt", "shorter\n")
			write("config.txt", bookwormConfig+strings.Repeat("# longer than before\n", 500))
			write("kernel.img", "")
			write("empty.txt", "no longer")
			write("ssh", "")
			write(".dotfile", "leading dot")
			write("UPPER.TXT", "no long name needed")
			write("Ünïcödé – ἑλληνικά 🐦.txt", "beyond ASCII")
			write(strings.Repeat("long", 63)+"255", strings.Repeat("x", 5000))
			write("a b.txt", "1")
			write("ab.txt", "2")
			for i := range 12 {
				write(fmt.Sprintf("collision number %d.text", i), "c")
			}
			want["made"], want["made/below"], want["made/below/deep"] = dirMark, dirMark, dirMark
			step("mkdir", f.Mkdir("/made"))
			step("mkdirall", f.MkdirAll("made/below/deep"))
			write("made/below/deep/file", strings.Repeat("deep ", 2000))
			for i := range 60 {
				write(fmt.Sprintf("made/below/grows the directory %02d", i), "g")
			}
			delete(want, "overlays/README")
			step("remove", f.Remove("OVERLAYS/readme"))
			for i := range 40 {
				name := fmt.Sprintf("overlays/some-long-overlay-name-%02d.dtbo", i)
				delete(want, name)
				step("remove", f.Remove(name))
			}
			delete(want, "made/below/deep/file")
			delete(want, "made/below/deep")
			step("remove", f.Remove("made/below/deep/file"))
			step("remove", f.Remove("made/below/deep"))

			if diff := cmp.Diff(want, tree(t, f)); diff != "" {
				t.Errorf("this FS (-want +got):\n%s", diff)
			}
			again, _ := open(t, image)
			if diff := cmp.Diff(want, tree(t, again)); diff != "" {
				t.Errorf("opened again (-want +got):\n%s", diff)
			}
			// mtools cannot show names outside the Basic Multilingual Plane.
			const bird = "Ünïcödé – ἑλληνικά 🐦.txt"
			byMtools := mcopyAll(t, image)
			delete(want, bird)
			maps.DeleteFunc(byMtools, func(name, _ string) bool { return strings.HasPrefix(name, "Ünïcödé") })
			if diff := cmp.Diff(want, byMtools); diff != "" {
				t.Errorf("mtools (-want +got):\n%s", diff)
			}
			compareDiskfs(t, image, want)
		})
	}
}

// compareDiskfs reads the tree with go-diskfs, which cannot read files of no
// bytes nor names that begin with a dot, and which reads past the end of a file
// unless that is read in one piece.
func compareDiskfs(t *testing.T, image string, want map[string]string) {
	t.Helper()
	b, err := file.OpenFromPath(image, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	d, err := fat32.Read(b, info.Size(), 0, 512)
	if err != nil {
		t.Fatalf("go-diskfs: %v", err)
	}
	for name, content := range want {
		if content == dirMark || content == "" || strings.HasPrefix(name, ".") {
			continue
		}
		f, err := d.OpenFile("/"+name, os.O_RDONLY)
		if err != nil {
			t.Errorf("go-diskfs: %s: %v", name, err)
			continue
		}
		got := make([]byte, len(content))
		n, err := f.Read(got)
		if n != len(got) || !errors.Is(err, io.EOF) || string(got) != content {
			t.Errorf("go-diskfs reads %s: %d bytes, %v; want %d", name, n, err, len(content))
		}
	}
}

func TestKeepsTheNameThatIsThere(t *testing.T) {
	image := mkfs(t, 1, smallest(1), map[string]string{"Config.TXT": "old"})
	f, _ := open(t, image)
	if err := f.WriteFile("config.txt", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	if diff := cmp.Diff(map[string]string{"Config.TXT": "new"}, mcopyAll(t, image)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAllocatesWithinThePartition fills a partition to its last cluster. The
// FAT has entries for more clusters than there are.
func TestAllocatesWithinThePartition(t *testing.T) {
	image := mkfs(t, 1, 34, nil)
	f, _ := open(t, image)
	free := f.Usage().FreeClusters
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	err = f.WriteFile("toolarge", make([]byte, free*512+1))
	if !errors.Is(err, bootpart.ErrNoSpace) {
		t.Fatalf("error %v, want ErrNoSpace", err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("a write that found no space changed the partition")
	}
	content := bytes.Repeat([]byte("fill"), free*512/4)
	if err := f.WriteFile("EXACT", content); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	if f.Usage().FreeClusters != 0 {
		t.Errorf("%d clusters are free", f.Usage().FreeClusters)
	}
	if info, err := os.Stat(image); err != nil || info.Size() != 34*mib {
		t.Errorf("the image has %d bytes now (%v)", info.Size(), err)
	}
	if got := mtype(t, image, "EXACT"); got != string(content) {
		t.Error("mtools reads something else")
	}
	for _, op := range []struct {
		summary string
		err     error
	}{
		{"a new file of one byte", f.WriteFile("MORE", []byte("x"))},
		{"one byte more", f.WriteFile("EXACT", append(content, 'x'))},
		{"a directory", f.Mkdir("DIR")},
		{"directories", f.MkdirAll("DIR/DIR/DIR")},
	} {
		if !errors.Is(op.err, bootpart.ErrNoSpace) {
			t.Errorf("%s: error %v, want ErrNoSpace", op.summary, op.err)
		}
	}
	if err := f.Remove("EXACT"); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	if got := f.Usage().FreeClusters; got != free {
		t.Errorf("%d clusters are free after removing, %d before", got, free)
	}
}

// TestFragmented leaves only every other cluster free.
func TestFragmented(t *testing.T) {
	image := mkfs(t, 1, 34, nil)
	f, _ := open(t, image)
	if err := f.Mkdir("D"); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		if err := f.WriteFile(fmt.Sprintf("D/F%d", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteFile("REST", make([]byte, f.Usage().FreeClusters*512)); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 400; i += 2 {
		if err := f.Remove(fmt.Sprintf("D/F%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	content := make([]byte, f.Usage().FreeClusters*512-100)
	for i := range content {
		content[i] = byte(i / 7)
	}
	if err := f.WriteFile("SCATTER", content); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	if mtype(t, image, "SCATTER") != string(content) {
		t.Error("mtools reads something else")
	}
	again, _ := open(t, image)
	if got, err := again.ReadFile("scatter"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read back %d bytes, %v", len(got), err)
	}
}

// TestRandomOperations runs sequences of operations against a model.
func TestRandomOperations(t *testing.T) {
	steps := 150
	if testing.Short() {
		steps = 40
	}
	for _, perCluster := range []int{1, 2, 4, 8} {
		t.Run(fmt.Sprintf("%d sectors a cluster", perCluster), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("BOOTPART_SEED"); s != "" {
				fmt.Sscan(s, &seed)
			}
			t.Logf("BOOTPART_SEED=%d", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			image := mkfs(t, perCluster, smallest(perCluster), nil)
			f, _ := open(t, image)
			model := map[string]string{}
			for i := range steps {
				what := randomOperation(t, rnd, f, model)
				if rnd.IntN(3) == 0 || i == steps-1 {
					if err := f.Flush(); err != nil {
						t.Fatal(err)
					}
					fsck(t, image)
				}
				if rnd.IntN(10) == 0 {
					if err := f.Flush(); err != nil {
						t.Fatal(err)
					}
					f, _ = open(t, image)
				}
				if diff := cmp.Diff(model, tree(t, f)); diff != "" {
					t.Fatalf("after step %d, %s (-want +got):\n%s", i, what, diff)
				}
			}
			if diff := cmp.Diff(model, mcopyAll(t, image)); diff != "" {
				t.Errorf("mtools (-want +got):\n%s", diff)
			}
			compareDiskfs(t, image, model)
		})
	}
}

// randomOperation does one thing to both, and compares the errors.
func randomOperation(t *testing.T, rnd *rand.Rand, f *bootpart.FS, model map[string]string) string {
	names := []string{"A", "B.TXT", "config.txt", "a longer name than fits", "ünïcode", ".hidden", "x.y.z", "another longer name.dtbo"}
	dirs := []string{""}
	for _, name := range slices.Sorted(maps.Keys(model)) {
		if model[name] == dirMark {
			dirs = append(dirs, name+"/")
		}
	}
	path := dirs[rnd.IntN(len(dirs))] + names[rnd.IntN(len(names))]
	if rnd.IntN(2) == 0 {
		path += fmt.Sprint(rnd.IntN(30))
	}
	old, exists := model[path]
	check := func(what string, err, want error) string {
		t.Helper()
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Fatalf("%s: error %v, want %v", what, err, want)
		}
		return what
	}
	switch rnd.IntN(10) {
	case 0, 1, 2, 3, 4:
		size := []int{0, 1, 511, 512, 513, 4096, 4097, rnd.IntN(200000)}[rnd.IntN(8)]
		content := strings.Repeat(string(rune('a'+rnd.IntN(26)))+"bc\n", size/4+1)[:size]
		err := f.WriteFile(path, []byte(content))
		if old == dirMark {
			return check("write "+path, err, bootpart.ErrIsDir)
		}
		model[path] = content
		return check("write "+path, err, nil)
	case 5:
		err := f.Mkdir(path)
		if exists {
			return check("mkdir "+path, err, fs.ErrExist)
		}
		if strings.Count(path, "/") > 5 {
			// Deep enough.
			check("mkdir "+path, err, nil)
			return check("remove "+path, f.Remove(path), nil)
		}
		model[path] = dirMark
		return check("mkdir "+path, err, nil)
	case 6:
		// Spelt otherwise, it is the same file.
		path = strings.ToUpper(path)
		_, err := f.Stat(path)
		if exists {
			return check("stat "+path, err, nil)
		}
		return check("stat "+path, err, fs.ErrNotExist)
	default:
		all := slices.Sorted(maps.Keys(model))
		if len(all) == 0 {
			return check("remove "+path, f.Remove(path), fs.ErrNotExist)
		}
		path = all[rnd.IntN(len(all))]
		err := f.Remove(path)
		for name := range model {
			if strings.HasPrefix(name, path+"/") {
				return check("remove "+path, err, bootpart.ErrNotEmpty)
			}
		}
		delete(model, path)
		return check("remove "+path, err, nil)
	}
}

// TestEqualInputsGiveEqualBytes also sees that nothing of the wall clock is
// in the image.
func TestEqualInputsGiveEqualBytes(t *testing.T) {
	image := mkfs(t, 1, smallest(1), raspios())
	base, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	var results []map[int64][]byte
	for range 2 {
		dev := over(bytes.NewReader(base))
		f, err := bootpart.Open(dev, 0, int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		f.SetTime(epoch)
		build(t, f)
		results = append(results, dev.sectors)
		time.Sleep(1100 * time.Millisecond) // longer than a step of a FAT's clock is apart from another
	}
	if diff := cmp.Diff(results[0], results[1]); diff != "" {
		t.Errorf("two runs differ:\n%s", diff)
	}
	f, err := bootpart.Open(over(bytes.NewReader(base)), 0, int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	f.SetTime(epoch)
	if err := f.WriteFile("new", nil); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat("new"); err != nil || !info.ModTime.Equal(epoch) {
		t.Errorf("modified %v (%v), want %v", info.ModTime, err, epoch)
	}
}

// build does to a boot partition about what a build does.
func build(t testing.TB, f *bootpart.FS) {
	t.Helper()
	for i := range 8 {
		if err := f.WriteFile(fmt.Sprintf("hatchery-file-%d.txt", i), bytes.Repeat([]byte("line\n"), 500)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"config.txt", "cmdline.txt"} {
		b, err := f.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.WriteFile(name, append(b, "and more\n"...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestWritesLittle guards the layers: the sectors that a build dirties, and
// nothing at all where nothing changed.
func TestWritesLittle(t *testing.T) {
	image := mkfs(t, 1, 512, raspios())
	r, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dev := over(r)
	f, err := bootpart.Open(dev, 0, 512*mib)
	if err != nil {
		t.Fatal(err)
	}
	f.SetTime(epoch)
	build(t, f)
	blocks := map[int64]bool{}
	for off := range dev.sectors {
		blocks[off/4096] = true
	}
	t.Logf("ten files: %d writes, %d sectors, %d blocks of 4 KiB", dev.writes, len(dev.sectors), len(blocks))
	// 8 × 5 sectors of content, 2 × 5 of the edited files at most, and about
	// ten of FAT, directory and FSInfo.
	if len(dev.sectors) > 70 {
		t.Errorf("%d sectors were written", len(dev.sectors))
	}

	before := dev.writes
	for name, content := range tree(t, f) {
		if content != dirMark {
			if err := f.WriteFile(name, []byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.SetTime(epoch.Add(time.Hour))
	if err := f.MkdirAll("overlays"); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if dev.writes != before {
		t.Errorf("%d writes where nothing changed", dev.writes-before)
	}
}

func TestNothingIsWrittenBeforeFlush(t *testing.T) {
	image := mkfs(t, 1, smallest(1), raspios())
	base, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	dev := over(bytes.NewReader(base))
	f, err := bootpart.Open(dev, 0, int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.WriteFile("new", []byte("x")), f.Remove("config.txt"), f.MkdirAll("a/b/c")); err != nil {
		t.Fatal(err)
	}
	if dev.writes != 0 {
		t.Errorf("%d writes before Flush", dev.writes)
	}
	dev.failFrom = 2
	if err := f.Flush(); err == nil || !strings.Contains(err.Error(), "gave up") {
		t.Errorf("a failing device gives error %v", err)
	}
	dev.failFrom = 0
	if err := f.Flush(); err != nil {
		t.Fatalf("a second Flush, on a device that works again: %v", err)
	}
	again, err := bootpart.Open(dev, 0, int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, f), tree(t, again)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOffsetPartition(t *testing.T) {
	image := mkfs(t, 1, smallest(1), raspios())
	inner, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	const at = 4 * mib
	disk := append(bytes.Repeat([]byte{0xaa}, at), inner...)
	disk = append(disk, bytes.Repeat([]byte{0xbb}, mib)...)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, err := bootpart.Open(file, at, int64(len(inner)))
	if err != nil {
		t.Fatal(err)
	}
	build(t, f)
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after[:at], disk[:at]) || !bytes.Equal(after[at+len(inner):], disk[at+len(inner):]) {
		t.Error("bytes outside the partition changed")
	}
	if err := os.WriteFile(image, after[at:at+len(inner)], 0o600); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
}

func TestErrorsOfOperations(t *testing.T) {
	f, _ := open(t, mkfs(t, 1, smallest(1), raspios()))
	before := tree(t, f)
	read := func(path string) error { _, err := f.ReadFile(path); return err }
	list := func(path string) error { _, err := f.ReadDir(path); return err }
	for _, tt := range []struct {
		summary string
		err     error
		want    error
	}{
		{"read nothing", read("nothing"), fs.ErrNotExist},
		{"read a directory", read("overlays"), bootpart.ErrIsDir},
		{"read below a file", read("config.txt/x"), bootpart.ErrNotDir},
		{"read upwards", read("../etc/passwd"), fs.ErrInvalid},
		{"list a file", list("config.txt"), bootpart.ErrNotDir},
		{"list nothing", list("nothing"), fs.ErrNotExist},
		{"write a directory", f.WriteFile("overlays", nil), bootpart.ErrIsDir},
		{"write the root", f.WriteFile("/", nil), bootpart.ErrIsDir},
		{"write into nothing", f.WriteFile("nothing/x", nil), fs.ErrNotExist},
		{"write below a file", f.WriteFile("config.txt/x", nil), bootpart.ErrNotDir},
		{"write a name with a colon", f.WriteFile("a:b", nil), fs.ErrInvalid},
		{"write a name with a final dot", f.WriteFile("a.", nil), fs.ErrInvalid},
		{"write a name with a newline", f.WriteFile("a\nb", nil), fs.ErrInvalid},
		{"write a name of 256", f.WriteFile(strings.Repeat("x", 256), nil), fs.ErrInvalid},
		{"write a name that is no UTF-8", f.WriteFile("a\xff", nil), fs.ErrInvalid},
		{"mkdir what is there", f.Mkdir("overlays"), fs.ErrExist},
		{"mkdir below nothing", f.Mkdir("a/b"), fs.ErrNotExist},
		{"mkdirall over a file", f.MkdirAll("config.txt"), bootpart.ErrNotDir},
		{"mkdirall with a bad name at the end", f.MkdirAll("new/newer/a?"), fs.ErrInvalid},
		{"mkdirall very deep", f.MkdirAll(strings.Repeat("d/", 70)), fs.ErrInvalid},
		{"remove nothing", f.Remove("nothing"), fs.ErrNotExist},
		{"remove the root", f.Remove("/"), fs.ErrInvalid},
		{"remove what is not empty", f.Remove("overlays"), bootpart.ErrNotEmpty},
	} {
		var path *fs.PathError
		if !errors.Is(tt.err, tt.want) || !errors.As(tt.err, &path) {
			t.Errorf("%s: error %v, want %v", tt.summary, tt.err, tt.want)
		}
	}
	if diff := cmp.Diff(before, tree(t, f)); diff != "" {
		t.Errorf("what failed changed something (-before +after):\n%s", diff)
	}
	if f.Usage().FreeClusters == 0 {
		t.Error("no cluster is free")
	}
	ro, err := bootpart.OpenReadOnly(bytes.NewReader(mustRead(t, mkfs(t, 1, smallest(1), raspios()))), 0, int64(smallest(1))*mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.WriteFile("x", nil); err != nil {
		t.Fatal(err)
	}
	if err := ro.Flush(); err == nil {
		t.Error("a read-only file system was flushed")
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenRefuses(t *testing.T) {
	good := mustRead(t, mkfs(t, 1, smallest(1), map[string]string{"CONFIG.TXT": strings.Repeat("x", 2000), "D/F": "y"}))
	le32 := binary.LittleEndian.PutUint32
	fatAt := int(binary.LittleEndian.Uint16(good[14:])) * 512
	perFAT := int(binary.LittleEndian.Uint32(good[36:])) * 512
	dataAt := fatAt + 2*perFAT
	// setFAT changes an entry in both copies.
	setFAT := func(b []byte, cluster int, value uint32) {
		le32(b[fatAt+4*cluster:], value)
		le32(b[fatAt+perFAT+4*cluster:], value)
	}
	// slot finds a short name in the whole data area.
	slot := func(b []byte, name string) []byte {
		return b[dataAt+bytes.Index(b[dataAt:], []byte(name)):]
	}
	start := func(b []byte, name string) int { return int(binary.LittleEndian.Uint16(slot(b, name)[26:])) }
	const file, dir = "CONFIG  TXT", "D          "

	var notFAT *bootpart.NotFAT32Error
	var bad *bootpart.CorruptError
	var unsupported *bootpart.UnsupportedError
	for _, tt := range []struct {
		summary string
		damage  func(b []byte)
		as      any
		says    string
	}{
		{"zeros", func(b []byte) { clear(b) }, &notFAT, "zeros"},
		{"no boot signature", func(b []byte) { b[510] = 0 }, &notFAT, "no boot signature"},
		{"exFAT", func(b []byte) { copy(b[3:], "EXFAT   ") }, &notFAT, "exFAT"},
		{"NTFS", func(b []byte) { copy(b[3:], "NTFS    ") }, &notFAT, "NTFS"},
		{"ext4", func(b []byte) { clear(b[:1024]); b[1080], b[1081] = 0x53, 0xef }, &notFAT, "ext4"},
		{"FAT16", func(b []byte) { b[22], b[23], b[17] = 0, 1, 0x10; b[13] = 4 }, &notFAT, "FAT16"},
		{"FAT12", func(b []byte) { b[22], b[23], b[17] = 0, 1, 0x10; b[13] = 64 }, &notFAT, "FAT12"},
		{"1000 bytes a sector", func(b []byte) { b[11], b[12] = 0xe8, 3 }, &bad, "1000 bytes a sector"},
		{"no sectors a cluster", func(b []byte) { b[13] = 0 }, &bad, "0 sectors a cluster"},
		{"no reserved sectors", func(b []byte) { b[14], b[15] = 0, 0 }, &bad, "reserved"},
		{"three FATs", func(b []byte) { b[16] = 3 }, &bad, "3 copies"},
		{"larger than its partition", func(b []byte) { le32(b[32:], 1<<31) }, &bad, "claims"},
		{"no room for data", func(b []byte) { le32(b[36:], 1<<30) }, &bad, "no room"},
		{"a small FAT", func(b []byte) { le32(b[36:], 3) }, &bad, "too small"},
		{"a root beyond the end", func(b []byte) { le32(b[44:], 1<<27) }, &bad, "root directory"},
		{"version", func(b []byte) { b[42] = 1 }, &unsupported, "version"},
		{"not mirrored", func(b []byte) { b[40] = 0x80 }, &unsupported, "mirrored"},
		{"FSInfo", func(b []byte) { b[512] = 0 }, &bad, "FSInfo"},
		{"dirty in the boot sector", func(b []byte) { b[65] = 1 }, nil, "fsck.vfat"},
		{"dirty in the FAT", func(b []byte) { setFAT(b, 1, 0x07ffffff) }, nil, "fsck.vfat"},
		{"FATs differ", func(b []byte) { b[fatAt+perFAT+4000] = 1 }, &bad, "copies differ"},
		{"a loop", func(b []byte) { setFAT(b, start(b, file)+1, uint32(start(b, file))) }, &bad, "in use twice"},
		{"a loop of one", func(b []byte) { setFAT(b, start(b, file), uint32(start(b, file))) }, &bad, "in use twice"},
		{"a root that loops", func(b []byte) { setFAT(b, 2, 2) }, &bad, "in use twice"},
		{"into another file", func(b []byte) { setFAT(b, start(b, file)+3, uint32(start(b, dir))) }, &bad, "in use twice"},
		{"into a free cluster", func(b []byte) { setFAT(b, start(b, file)+3, 60000) }, &bad, "leads to cluster 0x0"},
		{"to a bad cluster", func(b []byte) { setFAT(b, start(b, file), 0x0ffffff7) }, &bad, "leads to cluster"},
		{"past the end", func(b []byte) { setFAT(b, start(b, file), 0x00fffff0) }, &bad, "leads to cluster"},
		{"too short a chain", func(b []byte) { setFAT(b, start(b, file)+1, 0x0fffffff) }, &bad, "2000 bytes in 2 clusters"},
		{"a file at cluster 1", func(b []byte) { slot(b, file)[26] = 1; slot(b, file)[27] = 0 }, &bad, "leads to cluster 0x1"},
		{"a size without clusters", func(b []byte) { slot(b, file)[26] = 0; slot(b, file)[27] = 0 }, &bad, "in 0 clusters"},
		{"a directory without clusters", func(b []byte) { slot(b, dir)[26] = 0; slot(b, dir)[27] = 0 }, &bad, "leads to cluster 0x0"},
		{"a directory that is the root", func(b []byte) { slot(b, dir)[26] = 2; slot(b, dir)[27] = 0 }, &bad, "in use twice"},
		{"a name with a slash", func(b []byte) { slot(b, file)[3] = '/' }, &bad, `named "CON/IG.TXT"`},
		{"a name that begins with a space", func(b []byte) { slot(b, file)[0] = ' ' }, &bad, "named"},
		{"two of one name", func(b []byte) { copy(slot(b, dir), file) }, &bad, "two entries"},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			image := bytes.Clone(good)
			tt.damage(image)
			dev := over(bytes.NewReader(image))
			_, err := bootpart.Open(dev, 0, int64(len(image)))
			if err == nil {
				t.Fatal("it was opened")
			}
			if tt.as == nil && !errors.Is(err, bootpart.ErrNotClean) || tt.as != nil && !errors.As(err, tt.as) {
				t.Errorf("error %T: %v", err, err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error does not say %q: %v", tt.says, err)
			}
		})
	}
	if _, err := bootpart.Open(over(bytes.NewReader(good)), 0, int64(len(good))); err != nil {
		t.Errorf("the undamaged one: %v", err)
	}
	if _, err := bootpart.Open(over(bytes.NewReader(good[:mib/4])), 0, int64(len(good))); err == nil {
		t.Error("one that is cut short was opened")
	}
}

// TestOtherFATs lets mkfs make what must be refused by name.
func TestOtherFATs(t *testing.T) {
	for _, kind := range []string{"12", "16"} {
		path := filepath.Join(t.TempDir(), "fat.img")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 16*mib); err != nil {
			t.Fatal(err)
		}
		testtool.Run(t, "mkfs.fat", "-F", kind, path)
		_, err := bootpart.Open(over(bytes.NewReader(mustRead(t, path))), 0, 16*mib)
		var not *bootpart.NotFAT32Error
		if !errors.As(err, &not) || not.Found != "FAT"+kind {
			t.Errorf("FAT%s: error %v", kind, err)
		}
	}
}

// TestLargeSectors has 4096 bytes a sector and one FAT.
func TestLargeSectors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fat.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 300*mib); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mkfs.fat", "-F", "32", "-S", "4096", "-s", "1", "-f", "1", path)
	f, _ := open(t, path)
	if err := errors.Join(f.MkdirAll("a/b"), f.WriteFile("a/b/c", make([]byte, 10000)), f.Flush()); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	if got := mtype(t, path, "a/b/c"); len(got) != 10000 {
		t.Errorf("mtools reads %d bytes", len(got))
	}
}

// TestWrongFreeCountIsMended starts from an FSInfo that says nonsense.
func TestWrongFreeCountIsMended(t *testing.T) {
	image := mkfs(t, 1, smallest(1), raspios())
	b := mustRead(t, image)
	binary.LittleEndian.PutUint32(b[512+488:], 0xffffffff)
	binary.LittleEndian.PutUint32(b[7*512+488:], 12345)
	if err := os.WriteFile(image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, _ := open(t, image)
	if err := errors.Join(f.WriteFile("x", []byte("y")), f.Flush()); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	b = mustRead(t, image)
	main, backup := b[512:1024], b[7*512:8*512]
	if !bytes.Equal(main, backup) {
		t.Error("FSInfo and its backup differ")
	}
	if got := binary.LittleEndian.Uint32(main[488:]); int(got) != f.Usage().FreeClusters {
		t.Errorf("FSInfo says %d clusters are free, %d are", got, f.Usage().FreeClusters)
	}
	hint := int(binary.LittleEndian.Uint32(main[492:]))
	fat := int(binary.LittleEndian.Uint16(b[14:])) * 512
	if hint < 2 || hint >= f.Usage().Clusters+2 || binary.LittleEndian.Uint32(b[fat+4*hint:]) != 0 {
		t.Errorf("FSInfo hints at cluster %d, which is not free", hint)
	}
}

func BenchmarkTenFiles(b *testing.B) {
	image := mkfs(b, 1, 512, raspios())
	r, err := os.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	b.ReportAllocs()
	for b.Loop() {
		dev := over(r)
		f, err := bootpart.Open(dev, 0, 512*mib)
		if err != nil {
			b.Fatal(err)
		}
		f.SetTime(epoch)
		build(b, f)
		b.ReportMetric(float64(len(dev.sectors)), "sectors")
	}
}

func BenchmarkLargeFile(b *testing.B) {
	image := mkfs(b, 1, 512, nil)
	r, err := os.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	content := bytes.Repeat([]byte("40 MiB. "), 5*mib)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		f, err := bootpart.Open(over(r), 0, 512*mib)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(f.WriteFile("initramfs", content), f.Flush()); err != nil {
			b.Fatal(err)
		}
	}
}
