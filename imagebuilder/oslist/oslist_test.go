package oslist_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/oslist"
	"hatchery/imagebuilder/oslist/oslisttest"
)

func TestSample(t *testing.T) {
	l, err := oslist.Parse(oslisttest.Sample)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range l.Entries() {
		has := ""
		if e.SHA256 != "" {
			has = " digest"
		}
		got = append(got, fmt.Sprintf("%s %s %d %d %s %s %s%s", e.Name, e.Released, e.Size, e.ImageSize, e.Architecture, e.InitFormat, e.Host(), has))
	}
	want := []string{
		"raspios_arm64 2025-12-04 1297000448 6442450944 arm64 cloudinit-rpi downloads.raspberrypi.com",
		"raspios_full_armhf 2025-12-04 1973420032 8053063680 armhf cloudinit-rpi downloads.raspberrypi.com",
		"raspios_lite_arm64 2025-12-04 520093696 2977955840 arm64 cloudinit-rpi downloads.raspberrypi.com",
		"raspios_lite_armhf 2025-12-04 521142272 2579496960 armhf cloudinit-rpi downloads.raspberrypi.com",
		"raspios_oldstable_lite_arm64 2025-11-24 448790528 2910846976 arm64 systemd downloads.raspberrypi.com digest",
		"raspios_oldstable_lite_armhf 2025-11-24 515899392 2717908992 armhf systemd downloads.raspberrypi.com digest",
		"server 2025-11-01 734003200 3221225472  cloudinit images.example.org digest",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	e, err := l.Find("raspios_lite_armhf")
	wantEntry := oslist.Entry{
		Name: "raspios_lite_armhf", Title: "Raspberry Pi OS Lite (32-bit)",
		URL:  "https://downloads.raspberrypi.com/raspios_lite_armhf/images/raspios_lite_armhf-2025-12-04/2025-12-04-raspios-trixie-armhf-lite.img.xz",
		Size: 521142272, ImageSHA256: "5dac60c126646931bb7333df5861d1df331f2c86a6dc5206cdb4fcec3f376260", ImageSize: 2579496960,
		Released: "2025-12-04", InitFormat: "cloudinit-rpi", Architecture: "armhf",
		Devices: []string{"pi5-32bit", "pi4-32bit", "pi3-32bit", "pi2-32bit", "pi1-32bit"},
	}
	if diff := cmp.Diff(wantEntry, e); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// entry writes one entry of a list; more is put before its other fields.
func entry(url, date, more string) string {
	return fmt.Sprintf(`{%s"name": "x", "url": %q, "release_date": %q, "extract_sha256": %q}`, more, url, date, strings.Repeat("ab", 32))
}

func listOf(entries ...string) string { return `{"os_list": [` + strings.Join(entries, ",") + `]}` }

const base = "https://downloads.raspberrypi.com/"

func TestFind(t *testing.T) {
	text := string(oslisttest.Sample)
	for _, test := range []struct {
		summary, list, name string
		want                string // the URL, or what the error says
	}{
		{"a letter too many", text, "raspios_llite_armhf", `"raspios_llite_armhf" is not in the OS list: did you mean raspios_lite_armhf or raspios_lite_arm64? ` + "`hatchery lock --list` shows all names"},
		{"without the architecture", text, "raspios_lite", `did you mean raspios_lite_arm64 or raspios_lite_armhf or raspios_oldstable_lite_arm64 or`},
		{"with hyphens", text, "raspios-lite-armhf", "did you mean raspios_lite_armhf"},
		{"nothing like it", text, "gentoo", `"gentoo" is not in the OS list: ` + "`hatchery lock --list`"},
		{"a list that is not followed", text, "example", "is not in the OS list"},
		{"over http alone", text, "desktop", `"desktop" cannot be used, since its URL is http`},
		{"without a digest", text, "firmware", "since it has no SHA-256 digest"},

		{"the newest counts", listOf(entry(base+"a/1.xz", "2024-01-01", ""), entry(base+"a/2.xz", "2025-01-01", ""), entry(base+"a/3.xz", "2023-01-01", "")), "a", base + "a/2.xz"},
		{"a date before none", listOf(entry(base+"a/1.xz", "", ""), entry(base+"a/2.xz", "2025-01-01", ""), entry(base+"a/3.xz", "soon", "")), "a", base + "a/2.xz"},
		{"the same entry twice", listOf(entry(base+"a/1.xz", "2024-01-01", ""), entry(base+"a/1.xz", "2024-01-01", "")), "a", base + "a/1.xz"},
		{"two of a day", listOf(entry(base+"a/1.xz", "2024-01-01", ""), entry(base+"a/2.xz", "2024-01-01", "")), "a", `"a" stands for several images of the OS list: write the URL`},
		{"another publisher takes no name of Raspberry Pi's", listOf(entry(base+"a/1.xz", "2024-01-01", ""), entry("https://raspberrypi.com.example.org/a/2.xz", "2026-01-01", "")), "a", base + "a/1.xz"},
		{"two other publishers", listOf(entry("https://x.example.org/a/1.xz", "2024-01-01", ""), entry("https://y.example.org/a/2.xz", "2026-01-01", "")), "a", "stands for several images"},
		{"the older domain is as good", listOf(entry("https://downloads.raspberrypi.org/a/1.xz", "2024-01-01", ""), entry(base+"a/2.xz", "2023-01-01", "")), "a", "https://downloads.raspberrypi.org/a/1.xz"},
		{"a faulty entry beside a good one", listOf(entry(base+"a/1.xz", "2024-01-01", ""), entry("http://x.example.org/a/2.xz", "2026-01-01", "")), "a", base + "a/1.xz"},
		{"this machine's own server", listOf(entry("http://127.0.0.1:8080/a/1.xz", "2024-01-01", "")), "a", "http://127.0.0.1:8080/a/1.xz"},
		{"a number where text belongs", listOf(`{"name": 7, "url": "` + base + `a/1.xz", "extract_sha256": "` + strings.Repeat("ab", 32) + `"}`), "a", "since its name is number"},
		{"a size of text", listOf(entry(base+"a/1.xz", "2024-01-01", `"extract_size": "12",`)), "a", "since its extract_size is string"},
		{"a negative size", listOf(entry(base+"a/1.xz", "2024-01-01", `"extract_size": -1,`)), "a", "its sizes make no sense"},
		{"a digest of another kind", listOf(entry(base+"a/1.xz", "2024-01-01", `"image_download_sha256": "d41d8cd98f00b204e9800998ecf8427e",`)), "a", "its image_download_sha256 is no SHA-256"},
		{"an account", listOf(entry("https://me:secret@downloads.raspberrypi.com/a/1.xz", "2024-01-01", "")), "a", "its URL has an account"},
		{"another protocol", listOf(entry("ftp://downloads.raspberrypi.com/a/1.xz", "2024-01-01", "")), "a", "its URL is not https"},
		{"a file at the top", listOf(entry(base+"a", "2024-01-01", "")), "a", "is not in the OS list"},
		{"entries within entries within an image", listOf(entry(base+"a/1.xz", "2024-01-01", `"subitems": [`+entry(base+"b/1.xz", "2024-01-01", "")+`],`)), "b", base + "b/1.xz"},
		{"nonsense beside it", listOf("7", "null", "[]", `"x"`, `{"subitems": 7}`, `{"url": {}}`, entry(base+"a/1.xz", "2024-01-01", "")), "a", base + "a/1.xz"},
		{"unknown fields", `{"news": [1], "os_list": [` + entry(base+"a/1.xz", "2024-01-01", `"tooltip": {"x": []},`) + `]}`, "a", base + "a/1.xz"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l, err := oslist.Parse([]byte(test.list))
			if err != nil {
				t.Fatal(err)
			}
			e, err := l.Find(test.name)
			got := e.URL
			if err != nil {
				got = err.Error()
			}
			if err == nil && got != test.want || !strings.Contains(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestDocumentsThatAreNoList(t *testing.T) {
	text := string(oslisttest.Sample)
	for _, test := range []struct{ summary, document, want string }{
		{"nothing", "", "it is empty"},
		{"space", " \n", "it is empty"},
		{"a log-in page", "\n<!DOCTYPE html><html><body>Please sign in</body></html>", "it is a web page"},
		{"truncated", text[:len(text)/2], "it ends in the middle"},
		{"truncated at the very end", strings.TrimSpace(text)[:len(strings.TrimSpace(text))-1], "it ends in the middle"},
		{"something after it", text + "{}", "it is not JSON"},
		{"an array", "[]", "it is no OS list"},
		{"another object", `{"releases": []}`, "it has no os_list"},
		{"an os_list that is none", `{"os_list": {}}`, "its os_list is no array"},
		{"no list", `{"os_list": null}`, "its os_list is no array"},
		{"deeper than any", `{"os_list": ` + strings.Repeat(`[{"subitems": `, 17) + "[]" + strings.Repeat(`}]`, 17) + `}`, "nested more than 16 deep"},
		{"endlessly deep", `{"os_list": ` + strings.Repeat(`[{"subitems": `, 100_000), "it "},
		{"brackets", strings.Repeat("[", 1<<20), "it is no OS list"},
		{"brackets in it", `{"os_list": ` + strings.Repeat("[", 1<<20), "it "},
		{"entries without end", `{"os_list": [` + strings.Repeat("{},", 30_000) + `{}]}`, "more than 20000 entries"},
		{"huge", strings.Repeat(" ", oslist.MaxSize) + "{}", "larger than 4 MiB"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := oslist.Parse([]byte(test.document))
			var format *oslist.FormatError
			if !errors.As(err, &format) || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 300 {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestTextsAreHarmless: a title goes to a terminal.
func TestTextsAreHarmless(t *testing.T) {
	l, err := oslist.Parse([]byte(`{"os_list": [{"name": "a\u001b[2Jb\n\u202ec` + strings.Repeat("x", 500) + `", "url": "` + base + `a/1 \u00e4.xz", "extract_sha256": "` + strings.Repeat("AB", 32) + `"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Find("a")
	if err != nil || !strings.HasPrefix(e.Title, "a[2Jbcxxx") || len(e.Title) != 200 || e.URL != base+"a/1%20%C3%A4.xz" || e.ImageSHA256 != strings.Repeat("ab", 32) {
		t.Errorf("%+v, %v", e, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(oslisttest.Sample)
	f.Add([]byte(listOf(entry(base+"a/1.xz", "2024-01-01", `"subitems": [{}],`), "7", "[[{}]]")))
	f.Add([]byte(listOf(entry(base+"a/1.xz", "2024-01-01", ""), entry("https://x.example.org/a/2.xz", "2024-01-01", ""))))
	f.Add([]byte(`{"os_list": [{"url": "http://[::1]:80/a/b#c"}], "os_list": []}`))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := oslist.Parse(data)
		if err != nil {
			var format *oslist.FormatError
			if !errors.As(err, &format) {
				t.Fatalf("error %#v", err)
			}
			return
		}
		for _, e := range l.Entries() {
			again, err := l.Find(e.Name)
			if err != nil || again.URL != e.URL {
				t.Fatalf("%s is %s and %s, %v", e.Name, e.URL, again.URL, err)
			}
			if !strings.HasPrefix(e.URL, "https://") && !strings.HasPrefix(e.URL, "http://") || strings.ContainsAny(e.URL+e.Title, "\x1b\n\r") || e.SHA256+e.ImageSHA256 == "" || e.Size < 0 {
				t.Fatalf("taken: %+v", e)
			}
		}
		if _, err := l.Find("raspios_lite"); err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Fatal(err)
		}
	})
}
