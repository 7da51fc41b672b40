package drive_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"hatchery/imagebuilder/drive"
)

// recorded answers for a system's programs with files of testdata.
func recorded(system string, files map[string]string) func(context.Context, string, ...string) ([]byte, error) {
	return func(_ context.Context, name string, args ...string) ([]byte, error) {
		line := strings.Join(append([]string{name}, args...), " ")
		for prefix, file := range files {
			if strings.HasPrefix(line, prefix) {
				return os.ReadFile(filepath.Join("testdata", system, file))
			}
		}
		return nil, fmt.Errorf("%s: not recorded", line)
	}
}

var mac = map[string]string{
	"/usr/sbin/diskutil list -plist":              "list.plist",
	"/usr/sbin/diskutil info -plist disk0":        "info-disk0.plist",
	"/usr/sbin/diskutil info -plist disk4":        "info-disk4.plist",
	"/usr/sbin/diskutil info -plist disk5":        "info-disk5.plist",
	"/usr/sbin/diskutil info -plist disk6":        "info-disk6.plist",
	"/usr/sbin/diskutil info -plist disk7":        "info-disk7.plist",
	"/usr/sbin/ioreg -a -r -c IOMedia -d 1":       "ioreg-IOMedia.plist",
	"/usr/sbin/ioreg -a -r -l -c IOUSBHostDevice": "ioreg-IOUSBHostDevice.plist",
	"/usr/bin/hdiutil info -plist":                "hdiutil-info.plist",
}

func TestListMac(t *testing.T) {
	all, err := drive.MacList(t.Context(), recorded("darwin", mac))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "darwin", "list.want"), describe(all))
	// A card's number in the registry is a new one each time.
	if all[1].Sequence != 4294969876 {
		t.Errorf("sequence %d", all[1].Sequence)
	}
	// Without ioreg there are no serials, and all else.
	without := map[string]string{}
	for line, file := range mac {
		if !strings.HasPrefix(line, "/usr/sbin/ioreg") {
			without[line] = file
		}
	}
	bare, err := drive.MacList(t.Context(), recorded("darwin", without))
	if err != nil || len(bare) != len(all) || bare[1].Serial != "" || bare[1].Sequence != 0 || !bare[1].Candidate() {
		t.Errorf("without ioreg: %v\n%s", err, describe(bare))
	}
	if _, err := drive.MacList(t.Context(), recorded("darwin", nil)); err == nil || !strings.Contains(err.Error(), "cannot see this machine's disks") {
		t.Errorf("without diskutil: %v", err)
	}
}

// TestMacRootUnknown: where no disk shows / , the ones built in are the system's.
func TestMacRootUnknown(t *testing.T) {
	run := func(ctx context.Context, name string, args ...string) ([]byte, error) {
		out, err := recorded("darwin", mac)(ctx, name, args...)
		return []byte(strings.ReplaceAll(strings.ReplaceAll(string(out), "<string>/</string>", "<string></string>"), "/System/Volumes/Data", "/somewhere")), err
	}
	all, err := drive.MacList(t.Context(), run)
	if err != nil || !all[0].System || all[1].System || !all[1].Candidate() {
		t.Errorf("%v\n%s", err, describe(all))
	}
}

func TestNamedMac(t *testing.T) {
	for _, c := range []struct{ summary, name, want string }{
		{"a disk", "disk4", "/dev/disk4 disk"},
		{"past the cache", "rdisk4", "/dev/disk4 disk"},
		{"a disk image", "disk6", "/dev/disk6 loop"},
		{"a partition", "disk4s1", "/dev/disk4s1 is a partition: an image is for a whole disk, name /dev/disk4"},
		{"a container of APFS", "disk3", "/dev/disk3 is a part of APFS, not a disk that a card can be: `hatchery flash --list` shows those that are"},
		{"a volume in one", "disk3s1s1", "/dev/disk3s1s1 is a part of APFS, not a disk that a card can be: `hatchery flash --list` shows those that are"},
		{"one that went away", "disk9", "/dev/disk9 is no disk of this machine any more: `hatchery flash --list` shows those that are"},
		{"no disk", "null", "/dev/null is no disk: `hatchery flash --list` shows the disks of this machine"},
	} {
		d, err := drive.MacNamed(t.Context(), recorded("darwin", mac), "/dev/"+c.name, c.name)
		if got := outcome(t, d, err); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.summary, got, c.want)
		}
	}
	users, err := drive.MacAttached(t.Context(), recorded("darwin", mac), "/Users/ann/card.img")
	if err != nil || !reflect.DeepEqual(users, []string{"attached as /dev/disk6"}) {
		t.Errorf("attached: %q, %v", users, err)
	}
}

