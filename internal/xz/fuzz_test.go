package xz_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	ulikunitz "github.com/ulikunitz/xz"

	"hatchery/internal/xz"
)

// seeds are small files of all sorts; testdata/*.xz, made with the xz tool,
// so that no tool is needed here.
func seeds(f *testing.F) {
	names, err := filepath.Glob("testdata/*.xz")
	if err != nil || len(names) == 0 {
		f.Fatal("no seeds in testdata", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
		f.Add(append(bytes.Clone(data), data...))
	}
}

// bounded refuses to hold more than a hostile file should need.
type bounded struct {
	memory
	most int
}

var errEnough = errors.New("enough")

func (b *bounded) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(b.most) {
		return 0, errEnough
	}
	return b.memory.WriteAt(p, off)
}

// FuzzDecode: all ways to decode say the same of any bytes, and nothing that
// is accepted here is something else to ulikunitz/xz.
func FuzzDecode(f *testing.F) {
	seeds(f)
	const most = 1 << 20
	f.Fuzz(func(t *testing.T, data []byte) {
		data = repaired(data)
		var streamed []byte
		r, err := xz.NewReader(bytes.NewReader(data))
		if err == nil {
			streamed, err = io.ReadAll(io.LimitReader(r, most))
			if len(streamed) == most {
				return
			}
		}
		opts := xz.Options{Workers: 2, MemoryLimit: 16 << 20}
		dst := &bounded{most: most}
		n, perr := xz.Decode(context.Background(), bytes.NewReader(data), int64(len(data)), dst, opts)
		if errors.Is(perr, errEnough) || errors.Is(perr, xz.ErrMemory) {
			return
		}
		if (err == nil) != (perr == nil) {
			t.Fatalf("streamed: %v; by blocks: %v", err, perr)
		}
		if err != nil {
			var e *xz.Error
			if !errors.As(err, &e) || !errors.As(perr, &e) {
				t.Fatalf("errors of no known kind: %v; %v", err, perr)
			}
			return
		}
		if n != int64(len(streamed)) || !bytes.Equal(dst.data, streamed) {
			t.Fatalf("streamed %d bytes, by blocks %d, and they differ", len(streamed), n)
		}
		if second, err := ulikunitz.NewReader(bytes.NewReader(data)); err == nil {
			if theirs, err := io.ReadAll(second); err == nil && !bytes.Equal(theirs, streamed) {
				t.Fatalf("ulikunitz/xz reads %x, this %x", theirs, streamed)
			}
		}
	})
}

// repaired puts right the checksums of the headers and footers at their
// usual places, so that the fuzzer comes past them.
func repaired(data []byte) []byte {
	data = bytes.Clone(data)
	put := func(at, from, to int) {
		if from >= 0 && to <= len(data) && at >= 0 && at+4 <= len(data) && from <= to {
			binary.LittleEndian.PutUint32(data[at:], crc32.ChecksumIEEE(data[from:to]))
		}
	}
	if len(data) < 36 {
		return data
	}
	put(8, 6, 8)
	put(12+int(data[12])*4, 12, 12+int(data[12])*4)
	put(len(data)-12, len(data)-8, len(data)-2)
	index := len(data) - 12 - (int(binary.LittleEndian.Uint16(data[len(data)-8:]))+1)*4
	put(len(data)-16, index, len(data)-16)
	return data
}

// FuzzIndex: an index may claim whatever it likes; it is believed only as far
// as the file is long.
func FuzzIndex(f *testing.F) {
	for _, index := range []string{"0000", "000120b860", "00ffffffffffffffff7f", "00022010180a", "0001ffffffffffffffff7fffffffffffffffff7f", "00021001ffffffffffffffff7f"} {
		b, err := hex.DecodeString(index)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(64), []byte(nil))
		f.Add(b, uint16(0), b)
	}
	f.Fuzz(func(t *testing.T, index []byte, blocks uint16, tail []byte) {
		file := bytes.Clone([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 1, 0x69, 0x22, 0xde, 0x36})
		file = append(file, make([]byte, int(blocks)&^3)...)
		index = append(index[:len(index):len(index)], make([]byte, -len(index)&3)...)
		file = append(file, index...)
		file = binary.LittleEndian.AppendUint32(file, crc32.ChecksumIEEE(index))
		footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4))
		footer = append(footer, 0, 1)
		file = binary.LittleEndian.AppendUint32(file, crc32.ChecksumIEEE(footer))
		file = append(append(append(file, footer...), 'Y', 'Z'), tail...)
		size, err := xz.UncompressedSize(bytes.NewReader(file), int64(len(file)))
		if size < 0 {
			t.Fatalf("size %d", size)
		}
		var e *xz.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		xz.Decode(t.Context(), bytes.NewReader(file), int64(len(file)), &bounded{most: 1 << 20}, xz.Options{MemoryLimit: 8 << 20})
	})
}

// TestSeeds wants the seeds to be what the xz tool says they are.
func TestSeeds(t *testing.T) {
	names, _ := filepath.Glob("testdata/*.xz")
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeAll(t, data)
		if err != nil {
			t.Fatal(name, err)
		}
		cmd := exec.Command("xz", "-dc", name)
		if want, err := cmd.Output(); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes, xz gives %d", name, len(got), len(want))
		}
	}
	if len(names) < 5 {
		t.Fatalf("only %d seeds", len(names))
	}
}
