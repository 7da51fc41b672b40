package ext4

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"strings"
	"testing"
)

func TestXattrNames(t *testing.T) {
	for _, test := range []struct {
		full  string
		index uint8
		name  string
		ok    bool
	}{
		{"user.a", 1, "a", true},
		{"trusted.overlay.opaque", 4, "overlay.opaque", true},
		{"security.capability", 6, "capability", true},
		{"system.posix_acl_access", 2, "", true},
		{"system.posix_acl_default", 3, "", true},
		{"system.posix_acl_defaulty", 0, "", false},
		{"system.data", 0, "", false},
		{"user.", 0, "", false},
		{"user", 0, "", false},
		{"", 0, "", false},
	} {
		index, name, ok := splitXattrName(test.full)
		if index != test.index || name != test.name || ok != test.ok {
			t.Errorf("%q splits into %d, %q, %v", test.full, index, name, ok)
		}
		if !ok {
			continue
		}
		if full, ok := (xattr{index: index, name: name}).fullName(); !ok || full != test.full {
			t.Errorf("%q comes back as %q, %v", test.full, full, ok)
		}
	}
	for _, hidden := range []xattr{{index: 2, name: "x"}, {index: 1}, {index: 7, name: "data"}, {index: 8}, {index: 77, name: "x"}} {
		if full, ok := hidden.fullName(); ok {
			t.Errorf("%+v is shown as %q", hidden, full)
		}
	}
}

func TestXattrsRoundTrip(t *testing.T) {
	lists := map[string][]xattr{
		"none":      nil,
		"one":       {{xattrSecurity, "capability", []byte("0123456789abcdefghij")}},
		"empty":     {{xattrUser, "flag", nil}, {xattrUser, "x", []byte{1}}},
		"unaligned": {{xattrUser, "abc", []byte("abc")}, {xattrTrusted, "de", []byte("defgh")}, {xattrUser, strings.Repeat("n", 250), []byte("1")}},
	}
	for summary, list := range lists {
		for _, first := range []int{0, xattrHeaderLen} {
			need := xattrsSize(list)
			for _, room := range []int{need, need + 4, need + 100} {
				buf := bytes.Repeat([]byte{0xff}, first+room)
				if !encodeXattrs(buf, first, list, true) {
					t.Errorf("%s: %d bytes do not fit in %d", summary, need, room)
					continue
				}
				back, problem := decodeXattrs(buf, first)
				if problem != "" || len(back) != len(list) {
					t.Errorf("%s: %d attributes come back as %d: %s", summary, len(list), len(back), problem)
					continue
				}
				for i := range back {
					if !back[i].same(list[i]) || !bytes.Equal(back[i].value, list[i].value) {
						t.Errorf("%s: %+v comes back as %+v", summary, list[i], back[i])
					}
				}
			}
			if encodeXattrs(make([]byte, first+need-4), first, list, true) {
				t.Errorf("%s: fits where it cannot", summary)
			}
		}
	}
}

func TestXattrBlockOrder(t *testing.T) {
	block := make([]byte, 1024)
	list := []xattr{{xattrSecurity, "a", nil}, {xattrUser, "bb", nil}, {xattrUser, "c", nil}, {xattrUser, "ba", nil}}
	if !encodeXattrBlock(block, list) {
		t.Fatal("does not fit")
	}
	back, problem := decodeXattrBlock(block)
	if problem != "" {
		t.Fatal(problem)
	}
	var order []string
	for _, x := range back {
		name, _ := x.fullName()
		order = append(order, name)
	}
	if got, want := strings.Join(order, " "), "user.c user.ba user.bb security.a"; got != want {
		t.Errorf("the block's order is %q, want %q", got, want)
	}
	if list[0].name != "a" {
		t.Error("the caller's list was sorted")
	}
}

