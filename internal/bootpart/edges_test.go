package bootpart_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"hatchery/internal/bootpart"
)

// TestWritesOnlyWhatDiffers compares every written sector with the one before.
func TestWritesOnlyWhatDiffers(t *testing.T) {
	base := filled(t)
	dev := over(base)
	f, err := bootpart.Open(dev, 0, int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := f.ReadFile("overlays/README")
	if err != nil {
		t.Fatal(err)
	}
	content[1500] ^= 1 // in the third of its four sectors
	if err := errors.Join(f.WriteFile("overlays/README", content), f.Flush()); err != nil {
		t.Fatal(err)
	}
	if len(dev.sectors) == 0 {
		t.Error("nothing was written")
	}
	for off, sector := range dev.sectors {
		if bytes.Equal(sector, base[off:off+512]) {
			t.Errorf("the sector at %d was written as it is", off)
		}
	}
}

// TestNoRoomToGrow leaves space for a file's content, but not for the cluster
// that its directory then needs.
func TestNoRoomToGrow(t *testing.T) {
	m := memory(tiny())
	f, err := bootpart.Open(m, 0, int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O"} {
		if err := f.WriteFile(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteFile("P", make([]byte, (f.Usage().FreeClusters-1)*512)); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile("Q", []byte("x")); !errors.Is(err, bootpart.ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
	if err := f.MkdirAll("Q"); !errors.Is(err, bootpart.ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
	if f.Usage().FreeClusters != 1 {
		t.Errorf("%d clusters are free, want 1", f.Usage().FreeClusters)
	}
}

// TestSlotsAndNamesAreUsedAgain removes and creates, over and over.
func TestSlotsAndNamesAreUsedAgain(t *testing.T) {
	m := memory(tiny())
	f, err := bootpart.Open(m, 0, int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	free := f.Usage().FreeClusters
	for range 50 {
		if err := errors.Join(f.WriteFile("a name that is long", nil), f.WriteFile("X", nil)); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat("ANAMET~1"); err != nil || info.Name != "a name that is long" {
			t.Fatalf("by its short name: %+v, %v", info, err)
		}
		if err := errors.Join(f.Remove("A NAME that is long"), f.Remove("X")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Stat("ANAMET~1"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("removed, by its short name: %v", err)
		}
	}
	if got := f.Usage().FreeClusters; got != free {
		t.Errorf("the directory took %d clusters more", free-got)
	}
}
