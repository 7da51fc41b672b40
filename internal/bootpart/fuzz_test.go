package bootpart_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/bootpart"
	"hatchery/internal/testtool"
)

// tiny makes a FAT32 of 64 KiB without the help of any tool: small enough
// that a fuzzer gets around in it. The layout is 4 reserved sectors (boot,
// FSInfo, their backups), two FATs of one sector, 122 clusters of one sector.
func tiny() []byte {
	b := make([]byte, 64<<10)
	le16, le32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	copy(b, "\xeb\x58\x90hatchery")
	le16(b[11:], 512)
	b[13] = 1       // sectors a cluster
	le16(b[14:], 4) // reserved
	b[16] = 2       // FATs
	b[21] = 0xf8
	le16(b[24:], 32)
	le16(b[26:], 8)
	le32(b[32:], 128) // sectors
	le32(b[36:], 1)   // sectors a FAT
	le32(b[44:], 2)   // root directory
	le16(b[48:], 1)   // FSInfo
	le16(b[50:], 2)   // backup
	b[64], b[66] = 0x80, 0x29
	le32(b[67:], 0x12345678)
	copy(b[71:], "NO NAME    FAT32   ")
	le16(b[510:], 0xaa55)
	le32(b[512:], 0x41615252)
	le32(b[512+484:], 0x61417272)
	le32(b[512+488:], 0xffffffff)
	le32(b[512+492:], 0xffffffff)
	le32(b[512+508:], 0xaa550000)
	copy(b[1024:], b[:1024])
	for _, fat := range []int{2048, 2560} {
		le32(b[fat:], 0x0ffffff8)
		le32(b[fat+4:], 0x0fffffff)
		le32(b[fat+8:], 0x0fffffff)
	}
	return b
}

// memory is a device that is a slice.
type memory []byte

func (m memory) ReadAt(b []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(b, off) }

func (m memory) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > int64(len(m)) {
		return 0, errors.New("a write outside the partition")
	}
	return copy(m[off:], b), nil
}

// filled is a tiny file system with something in it.
func filled(t testing.TB) memory {
	t.Helper()
	m := memory(tiny())
	f, err := bootpart.Open(m, 0, int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		f.WriteFile("config.txt", []byte(bookwormConfig)),
		f.WriteFile("cmdline.txt", []byte(bookwormCmdline)),
		f.MkdirAll("overlays/with a long name"),
		f.WriteFile("overlays/README", bytes.Repeat([]byte("read me\n"), 200)),
		f.WriteFile("overlays/with a long name/empty", nil),
		f.Remove("cmdline.txt"),
		f.Flush(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTinyIsClean(t *testing.T) {
	for name, image := range map[string][]byte{"empty": tiny(), "filled": filled(t)} {
		if name == "empty" {
			// Unknown counts are allowed, but fsck mentions them.
			binary.LittleEndian.PutUint32(image[512+488:], 121)
		}
		path := filepath.Join(t.TempDir(), "tiny.img")
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		// It warns of so few clusters, but must not fail.
		testtool.Run(t, "fsck.vfat", "-n", path)
	}
}

// probe does what it can to a file system that may have been tampered with.
// None of it may panic or hang; what Open accepted, it must accept again
// after every change, with the contents that were written.
func probe(t *testing.T, m memory) {
	f, err := bootpart.Open(m, 0, int64(len(m)))
	if err != nil {
		return
	}
	f.SetTime(epoch)
	before := tree(t, f)
	for _, path := range []string{"config.txt", "overlays", "overlays/readme", "overlays/with a long name/empty", "CONFIG~1.TXT"} {
		f.Stat(path)
		f.ReadFile(path)
		f.ReadDir(path)
	}
	// Each of these may fail: for want of space, or because a name is taken.
	f.WriteFile("config.txt", []byte(strings.Repeat("new\n", 700)))
	f.WriteFile("a new one with a name that takes several slots of the directory.txt", []byte("x"))
	f.MkdirAll("new/newer/newest")
	f.WriteFile("new/newer/newest/file", bytes.Repeat([]byte("y"), 1234))
	f.Remove("overlays/readme")
	f.Remove("overlays/with a long name/empty")
	f.WriteFile("too large", make([]byte, len(m)))
	for name, content := range before {
		if content != dirMark {
			f.WriteFile(name, append([]byte(content), "and more"...))
		}
	}
	want := tree(t, f)
	if err := f.Flush(); err != nil {
		t.Fatalf("flush: %v", err)
	}
	again, err := bootpart.Open(m, 0, int64(len(m)))
	if err != nil {
		t.Fatalf("what was flushed cannot be opened: %v", err)
	}
	if diff := cmp.Diff(want, tree(t, again)); diff != "" {
		t.Fatalf("(-flushed +read back):\n%s", diff)
	}
}

// FuzzFAT changes bytes of a sound file system: each three bytes of the input
// are an offset and a value.
func FuzzFAT(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x0d, 0x00, 0x02}) // two sectors a cluster
	f.Add([]byte{0x0c, 0x08, 0x03, 0x0c, 0x0a, 0x03})
	f.Add([]byte{0x00, 0x0c, 0xe5, 0x20, 0x0c, 0x00})
	f.Fuzz(func(t *testing.T, patches []byte) {
		m := filled(t)
		for ; len(patches) >= 3; patches = patches[3:] {
			m[binary.LittleEndian.Uint16(patches)] = patches[2]
		}
		probe(t, m)
	})
}

// TestMutations is FuzzFAT with chance for a guide, so that plain tests meet
// a few thousand damaged file systems: most changes hit the FAT and the
// directories, which the checks of Open are for.
func TestMutations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	sound := filled(t)
	for range 5000 {
		m := bytes.Clone(sound)
		for range 1 + rnd.IntN(3) {
			value := byte(rnd.IntN(256))
			if rnd.IntN(2) == 0 {
				value = byte(rnd.IntN(16)) // numbers of clusters in use
			}
			switch rnd.IntN(4) {
			case 0:
				m[rnd.IntN(512)] = value
			case 1, 2: // in both FATs
				at := rnd.IntN(256)
				m[2048+at], m[2560+at] = value, value
			default:
				m[3072+rnd.IntN(16*512)] = value
			}
		}
		probe(t, m)
	}
}