func FuzzDecodeXattrs(f *testing.F) {
	block := make([]byte, 1024)
	encodeXattrBlock(block, []xattr{{xattrSecurity, "capability", []byte("0123456789abcdefghij")}, {xattrUser, "x", []byte("y")}})
	f.Add(block)
	f.Add(make([]byte, 1024))
	f.Add(bytes.Repeat([]byte{0xff}, 1024))
	f.Add(append(bytes.Clone(block[:32]), bytes.Repeat([]byte{0x01, 0x01, 0, 4}, 100)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < xattrHeaderLen {
			return
		}
		if list, problem := decodeXattrBlock(data); problem == "" {
			again := make([]byte, xattrHeaderLen+xattrsSize(list))
			if !encodeXattrBlock(again, list) {
				t.Fatal("cannot be written into the room it needs")
			}
			if back, problem := decodeXattrBlock(again); problem != "" || len(back) != len(list) {
				t.Fatalf("%d attributes come back as %d: %s", len(list), len(back), problem)
			}
		}
	})
}

func TestPOSIXACL(t *testing.T) {
	// What getfattr -e hex shows after setfacl -m u:1000:rwx,g:20:r on a file of mode 0640.
	shown := "02000000" + "01000600ffffffff" + "02000700e8030000" + "04000400ffffffff" + "0800040014000000" + "10000700ffffffff" + "20000000ffffffff"
	disk := "01000000" + "01000600" + "02000700e8030000" + "04000400" + "0800040014000000" + "10000700" + "20000000"
	value, _ := hex.DecodeString(shown)
	acl, err := parseShownACL(value)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(diskACL(acl)); got != disk {
		t.Errorf("on disk %s, want %s", got, disk)
	}
	back, err := parseDiskACL(diskACL(acl))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(shownACL(back)); got != shown {
		t.Errorf("shown as %s, want %s", got, shown)
	}
	if perm, same := aclMode(acl); perm != 0o670 || same {
		t.Errorf("mode %v, equivalent %v", perm, same)
	}
	setACLMode(acl, 0o421)
	if perm, _ := aclMode(acl); perm != 0o421 {
		t.Errorf("after chmod 0421 the mode is %v", perm)
	}
	plain, _ := hex.DecodeString("02000000" + "01000600ffffffff" + "04000400ffffffff" + "20000000ffffffff")
	acl, err = parseShownACL(plain)
	if err != nil {
		t.Fatal(err)
	}
	if perm, same := aclMode(acl); perm != fs.FileMode(0o640) || !same {
		t.Errorf("mode %v, equivalent %v", perm, same)
	}
	for summary, bad := range map[string]string{
		"empty":           "",
		"version 1":       "01000000",
		"no entries":      "02000000",
		"cut":             "0200000001000600",
		"no others":       "02000000" + "01000600ffffffff" + "04000400ffffffff",
		"order":           "02000000" + "04000400ffffffff" + "01000600ffffffff" + "20000000ffffffff",
		"twice":           "02000000" + "01000600ffffffff" + "01000600ffffffff" + "04000400ffffffff" + "20000000ffffffff",
		"no mask":         "02000000" + "01000600ffffffff" + "02000700e8030000" + "04000400ffffffff" + "20000000ffffffff",
		"bits":            "02000000" + "01000800ffffffff" + "04000400ffffffff" + "20000000ffffffff",
		"unknown tag":     "02000000" + "01000600ffffffff" + "04000400ffffffff" + "20000000ffffffff" + "40000000ffffffff",
		"named, but whom": "02000000" + "01000600ffffffff" + "02000700ffffffff" + "04000400ffffffff" + "10000700ffffffff" + "20000000ffffffff",
	} {
		value, _ := hex.DecodeString(bad)
		if _, err := parseShownACL(value); err == nil {
			t.Errorf("%s: taken", summary)
		}
	}
}

func FuzzParseDiskACL(f *testing.F) {
	valid, _ := hex.DecodeString("01000000" + "01000600" + "02000700e8030000" + "04000400" + "0800040014000000" + "10000700" + "20000000")
	f.Add(valid)
	f.Add(valid[:9])
	f.Fuzz(func(t *testing.T, data []byte) {
		acl, err := parseDiskACL(data)
		if err != nil {
			return
		}
		if !bytes.Equal(diskACL(acl), data) {
			t.Fatalf("%x comes back as %x", data, diskACL(acl))
		}
		if _, err := parseShownACL(shownACL(acl)); err != nil {
			t.Fatalf("what is shown of %x is refused: %v", data, err)
		}
	})
}