// outcome is a drive's path and kind, or the error, which is the user's.
func outcome(t *testing.T, d drive.Drive, err error) string {
	t.Helper()
	if err == nil {
		return d.Path + " " + string(d.Kind)
	}
	var mistake *drive.InputError
	if !errors.As(err, &mistake) {
		t.Errorf("%T is no *InputError", err)
	}
	return err.Error()
}

func TestListWindows(t *testing.T) {
	run := recorded("windows", map[string]string{"powershell.exe -NoLogo -NoProfile -NonInteractive -Command": "disks.json"})
	all, err := drive.WindowsList(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "windows", "disks.want"), describe(all))
	for _, c := range []struct{ summary, path, want string }{
		{"a disk", `\\.\PhysicalDrive1`, `\\.\PhysicalDrive1 disk`},
		{"in other letters", `\\.\PHYSICALDRIVE1`, `\\.\PhysicalDrive1 disk`},
		{"without what is before", `physicaldrive1`, `\\.\PhysicalDrive1 disk`},
		{"with slashes", `//./PhysicalDrive1`, `\\.\PhysicalDrive1 disk`},
		{"a file that is a disk", `\\.\PhysicalDrive10`, `\\.\PhysicalDrive10 loop`},
		{"one that is not there", `\\.\PhysicalDrive7`, `\\.\PhysicalDrive7 is no disk of this machine: ` + "`hatchery flash --list` shows those that are"},
		{"a letter", `E:`, `E: is a partition: an image is for a whole disk, name \\.\PhysicalDrive1`},
		{"a letter's root", `e:\`, `e:\ is a partition: an image is for a whole disk, name \\.\PhysicalDrive1`},
		{"a volume", `\\.\E:`, `\\.\E: is a partition: an image is for a whole disk, name \\.\PhysicalDrive1`},
		{"a letter that is none", `Q:`, "Q: is no disk of this machine: `hatchery flash --list` shows those that are"},
	} {
		d, found, err := drive.WindowsNamed(t.Context(), run, c.path)
		if got := outcome(t, d, err); got != c.want || !found {
			t.Errorf("%s:\ngot  %s %v\nwant %s", c.summary, got, found, c.want)
		}
	}
	if _, found, err := drive.WindowsNamed(t.Context(), run, `E:\card.img`); found || err != nil {
		t.Errorf("a file: %v, %v", found, err)
	}
}

// TestParseDisks: what ConvertTo-Json makes of one, none, and the odd.
func TestParseDisks(t *testing.T) {
	for _, c := range []struct {
		summary, answer, want string
	}{
		{"one of each", "\xef\xbb\xbf" + `{"disks":{"Number":1,"FriendlyName":"X","BusType":"USB","Size":31914983424},"partitions":{"DiskNumber":1,"PartitionNumber":1,"AccessPaths":"E:\\"},"drives":{"Index":1,"MediaType":"Removable Media"},"pagefiles":{"Name":"e:\\pagefile.sys"}}`,
			`\\.\PhysicalDrive1 disk "X" serial="" bus=usb 31914983424 removable` + "\n  partition 1 of disk 1 at \"E:\\\\\" casually\n  - it is in use: the page file e:\\pagefile.sys\n"},
		{"none", `{"disks":[],"partitions":null,"drives":[null],"pagefiles":null}`, ""},
		{"without a number", `{"disks":[{"FriendlyName":"X"},{"Number":-1}]}`, ""},
		{"told by its partition alone", `{"disks":[{"Number":1,"BusType":"USB","Size":31914983424}],"partitions":[{"DiskNumber":1,"IsBoot":true}],"drives":[{"Index":1,"MediaType":"Removable Media"}]}`,
			`\\.\PhysicalDrive1 disk "" serial="" bus=usb 31914983424 removable SYSTEM` + "\n  ! this machine runs from it\n"},
		{"odd sizes", `{"disks":[{"Number":1,"BusType":"USB","Size":18446744073709551615},{"Number":2,"BusType":"USB","Size":null}]}`,
			`\\.\PhysicalDrive1 disk "" serial="" bus=usb 0` + "\n  ! there is no card in it\n" + `\\.\PhysicalDrive2 disk "" serial="" bus=usb 0` + "\n  ! there is no card in it\n"},
	} {
		all, err := drive.ParseDisks([]byte(c.answer))
		if got := describe(all); err != nil || got != c.want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", c.summary, err, got, c.want)
		}
	}
	for _, bad := range []string{"", "Get-Disk : access denied", "[]", `{"disks":[[1]]}`, `{"disks":[{"Number":"x"}]}`, `{"disks":[{"Number":1,"FriendlyName":{}}]}`} {
		if all, err := drive.ParseDisks([]byte(bad)); err == nil {
			t.Errorf("%q is %v", bad, all)
		}
	}
}

func TestParsePlist(t *testing.T) {
	got, err := drive.ParsePlist([]byte(`<?xml version="1.0"?><plist version="1.0"><dict><key>a</key><array><string>x &amp; y</string><integer>-7</integer><integer>0x10</integer><integer>18446744073709551615</integer><real>1.5</real><true/><false/><date>2026-01-01T00:00:00Z</date><data>AAEC</data><dict/></array><key>b</key><string/></dict></plist>`))
	want := map[string]any{"a": []any{"x & y", int64(-7), int64(16), int64(0), 1.5, true, false, "2026-01-01T00:00:00Z", "AAEC", map[string]any{}}, "b": ""}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %v\nwant %v", err, got, want)
	}
	deep := strings.Repeat("<array>", 10000) + strings.Repeat("</array>", 10000)
	for _, bad := range []string{
		"", "x", "<plist>", "<plist></plist>", "<plist><dict><string>a</string></dict></plist>", "<plist><dict><key>a</key></dict></plist>",
		"<plist><dict><key>a</key><string>", "<plist><string><b/></string></plist>", "<plist><thing/></plist>", "<plist>" + deep, "<a></b>",
		`<!DOCTYPE p [<!ENTITY e "x">]><plist><string>&e;</string></plist>`,
	} {
		if got, err := drive.ParsePlist([]byte(bad)); err == nil {
			t.Errorf("%.60q is %v", bad, got)
		}
	}
}

func FuzzPlist(f *testing.F) {
	for _, name := range []string{"list.plist", "info-disk4.plist", "ioreg-IOUSBHostDevice.plist"} {
		content, err := os.ReadFile(filepath.Join("testdata", "darwin", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		value, err := drive.ParsePlist(content)
		if err == nil && value == nil {
			t.Error("nothing, and no error")
		}
		// All programs answer with it: nothing of it makes a candidate without a
		// size.
		all, err := drive.MacList(t.Context(), func(context.Context, string, ...string) ([]byte, error) { return content, nil })
		for _, d := range all {
			if err != nil || d.Size < 0 || d.Candidate() && d.Size == 0 {
				t.Errorf("%+v, %v", d, err)
			}
		}
	})
}

func FuzzPowerShell(f *testing.F) {
	content, err := os.ReadFile(filepath.Join("testdata", "windows", "disks.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(`{"disks":{"Number":1,"BusType":7},"partitions":{"DiskNumber":1,"AccessPaths":"E:\\"},"pagefiles":{"Name":null}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		all, err := drive.ParseDisks(content)
		for _, d := range all {
			if err != nil || d.Size < 0 || !strings.HasPrefix(d.Path, `\\.\PhysicalDrive`) || d.Candidate() && d.Size == 0 {
				t.Errorf("%+v, %v", d, err)
			}
		}
	})
}
