package ext4_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

// crowdedImage is a file system without checksums, so that whatever is done to
// it is read, with indexed directories of one level and of two, attributes in
// inodes and in a shared block; and the places worth changing.
func crowdedImage(t testing.TB) (data []byte, places []int) {
	t.Helper()
	v := ext4test.Named(t, "buster-1k")
	v.Features += ",^has_journal"
	path := ext4test.Make(t, v, 2<<20)
	fs := openEdited(t, path)
	fs.create("/f", "x")
	for dir, names := range map[string]int{"/small": 60, "/large": 1000} {
		succeed(t, fs.Mkdir(dir, attr(0o755)))
		for i := range names {
			succeed(t, fs.Link("/f", fmt.Sprintf("%s/%d%s", dir, i, strings.Repeat("n", 200))))
		}
	}
	for _, name := range []string{"/x", "/y"} {
		fs.create(name, "x")
		succeed(t, fs.SetXattr(name, "user.small", []byte("in the inode")))
		succeed(t, fs.SetXattr(name, "security.capability", pingCapability))
		succeed(t, fs.SetXattr(name, "user.big", noise(1, 600)))
	}
	succeed(t, fs.SetXattr("/x", "system.posix_acl_access", someACL))
	fs.flush()
	if isIndexed(t, path, "/small") != true || indexLevels(t, path, "/large") != 1 {
		t.Fatal("the directories are not what they should be")
	}

	block := func(n int) int { return n * 1024 }
	numbers := func(request string) []int {
		var all []int
		for _, s := range regexp.MustCompile(`\d+`).FindAllString(ext4test.Debugfs(t, path, false, request), -1) {
			n, err := strconv.Atoi(s)
			succeed(t, err)
			all = append(all, block(n))
		}
		return all
	}
	small, large := numbers("blocks /small"), numbers("blocks /large")
	data, err := os.ReadFile(path)
	succeed(t, err)
	// Roots and nodes, and as many leaves.
	places = append(places, small[0], small[0], large[0], large[0], small[1], large[1])
	for _, at := range large[1:] {
		if binary.LittleEndian.Uint32(data[at:]) == 0 && binary.LittleEndian.Uint16(data[at+4:]) == 1024 {
			places = append(places, at, at)
		}
	}
	places = append(places, numbers("blocks <7>")[0])
	for _, name := range []string{"/x", "/y"} {
		acl := regexp.MustCompile(`File ACL: (\d+)`).FindStringSubmatch(ext4test.Debugfs(t, path, false, "stat "+name))
		n, err := strconv.Atoi(acl[1])
		succeed(t, err)
		at := regexp.MustCompile(`located at block (\d+), offset 0x([0-9a-f]+)`).FindStringSubmatch(ext4test.Debugfs(t, path, false, "imap "+name))
		table, err := strconv.Atoi(at[1])
		succeed(t, err)
		offset, err := strconv.ParseInt(at[2], 16, 32)
		succeed(t, err)
		places = append(places, block(n), block(n), block(table)+int(offset)&^0xff)
	}
	return data, places
}

// hostile applies changes to an image: five bytes say where and what.
func hostile(data []byte, places []int, changes []byte) []byte {
	data = bytes.Clone(data)
	for c := range slices.Chunk(changes, 5) {
		if len(c) < 5 || len(places) == 0 {
			break
		}
		at := places[int(c[0])%len(places)] + (int(c[1])|int(c[2])<<8)%1024
		switch c[3] % 4 {
		case 0:
			data[at] ^= 1 << (c[4] % 8)
		case 1:
			data[at] = c[4]
		case 2: // a small number where a block or a count may stand
			at &^= 3
			binary.LittleEndian.PutUint32(data[at:], uint32(c[4]))
		case 3: // the same from elsewhere: loops, and nodes where leaves should be
			from := places[int(c[4])%len(places)]
			to := places[int(c[0])%len(places)]
			copy(data[to:to+1024], data[from:from+1024])
		}
	}
	return data
}

