package release_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"hatchery/imagebuilder/release"
)

func TestAssume(t *testing.T) {
	osRelease := func(text string) func(fstest.MapFS) { return put("usr/lib/os-release", text) }
	for _, test := range []struct {
		summary string
		tree    fstest.MapFS
		name    string
		boot    string
		problem string // that Edits reports; "" for none
		err     string
	}{
		{summary: "what it is anyhow", tree: trixie(), name: "trixie", boot: "/boot/firmware"},
		{
			summary: "a release to come", tree: trixie(osRelease("ID=raspbian\nVERSION_CODENAME=forky\nPRETTY_NAME=\"Raspbian GNU/Linux 14 (forky)\"\n")),
			name: "trixie", boot: "/boot/firmware", problem: "the image is forky (Raspbian GNU/Linux 14 (forky)), taken for trixie as you asked",
		},
		{summary: "another release", tree: bullseye(), name: "bookworm", boot: "/boot/firmware", problem: "the image is bullseye (Raspbian GNU/Linux 11 (bullseye)), taken for bookworm"},
		{summary: "a release before", tree: bullseye(osRelease("ID=raspbian\nVERSION_CODENAME=buster\n")), name: "bullseye", boot: "/boot", problem: "the image is buster, taken for bullseye"},
		{summary: "another system", tree: bookworm(osRelease("ID=ubuntu\nVERSION_CODENAME=noble\nPRETTY_NAME=\"Ubuntu 24.04\"\n")), name: "trixie", boot: "/boot/firmware", problem: "the image is noble (Ubuntu 24.04), taken for trixie"},
		{summary: "a derivative", tree: bookworm(put("var/lib/dietpi/x", "")), name: "bookworm", boot: "/boot/firmware", problem: "taken for bookworm"},
		{summary: "one that does not say", tree: bookworm(remove("usr/lib/os-release", "etc/os-release")), name: "bookworm", boot: "/boot/firmware", problem: "the image is an unnamed release, taken for bookworm"},
		{summary: "no such release", tree: bookworm(), name: "woody", err: `hatchery knows no release "woody"; it knows bullseye, bookworm, trixie`},
		{summary: "none", tree: bookworm(), name: "", err: `hatchery knows no release ""`},
		{summary: "by its number", tree: bookworm(), name: "12", err: `no release "12"`},
	} {
		root := release.FromFS(test.tree)
		r, err := release.Assume(root, test.name)
		if test.err != "" {
			var unknown *release.AssumeError
			if !errors.As(err, &unknown) || !strings.Contains(err.Error(), test.err) || unknown.Name != test.name {
				t.Errorf("%s: error %v, want one with %q", test.summary, err, test.err)
			}
			continue
		}
		if err != nil || r.Codename != test.name || r.BootPath != test.boot {
			t.Errorf("%s: %+v, %v", test.summary, r, err)
			continue
		}
		e, err := r.Edits(root, target())
		if err != nil {
			t.Errorf("%s: %v", test.summary, err)
			continue
		}
		told := slices.IndexFunc(e.Problems, func(p release.Problem) bool { return strings.Contains(p.Message, "as you asked") })
		switch {
		case test.problem == "" && told >= 0:
			t.Errorf("%s: %v", test.summary, e.Problems)
		case test.problem != "" && (told < 0 || e.Problems[told].Fatal || !strings.Contains(e.Problems[told].Message, test.problem)):
			t.Errorf("%s: problems %v, want a warning with %q", test.summary, e.Problems, test.problem)
		}
	}
}

// TestDerivatives: what calls itself Debian and is not made as Raspberry Pi OS
// is refused by its own name.
func TestDerivatives(t *testing.T) {
	for path, want := range map[string]string{
		"var/lib/dietpi/dietpi-software/installed": "DietPi Raspbian GNU/Linux 12 (bookworm)",
		"etc/armbian-release":                      "Armbian Raspbian GNU/Linux 12 (bookworm)",
	} {
		_, err := release.Detect(release.FromFS(bookworm(put(path, ""))))
		var unknown *release.UnknownError
		if !errors.As(err, &unknown) || unknown.Name != want || !strings.Contains(err.Error(), "--assume-release") {
			t.Errorf("%s: error %v", path, err)
		}
	}
}
