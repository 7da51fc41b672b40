package difference_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
)

// many is an image with packages in it, in large.
func manyFiles(t testing.TB) (was, is *fakeTree) {
	var before, after strings.Builder
	for i := range 40 {
		fmt.Fprintf(&before, "-644 0:0 /usr/share/old/%02d/doc %q\n", i, fmt.Sprintf("old %d\n", i))
		fmt.Fprintf(&after, "-755 0:0 /usr/lib/docker/%02d/bin %q\n", i, fmt.Sprintf("\x7fELF\x00%d", i))
		fmt.Fprintf(&after, "-755 0:0 /usr/bin/docker-%02d %q\n", i, fmt.Sprintf("#!/bin/sh\necho %d\n", i))
		fmt.Fprintf(&before, "-644 0:0 /srv/a/%02d %q\n", i, fmt.Sprintf("page %d of the old place", i))
		fmt.Fprintf(&after, "-644 0:0 /srv/b/%02d %q\n", i, fmt.Sprintf("page %d of the old place", i))
	}
	fmt.Fprintf(&before, "-644 0:0 /etc/touched x\n")
	fmt.Fprintf(&after, "-644 0:0 /etc/touched x time=61\n")
	fmt.Fprintf(&before, "-644 0:0 /etc/list %q\n", strings.Repeat("a line\n", 10))
	fmt.Fprintf(&after, "-644 0:0 /etc/list %q\n", strings.Repeat("a line\n", 10)+strings.Repeat("wide ", 100)+"\n")
	fmt.Fprintf(&after, "-644 0:0 /etc/new.conf %q\n", strings.Repeat("setting = value\n", 80))
	fmt.Fprintf(&after, "-600 0:0 /usr/lib/docker/00/key %q\n", "SECRET")
	return fake(t, before.String()), fake(t, after.String())
}

func TestReport(t *testing.T) {
	was, is := manyFiles(t)
	d := compare(t, was, is, difference.Options{WasName: "base.img", IsName: "p1"})
	for name, o := range map[string]difference.TextOptions{
		"many.txt":         {Hint: "--all shows everything"},
		"many-all.txt":     {All: true, Hint: "--all shows everything"},
		"many-nodiffs.txt": {NoDiffs: true, Hint: "--all shows everything"},
		"many-color.txt":   {Color: true},
	} {
		got := text(t, d, o)
		if strings.Contains(got, "\x1b") != o.Color {
			t.Errorf("%s: escape sequences: %t", name, !o.Color)
		}
		golden(t, name, strings.ReplaceAll(got, "\x1b", "^["))
	}
}

// TestReportFails: what cannot be written is told.
func TestReportFails(t *testing.T) {
	d := compare(t, fake(t, "-644 0:0 /a x"), fake(t, "-644 0:0 /a y"), difference.Options{})
	full := errors.New("the disk is full")
	if err := d.WriteText(failing{full}, difference.TextOptions{}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestSameTwice: the order is nobody's whim.
func TestSameTwice(t *testing.T) {
	var first string
	for i := range 20 {
		was, is := manyFiles(t)
		d := compare(t, was, is, difference.Options{})
		switch got := jsonText(t, d) + text(t, d, difference.TextOptions{All: true}); {
		case i == 0:
			first = got
		case got != first:
			t.Fatal("two comparisons of the same images differ")
		}
	}
}

func TestTextInJSON(t *testing.T) {
	for text, want := range map[difference.Text]string{
		"":                "\"\"",
		"/etc/hostname":   `"/etc/hostname"`,
		"é <&> \x1b \x00": `"é <&> \u001b \u0000"`,
		"/b\xffd":         `{"base64":"L2L/ZA=="}`,
		"\ufffd":          "\"\ufffd\"",
	} {
		got, err := text.MarshalJSON()
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
		var back difference.Text
		if err := json.Unmarshal(got, &back); err != nil || back != text {
			t.Errorf("%q: back as %q, %v", text, back, err)
		}
	}
	for _, bad := range []string{`{}`, `{"base64":"!"}`, `{"base64":1}`, `1`, `["x"]`} {
		var got difference.Text
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is taken for %q", bad, got)
		}
	}
}

// harmless says whether a terminal shows a text and does nothing else.
func harmless(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Cf, r)
	})
}

// FuzzReport has files of any name, content and kind compared and told.
func FuzzReport(f *testing.F) {
	f.Add("etc/hostname", "raspberrypi\n", "oneil\n", "note", uint16(0o644), uint16(0))
	f.Add("a\x1b[2J\n\xff", "\x1b]0;x\x07", "\u202eback\r\n\u0085", "\x1b", uint16(0o755), uint16(1))
	f.Add("boot/cmdline.txt", "a b=\x1b c", "a b=2", "", uint16(0o755), uint16(2))
	f.Add("boot/config.txt", "[\x1b]\na=1", "[pi4\u202e]\na=\x1b", "", uint16(0o755), uint16(2))
	f.Add("var/lib/dpkg/status", "Package: a\x1b\nStatus: i o \x1b\nVersion: \x07\n", "Package: b\x1b\nStatus: i\u202e o \x1b\n", "", uint16(0o644), uint16(2))
	f.Add("x", "", "b", "\x00", uint16(0), uint16(3))
	f.Fuzz(func(t *testing.T, name, before, after, extra string, mode, kind uint16) {
		name = "/" + strings.Trim(name, "/")
		for part := range strings.SplitSeq(name[1:], "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
				return
			}
		}
		tree := func(content string, there bool) *fakeTree {
			tree := fake(t, "d755 0:0 /boot")
			if !there {
				return tree
			}
			line := fmt.Sprintf("-%o 0:0 %q %q %q", mode&0o7777|0o004, name, content, "x:user."+extra+"="+content)
			if kind&4 != 0 {
				line = fmt.Sprintf("l777 0:0 %q %q", name, content)
			}
			return fake(t, line)
		}
		if strings.Contains(extra, "=") {
			return
		}
		was, is := tree(before, kind&3 != 1), tree(after, kind&3 != 3)
		d := compare(t, was, is, difference.Options{
			WasName: extra, IsName: name, BootPath: "/boot", Reason: func(string) string { return extra },
		})
		for _, o := range []difference.TextOptions{{}, {All: true}} {
			if got := text(t, d, o); !harmless(got) {
				t.Fatalf("%q", got)
			}
		}
		var back difference.Difference
		if err := json.Unmarshal([]byte(jsonText(t, d)), &back); err != nil {
			t.Fatal(err)
		}
		if len(back.Files) != len(d.Files) {
			t.Fatalf("%d files, and back %d", len(d.Files), len(back.Files))
		}
		for i := range d.Files {
			if d.Files[i].Path != back.Files[i].Path || d.Files[i].Diff != back.Files[i].Diff {
				t.Fatalf("%+v became %+v", d.Files[i], back.Files[i])
			}
		}
		there := func(f *fakeTree) *diskimage.Node {
			for i := range f.nodes {
				if f.nodes[i].Path == name {
					return &f.nodes[i]
				}
			}
			return nil
		}
		a, b := there(was), there(is)
		differ := (a == nil) != (b == nil) || a != nil && b != nil && before != after
		listed := false
		for _, f := range d.Files {
			listed = listed || string(f.Path) == name
		}
		if differ != listed {
			t.Fatalf("%q differs: %t, and is listed: %t", name, differ, listed)
		}
	})
}
