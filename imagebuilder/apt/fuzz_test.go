package apt_test

import (
	"net/url"
	"strings"
	"testing"

	"hatchery/imagebuilder/apt"
)

// checkSources looks at what any file of sources may come to.
func checkSources(t *testing.T, name, text string) {
	s, err := apt.ReadSources(image(map[string]string{name: text, "/k.gpg": "-----BEGIN PGP PUBLIC KEY BLOCK-----"}), "armhf")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range s.List {
		u, err := url.Parse(x.URI)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			t.Errorf("a source of the URI %q", x.URI)
		}
		if strings.HasSuffix(x.Suite, "/") == (len(x.Components) > 0) {
			t.Errorf("a source of the suite %q with the components %q", x.Suite, x.Components)
		}
		if x.Suite == ".." || strings.HasPrefix(x.Suite, "../") || strings.Contains(x.Suite, "/../") || strings.HasSuffix(x.Suite, "/..") {
			t.Errorf("a source of the suite %q", x.Suite)
		}
		if !strings.HasPrefix(x.From, name+":") {
			t.Errorf("a source from %q", x.From)
		}
	}
	for _, n := range s.Notes {
		if n.From == "" || n.Text == "" {
			t.Errorf("an empty note: %+v", n)
		}
	}
}

func FuzzOneLineSources(f *testing.F) {
	for _, seed := range []string{
		"deb [arch=armhf,arm64 signed-by=/k.gpg check-valid-until=no] http://a.example/x s main contrib # comment\n",
		"deb cdrom:[a b # c]/ s c\ndeb \"http://a.example/%20\" s/$(ARCH) c\ndeb [trusted=yes arch-=armhf] http://a.example ./",
		"deb [ by-hash=force arch+=amd64 ] https://a.example:80/x//  stable/updates  main\ndeb-src x y z\n[\"%",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { checkSources(t, "/etc/apt/sources.list", text) })
}

func FuzzDeb822Sources(f *testing.F) {
	for _, seed := range []string{
		"Types: deb deb-src\nURIs: http://a.example/x http://b.example\nSuites: s s-updates\nComponents: main\nSigned-By: /k.gpg\n\nEnabled: no\n",
		"Types: deb\nURIs: http://a.example\nSuites: ./\nArchitectures: armhf\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n -----END PGP PUBLIC KEY BLOCK-----\n",
		"# comment\nTypes: deb\nURIs: file:/x\nSuites: s\nComponents: c\nTrusted: yes\nBy-Hash: maybe\n broken",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { checkSources(t, "/etc/apt/sources.list.d/x.sources", text) })
}

func FuzzRelease(f *testing.F) {
	f.Add(fixture(f, "Release"))
	f.Add([]byte("Origin: x\nDate: Mon,  1 Jan 2024 00:00:00 +0000\nValid-Until: Mon, 01 Jan 2024 00:00:00 GMT\nAcquire-By-Hash: yes\nSHA512:\n " + strings.Repeat("0", 128) + " 1 Packages\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := apt.ParseRelease(data); err != nil && !is[*apt.ReleaseError](err) {
			t.Errorf("got %v, want a ReleaseError", err)
		}
	})
}

func FuzzPreferences(f *testing.F) {
	for _, seed := range []string{
		"Package: *\nPin: release o=Raspbian,n=bookworm,a=/x/\nPin-Priority: 990\n\nPackage: a b\nPin: version 1*\nPin-Priority: -1\n",
		"Explanation: x\nPackage: *\nPin: origin \"\"\nPin-Priority: 1\n\nPackage: *\nPin: release 12\nPin-Priority: 99999999999999999999\n",
	} {
		f.Add([]byte(seed))
	}
	index := apt.Index{URI: "http://a.example/x", Origin: "Raspbian", Codename: "bookworm", Version: "12"}
	f.Fuzz(func(t *testing.T, data []byte) {
		pins, _ := apt.ParsePreferences(data)
		for _, p := range pins {
			if p.Priority == 0 || p.From == "" || p.Kind != "release" && p.Kind != "origin" {
				t.Errorf("a pin %+v", p)
			}
		}
		apt.Pinned(&index, pins)
	})
}
