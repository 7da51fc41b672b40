package nbdlink_test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"hatchery/netboot/node/nbdlink"
	"hatchery/netboot/node/nl"
)

// little skips a test of bytes as they go to the kernel, where these are the
// other way round.
func little(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("a big-endian machine")
	}
}

func TestRequests(t *testing.T) {
	little(t)
	d := nbdlink.Device{Index: 0, Size: 1 << 32, BlockSize: 512, Flags: 0x2d, Timeout: 30 * time.Second, DeadConnection: 24 * time.Hour}
	for _, test := range []struct {
		summary string
		got     []byte
		want    string
	}{
		{"connect", nbdlink.ConnectRequest(d, 5), `01010000
			0800 0100 00000000
			0c00 0200 0000000001000000
			0c00 0300 0002000000000000
			0c00 0400 1e00000000000000
			0c00 0800 8051010000000000
			0c00 0500 2d00000000000000
			1000 0780 0c00 0180 0800 0100 05000000`},
		{"reconfigure", nbdlink.ReconfigureRequest(1, 6), `03010000 0800 0100 01000000 1000 0780 0c00 0180 0800 0100 06000000`},
		{"disconnect", nbdlink.DisconnectRequest(2), `02010000 0800 0100 02000000`},
		{"status", nbdlink.StatusRequest(2), `05010000 0800 0100 02000000`},
		{"family", nbdlink.FamilyRequest("nbd"), `03010000 0800 0200 6e626400`},
	} {
		want := strings.Join(strings.Fields(test.want), "")
		if got := hex.EncodeToString(test.got); got != want {
			t.Errorf("%s:\n%s, want\n%s", test.summary, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	group := func(name string, id uint32) []byte {
		return nl.PutNested(nil, 1, nl.PutUint32(nl.PutString(nil, 1, name), 2, id))
	}
	answer := nl.PutUint16(nl.PutString(make([]byte, 4), 2, "nbd"), 1, 27)
	answer = nl.PutNested(answer, 7, append(group("other", 3), group("nbd_mc_group", 9)...))
	family, id, err := nbdlink.ParseFamily(answer, "nbd_mc_group")
	if family != 27 || id != 9 || err != nil {
		t.Errorf("family %d, group %d, %v", family, id, err)
	}
	if _, _, err := nbdlink.ParseFamily(make([]byte, 4), "x"); err == nil {
		t.Error("an empty answer is a family")
	}

	item := func(index uint32, connected byte) []byte {
		return nl.PutNested(nil, 1, nl.Put(nl.PutUint32(nil, 1, index), 2, []byte{connected}))
	}
	status := nl.PutNested(make([]byte, 4), 9, append(item(0, 1), item(1, 0)...))
	for index, want := range map[uint32]bool{0: true, 1: false, 2: false} {
		if got, err := nbdlink.ParseStatus(status, index); got != want || err != nil {
			t.Errorf("device %d: %v, %v", index, got, err)
		}
	}

	dead := nl.PutUint32([]byte{4, 1, 0, 0}, 1, 3)
	if !nbdlink.ParseDead(dead, 3) || nbdlink.ParseDead(dead, 0) || nbdlink.ParseDead(nbdlink.StatusRequest(3), 3) || nbdlink.ParseDead(nil, 0) {
		t.Error("a dead connection is not known as such")
	}
}

func TestBlockSize(t *testing.T) {
	for _, test := range []struct {
		summary     string
		partitioned bool
		fileSystem  int
		least       uint32
		want        int
	}{
		{"a card's image", true, 4096, 1, 512},
		{"a card's image of a server with sectors", true, 4096, 512, 512},
		{"a card's image of a server with pages", true, 4096, 4096, 0},
		{"a bare file system", false, 4096, 1, 4096},
		{"a bare file system of small blocks", false, 1024, 1, 1024},
		{"larger than the kernel's pages", false, 65536, 1, 4096},
		{"unknown", false, 0, 1, 512},
		{"a bare file system of small blocks, a server with pages", false, 1024, 4096, 0},
	} {
		got, err := nbdlink.BlockSize(test.partitioned, test.fileSystem, test.least)
		if test.want == 0 && err == nil || test.want != 0 && (err != nil || got != test.want) {
			t.Errorf("%s: %d, %v", test.summary, got, err)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(nbdlink.ConnectRequest(nbdlink.Device{}, 3))
	f.Add(nl.PutNested(make([]byte, 4), 9, nl.PutNested(nil, 1, nl.PutUint32(nil, 1, 0))))
	f.Fuzz(func(t *testing.T, b []byte) {
		nbdlink.ParseDead(b, 0)
		nbdlink.ParseStatus(b, 0)
		if family, _, err := nbdlink.ParseFamily(b, "x"); err == nil && family == 0 {
			t.Error("a family without an id")
		}
	})
}
