package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crcRaw is CRC-32C without the inversions, as ext4 has it.
func crcRaw(seed uint32, data []byte) uint32 { return ^crc32.Update(^seed, castagnoli, data) }

// hostileSeed gives a small file system with everything in it.
func hostileSeed(t testing.TB, v ext4test.Variant) []byte {
	t.Helper()
	v.Options = append(v.Options, "-N", "64")
	v.Features = strings.TrimPrefix(strings.ReplaceAll(v.Features, ",orphan_file", "")+",^has_journal", ",")
	v.Features += ",^resize_inode"
	dev := loaded(t, v, 512<<10)
	fs := dev.open(t)
	succeed(t, fs.MkdirAll("d/e", attr(0o755)))
	for i := range 30 {
		succeed(t, fs.Create("d/"+strings.Repeat("n", 40)+string(rune('a'+i)), strings.NewReader(""), attr(0o644)))
	}
	fragment(t, fs, "frag", 12)
	succeed(t, fs.Symlink("d/e", "fast", attr(0)))
	succeed(t, fs.Symlink(strings.Repeat("./", 60)+"d/e", "slow", attr(0)))
	succeed(t, fs.Link("frag", "linked"))
	succeed(t, fs.Mknod("null", attr(0o666|iofs.ModeDevice|iofs.ModeCharDevice), 1, 3))
	succeed(t, fs.Flush())
	dev.judge(t)
	return dev.data
}

// reseal gives a mutated image right checksums, so that the checks behind them
// are reached too: superblock, descriptors, bitmaps, inodes.
func reseal(data []byte) {
	le := binary.LittleEndian
	sb := data[1024:2048]
	sealSuper(data)
	seed := crcRaw(^uint32(0), sb[0x68:0x78])
	if le.Uint32(sb[0x60:])&0x2000 != 0 {
		seed = le.Uint32(sb[0x270:])
	}
	logSize := le.Uint32(sb[0x18:])
	if logSize > 2 {
		return
	}
	bs := 1024 << logSize
	gdAt := bs
	if bs == 1024 {
		gdAt = 2048
	}
	descSize := 32
	if le.Uint32(sb[0x60:])&0x80 != 0 {
		descSize = 64
	}
	if gdAt+descSize > len(data) {
		return
	}
	gd := data[gdAt : gdAt+descSize]
	slice := func(block uint32, n int) []byte {
		at := int(block) * bs
		if n < 0 || n > len(data) || at < 0 || at > len(data)-n {
			return nil
		}
		return data[at : at+n]
	}
	perGroup, inodes, size := int(le.Uint32(sb[0x20:]))/8, int(le.Uint32(sb[0x28:])), int(le.Uint16(sb[0x58:]))
	for _, bm := range []struct{ at, lo, hi, n int }{{0, 0x18, 0x38, perGroup}, {4, 0x1A, 0x3A, inodes / 8}} {
		if p := slice(le.Uint32(gd[bm.at:]), bm.n); p != nil {
			sum := crcRaw(seed, p)
			le.PutUint16(gd[bm.lo:], uint16(sum))
			if descSize == 64 {
				le.PutUint16(gd[bm.hi:], uint16(sum>>16))
			}
		}
	}
	var number [4]byte
	sum := crcRaw(seed, number[:])
	sum = crcRaw(sum, gd[:0x1E])
	sum = crcRaw(sum, []byte{0, 0})
	le.PutUint16(gd[0x1E:], uint16(crcRaw(sum, gd[0x20:])))
	if size != 256 {
		return
	}
	for i := range min(inodes, 256) {
		p := slice(le.Uint32(gd[8:]), (i+1)*size)
		if p == nil {
			return
		}
		raw := p[i*size:]
		if bytes.Count(raw, []byte{0}) == size || le.Uint16(raw[0x80:]) < 4 {
			continue
		}
		le.PutUint16(raw[0x7C:], 0)
		le.PutUint16(raw[0x82:], 0)
		le.PutUint32(number[:], uint32(i+1))
		sum := crcRaw(crcRaw(crcRaw(seed, number[:]), raw[0x64:0x68]), raw)
		le.PutUint16(raw[0x7C:], uint16(sum))
		le.PutUint16(raw[0x82:], uint16(sum>>16))
	}
}

