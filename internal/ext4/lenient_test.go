package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

// What was left in disorder is read as it stands, and said; what cannot be
// read is refused as ever.
func TestOpenLenient(t *testing.T) {
	le := binary.LittleEndian
	or := func(off int, bits uint32) func([]byte) {
		return func(d []byte) { le.PutUint32(d[1024+off:], le.Uint32(d[1024+off:])|bits) }
	}
	for _, test := range []struct {
		summary string
		mutate  func(data []byte)
		fault   error  // one fault, of this kind
		refused string // what the refusal says
	}{
		{"untouched", func([]byte) {}, nil, ""},
		{"dirty journal", or(0x60, 0x4), ext4.ErrDirtyJournal, ""},
		{"not unmounted", func(d []byte) { d[1024+0x3a] = 0 }, ext4.ErrNotClean, ""},
		{"errors", func(d []byte) { d[1024+0x3a] = 3 }, ext4.ErrNotClean, ""},
		{"orphan", func(d []byte) { le.PutUint32(d[1024+0xe8:], 12) }, ext4.ErrNotClean, ""},
		{"orphan file in use", or(0x64, 0x10000), ext4.ErrNotClean, ""},
		{"quota, project, verity", or(0x64, 0x100|0x2000|0x8000), nil, ""},
		{"a compatible feature of the future", or(0x5c, 1<<30), nil, ""},
		{"inline data, casefold, encryption", or(0x60, 0x8000|0x10000|0x20000), nil, ""},
		{"bigalloc", or(0x64, 0x200), nil, "bigalloc"},
		{"an incompatible feature of the future", or(0x60, 1<<30), nil, "FEATURE_I30"},
		{"no superblock", func(d []byte) { clear(d[1024:2048]) }, nil, "not an ext4"},
		{"descriptor", func(d []byte) { d[4096+12]++ }, nil, "group descriptor 0"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dev := loaded(t, ext4test.Named(t, "bookworm-4k"), 16<<20)
			test.mutate(dev.data)
			if test.refused == "" || strings.HasPrefix(test.refused, "F") || test.refused == "bigalloc" {
				sealSuper(dev.data)
			}
			fs, err := ext4.OpenLenient(bytes.NewReader(dev.data), int64(len(dev.data)))
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Fatalf("got %v, want a refusal that says %q", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			switch faults := fs.Faults(); {
			case test.fault == nil && len(faults) != 0:
				t.Errorf("faults %v", faults)
			case test.fault != nil && (len(faults) != 1 || !errors.Is(faults[0], test.fault)):
				t.Errorf("faults %v, want %v", faults, test.fault)
			}
			if list, err := fs.ReadDir("/"); err != nil || len(list) == 0 {
				t.Errorf("the root has %d entries, %v", len(list), err)
			}
			if err := fs.Mkdir("/new", attr(0o755)); !errors.Is(err, ext4.ErrReadOnly) {
				t.Errorf("changing it gives %v", err)
			}
		})
	}
}