// workOn uses directories and attributes whatever state they are in. It may
// fail, and must neither panic nor hang nor take much memory.
func workOn(t testing.TB, data []byte) {
	t.Helper()
	size := int64(len(data))
	dev := &memory{data: append(data, make([]byte, 20<<20)...)}
	done := make(chan any, 1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		defer func() { done <- recover() }()
		fs, err := ext4.Open(dev, size)
		if err != nil {
			return
		}
		for _, dir := range []string{"/small", "/large"} {
			entries, _ := fs.ReadDir(dir)
			for i := range 30 {
				_ = fs.Link("/f", fmt.Sprintf("%s/new%d%s", dir, i, strings.Repeat("m", 200)))
			}
			for _, e := range entries[:min(len(entries), 20)] {
				_ = fs.Remove(dir + "/" + e.Name)
			}
			_ = fs.Rename(dir, dir+"er")
		}
		for _, name := range []string{"/x", "/y", "/f", "/smaller"} {
			_, _ = fs.Xattrs(name)
			_ = fs.SetXattr(name, "user.new", noise(2, 100))
			_ = fs.SetXattr(name, "user.big", noise(3, 500))
			_ = fs.Chmod(name, 0o700)
			_ = fs.RemoveXattr(name, "user.small")
		}
		_ = fs.Walk("/", func(path string, _ ext4.Info) error {
			_, _ = fs.Xattrs(path)
			return nil
		})
		_ = fs.Remove("/x")
		_ = fs.Grow(size + 20<<20)
		_ = fs.Deindexed()
		_ = fs.RemoveAll("/larger")
		_ = fs.Flush()
	}()
	select {
	case r := <-done:
		if r != nil {
			t.Fatalf("panic: %v", r)
		}
	case <-time.After(time.Minute):
		t.Fatal("hangs")
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 512<<20 {
		t.Fatalf("%d MiB were allocated for an image of %d", took>>20, size>>20)
	}
}

func FuzzIndexesAndXattrs(f *testing.F) {
	data, places := crowdedImage(f)
	f.Add([]byte{})
	random := rand.New(rand.NewPCG(11, 12))
	for range 250 {
		changes := make([]byte, 5*(1+random.IntN(4)))
		for i := range changes {
			changes[i] = byte(random.Uint32())
		}
		// Mostly at the start of a block, where its structure is.
		for i := 0; i < len(changes) && random.IntN(3) > 0; i += 5 {
			changes[i+1], changes[i+2] = changes[i+1]%64, 0
		}
		f.Add(changes)
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		workOn(t, hostile(data, places, changes[:min(len(changes), 100)]))
	})
}

// TestUnknownHash adds to a directory whose names are hashed in a way that is
// not known: it becomes a linear one, and that is reported.
func TestUnknownHash(t *testing.T) {
	data, places := crowdedImage(t)
	for _, root := range []int{places[0], places[2]} {
		data[root+0x1c] = 9
	}
	path := t.TempDir() + "/image"
	succeed(t, os.WriteFile(path, data, 0o600))
	fs := openEdited(t, path)
	if entries, err := fs.ReadDir("/large"); err != nil || len(entries) != 1000 {
		t.Fatalf("%d names: %v", len(entries), err)
	}
	if got := fs.Deindexed(); len(got) != 0 {
		t.Errorf("reading alone has taken the index of %q", got)
	}
	if err := fs.Link("/f", "/large/"+strings.Repeat("n", 256)); err == nil {
		t.Error("a name of 256 bytes was taken")
	}
	if got := fs.Deindexed(); len(got) != 0 {
		t.Errorf("what was refused has taken the index of %q", got)
	}
	succeed(t, fs.Link("/f", "/large/new"))
	succeed(t, fs.Link("/f", "/small/new"))
	succeed(t, fs.Rename("/small", "/little"))
	if got := fmt.Sprint(fs.Deindexed()); got != "[/large /little]" {
		t.Errorf("lost their index: %s", got)
	}
	fs.flush()
	for _, dir := range []string{"/large", "/little"} {
		if isIndexed(t, path, dir) {
			t.Errorf("%s is indexed", dir)
		}
		if info, err := fs.reopened().Stat(dir + "/new"); err != nil || info.Mode != iofs.FileMode(0o644) {
			t.Errorf("%s/new: %v, %v", dir, info.Mode, err)
		}
	}
	succeed(t, fs.RemoveAll("/large"))
	if got := fmt.Sprint(fs.Deindexed()); got != "[/little]" {
		t.Errorf("without /large: %s", got)
	}
	fs.flush()
}

// TestFullIndex fills both levels of an index, the most there can be without
// large_dir.
func TestFullIndex(t *testing.T) {
	for _, name := range []string{"bookworm-1k", "buster-1k"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := memoryDir(t) + "/image"
			ext4test.MakeAt(t, path, ext4test.Named(t, name), 96<<20)
			fs := openEdited(t, path)
			fs.create("/f", "x")
			succeed(t, fs.Mkdir("/d", attr(0o755)))
			count := 0
			tail := strings.Repeat("n", 245)
			for ; len(fs.Deindexed()) == 0; count++ {
				if count == 64_000 {
					t.Fatal("64,000 names do not fill the index")
				}
				succeed(t, fs.Link("/f", fmt.Sprintf("/d/%06d%s", count, tail)))
			}
			if count < 20_000 {
				t.Errorf("full with %d names", count)
			}
			for i := range 500 {
				succeed(t, fs.Link("/f", fmt.Sprintf("/d/after%d", i)))
			}
			fs.flush()
			if entries, err := fs.reopened().ReadDir("/d"); err != nil || len(entries) != count+500 {
				t.Errorf("%d names, want %d: %v", len(entries), count+500, err)
			}
		})
	}
}