// abuse opens an image and does to it whatever there is to do. Any error is
// right; panics, hangs and hunger are not.
func abuse(t testing.TB, data []byte, edit bool) {
	dev := &memory{data: data}
	fs, err := ext4.Open(dev, int64(len(data)))
	if err != nil {
		var corrupt *ext4.CorruptError
		var unsupported *ext4.UnsupportedFeatureError
		if !errors.As(err, &corrupt) && !errors.As(err, &unsupported) && !errors.Is(err, ext4.ErrNotExt4) &&
			!errors.Is(err, ext4.ErrDirtyJournal) && !errors.Is(err, ext4.ErrNotClean) && !errors.Is(err, io.EOF) {
			t.Errorf("refused with an untyped error: %v", err)
		}
		return
	}
	var paths []string
	seen := 0
	_ = fs.Walk("/", func(path string, i ext4.Info) error {
		if seen++; seen > 2000 {
			return iofs.SkipAll
		}
		paths = append(paths, path)
		_, _ = fs.Readlink(path)
		_, _ = fs.Stat(path)
		f, err := fs.OpenFile(path)
		if err != nil {
			return nil
		}
		p := make([]byte, 64<<10)
		for off := int64(0); off < f.Size() && off < 4<<20; off += int64(len(p)) {
			if _, err := f.ReadAt(p, off); err != nil {
				break
			}
		}
		return nil
	})
	_ = fs.Features()
	_ = fs.UUID() + fs.Label()
	if !edit {
		return
	}
	for i, path := range paths[:min(len(paths), 60)] {
		_ = fs.Append(path, strings.NewReader("more"))
		_ = fs.Truncate(path, 700)
		_ = fs.Chmod(path, 0o700)
		_ = fs.Create(path+"/new", strings.NewReader("new"), attr(0o644))
		_ = fs.Create(path, bytes.NewReader(make([]byte, 3000)), attr(0o644))
		_ = fs.Rename(path, "/renamed")
		if i%3 == 0 {
			_ = fs.RemoveAll(path)
		}
		_ = fs.Link(path, "/linked2")
	}
	_ = fs.RemoveAll("/d")
	_ = fs.MkdirAll("/x/y/z", attr(0o755))
	_ = fs.Flush()
}

var hostileVariants = []string{"bookworm-1k", "buster-1k", "buster-4k", "trixie-2k", "deb-default-4k"}

// TestMutatedImages is FuzzOpen with a seed of its own, so that each plain run
// of the tests sees some hundreds of them.
func TestMutatedImages(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 50
	}
	for k, name := range hostileVariants {
		t.Run(name, func(t *testing.T) {
			seed := hostileSeed(t, ext4test.Named(t, name))
			random := rand.New(rand.NewPCG(1, uint64(k)))
			interesting := interestingBlocks(seed)
			opened := 0
			for round := range rounds {
				data := bytes.Clone(seed)
				for range 1 + random.IntN(4) {
					block := interesting[random.IntN(len(interesting))]
					at := block + random.IntN(1024)
					if random.IntN(2) == 0 {
						at = block + random.IntN(48)
					}
					switch random.IntN(4) {
					case 0:
						data[at] ^= 1 << random.IntN(8)
					case 1:
						data[at] = byte(random.IntN(256))
					case 2:
						at &^= 3
						binary.LittleEndian.PutUint32(data[at:], []uint32{0, 1, 2, 11, 255, 1 << 15, 1<<16 - 1, 1 << 31, 1<<32 - 1, uint32(len(data) / 1024)}[random.IntN(10)])
					case 3:
						copy(data[at:min(at+64, len(data))], data[interesting[random.IntN(len(interesting))]:])
					}
				}
				if round%2 == 0 {
					reseal(data)
				}
				if _, err := ext4.OpenReadOnly(bytes.NewReader(data), int64(len(data))); err == nil {
					opened++
				}
				abuse(t, data, true)
			}
			if opened < rounds/20 {
				t.Errorf("only %d of %d mutated images opened: the rest was not tried", opened, rounds)
			}
		})
	}
}

// interestingBlocks gives the offsets of the kilobytes that hold something.
func interestingBlocks(data []byte) []int {
	var list []int
	for at := 1024; at+2048 < len(data); at += 1024 {
		if !allZeros(data[at : at+1024]) {
			list = append(list, at)
		}
	}
	return list
}

func FuzzOpen(f *testing.F) {
	var images [][]byte
	for _, name := range hostileVariants {
		images = append(images, hostileSeed(f, ext4test.Named(f, name)))
	}
	// The input is a list of changes: image, then (offset, value) pairs. Whole
	// images would be too large to mutate well.
	f.Add([]byte{0})
	f.Add([]byte{1, 0, 4, 0x20, 0, 0xFF})
	f.Add([]byte{2, 0, 16, 9, 0x80, 0x41, 1, 0, 4, 0x3A, 3})
	f.Add([]byte{3, 1, 0, 0, 8, 0xFF, 0, 0x20, 0, 0xFF, 0x7F})
	f.Fuzz(func(t *testing.T, changes []byte) {
		if len(changes) == 0 {
			return
		}
		data := bytes.Clone(images[int(changes[0]&0x7F)%len(images)])
		for c := changes[1:]; len(c) >= 5; c = c[5:] {
			at := int(binary.LittleEndian.Uint32(c)) % len(data)
			data[at] ^= c[4]
		}
		if changes[0]&0x80 == 0 {
			reseal(data)
		}
		abuse(t, data, true)
	})
}
