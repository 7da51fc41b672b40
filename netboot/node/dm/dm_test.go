package dm_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/node/dm"
)

func TestMessage(t *testing.T) {
	table := append(dm.Snapshot("/dev/nbd0p2", "/dev/zram0", 1<<30, true), dm.Target{Start: 1 << 21, Length: 8, Kind: "zero"})
	b, err := dm.Message("hatchery-root", "UUID", dm.ReadOnly, table, 0)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	text := func(at int) string { s, _, _ := strings.Cut(string(b[at:]), "\x00"); return s }
	// struct dm_ioctl, then struct dm_target_spec, each with its parameters and
	// filled up to 8 bytes.
	first := 312
	const params = "/dev/nbd0p2 /dev/zram0 N 8 1 discard_zeroes_cow"
	second := first + (40+len(params)+1+7)&^7
	for _, test := range []struct {
		summary   string
		got, want any
	}{
		{"version", u32(0), uint32(4)},
		{"size", u32(12), uint32(len(b))},
		{"data", u32(16), uint32(first)},
		{"targets", u32(20), uint32(2)},
		{"flags", u32(28), uint32(1)},
		{"name", text(48), "hatchery-root"},
		{"UUID", text(176), "UUID"},
		{"start", binary.NativeEndian.Uint64(b[first:]), uint64(0)},
		{"length", binary.NativeEndian.Uint64(b[first+8:]), uint64(1 << 21)},
		{"next", u32(first + 20), uint32(second - first)},
		{"kind", text(first + 24), "snapshot"},
		{"parameters", text(first + 40), params},
		{"the second's start", binary.NativeEndian.Uint64(b[second:]), uint64(1 << 21)},
		{"the second's kind", text(second + 24), "zero"},
		{"the end", len(b), second + 48},
	} {
		if test.got != test.want {
			t.Errorf("%s: %v, want %v", test.summary, test.got, test.want)
		}
	}
	for _, name := range []string{"", strings.Repeat("x", 128)} {
		if _, err := dm.Message(name, "", 0, nil, 0); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}

// status is an answer, in which "next" counts from the first target.
func status(targets ...dm.Target) []byte {
	b, _ := dm.Message("x", "", 0, targets, 4096)
	at := uint32(0)
	for range targets {
		next := at + binary.NativeEndian.Uint32(b[312+at+20:])
		binary.NativeEndian.PutUint32(b[312+at+20:], next)
		at = next
	}
	return b
}

func TestStatus(t *testing.T) {
	want := []dm.Target{{Length: 100, Kind: "snapshot", Params: "16/983040 16"}, {Start: 100, Length: 5, Kind: "zero"}}
	got, err := dm.ParseStatus(status(want...))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	truncated := status(want...)
	binary.NativeEndian.PutUint32(truncated[28:], dm.FlagTruncated)
	past := status(want...)
	binary.NativeEndian.PutUint32(past[16:], 4090)
	loop := status(want...)
	binary.NativeEndian.PutUint32(loop[312+20:], 0)
	for summary, b := range map[string][]byte{"truncated": truncated, "past the end": past, "a loop": loop, "short": past[:100]} {
		if _, err := dm.ParseStatus(b); err == nil {
			t.Errorf("%s: no error", summary)
		}
	}
}

func TestUsage(t *testing.T) {
	if used, total, ok := dm.Usage("16/983040 16"); used != 8192 || total != 983040*512 || !ok {
		t.Error(used, total, ok)
	}
	for _, params := range []string{"Invalid", "Overflow", "", "16", "x/y", "-1/5", "6/5"} {
		if _, _, ok := dm.Usage(params); ok {
			t.Errorf("%q is a usage", params)
		}
	}
}

const mebi = 1 << 20

func TestStore(t *testing.T) {
	for _, test := range []struct{ root, memory, disk, limit int64 }{
		{8192 * mebi, 200 * mebi, 500 * mebi, 250 * mebi},
		{100 * mebi, 200 * mebi, 101 * mebi, 250 * mebi}, // more than each block once is never needed
		{8192 * mebi, 10*mebi + 5, 25*mebi + 8192 - 8192, 12*mebi + mebi/2},
	} {
		if disk, limit := dm.Store(test.root, test.memory); disk != test.disk || limit != test.limit {
			t.Errorf("root %d, memory %d: %d, %d; want %d, %d", test.root, test.memory, disk, limit, test.disk, test.limit)
		}
	}
}

func TestLeft(t *testing.T) {
	for _, test := range []struct {
		summary     string
		used, total int64
		mm          string
		want        int64
	}{
		{"new", 0, 500, "0 0 0 1 0 0 0 0", 100},
		{"data that shrink", 80, 500, "80 30 40 1 40 0 0", 60},
		{"data that do not", 80, 500, "80 80 90 1 40 0 0", 10},
		{"the overdraft is used", 80, 500, "120 120 120 1 40 0 0", 0},
		{"a small root", 80, 100, "80 30 40 1", 20},
		{"unreadable", 80, 100, "x", 20},
		{"unreadable numbers", 80, 100, "1 2 x", 20},
	} {
		if got := dm.Left(test.used, test.total, test.mm, 100); got != test.want {
			t.Errorf("%s: %d, want %d", test.summary, got, test.want)
		}
	}
}

func TestReserve(t *testing.T) {
	for _, test := range []struct{ free, left, pending, want int64 }{
		{1000, 800, 0, 300},
		{1000, 800, 100, 400},
		{500, 800, 0, 0},    // the file system is full first
		{1000, 0, 0, 1000},  // nothing more
		{1000, 8, 50, 1000}, // more is spoken for than there is
	} {
		if got := dm.Reserve(test.free, test.left, test.pending); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add(status(dm.Target{Length: 1, Kind: "snapshot", Params: "1/2 3"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := dm.ParseStatus(b)
		for _, target := range all {
			if used, total, ok := dm.Usage(target.Params); ok && used > total {
				t.Error(used, total)
			}
		}
	})
}
