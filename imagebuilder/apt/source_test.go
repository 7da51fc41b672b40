package apt_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/apt"
)

// describe writes sources, pins and notes for comparison.
func describe(s *apt.Sources) string {
	var b strings.Builder
	for _, x := range s.List {
		fmt.Fprintf(&b, "%s: %s %s", x.From, x.URI, x.Suite)
		if len(x.Components) > 0 {
			fmt.Fprintf(&b, " %s", strings.Join(x.Components, ","))
		}
		if len(x.Architectures) > 0 {
			fmt.Fprintf(&b, " arch=%s", strings.Join(x.Architectures, ","))
		}
		var rings []string
		for _, k := range x.SignedBy {
			name := k.Name
			if k.Data == nil {
				name += "(absent)"
			}
			rings = append(rings, name)
		}
		fmt.Fprintf(&b, " by=%s", strings.Join(rings, ","))
		if len(x.Fingerprints) > 0 {
			fmt.Fprintf(&b, " only=%s", strings.Join(x.Fingerprints, ","))
		}
		for _, f := range []struct {
			name string
			is   *bool
		}{{"check-valid-until", x.CheckValidUntil}, {"check-date", x.CheckDate}} {
			if f.is != nil {
				fmt.Fprintf(&b, " %s=%v", f.name, *f.is)
			}
		}
		if x.ByHash != "" {
			fmt.Fprintf(&b, " by-hash=%s", x.ByHash)
		}
		b.WriteString("\n")
	}
	for _, p := range s.Pins {
		fmt.Fprintf(&b, "pin %s: %s %s %d\n", p.From, p.Kind, p.Match, p.Priority)
	}
	for _, n := range s.Notes {
		fmt.Fprintf(&b, "note %s\n", n)
	}
	return b.String()
}

func TestReadSources(t *testing.T) {
	key := string(fixture(t, "rsa.key.asc"))
	const print1, print2 = "A0DA38D0D76E8B5D638872819165938D90FDDD2E", "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
	tests := []struct {
		summary string
		files   map[string]string
		want    string
	}{
		{"none", nil, ""},
		{"as Raspberry Pi OS bookworm has it", map[string]string{
			"/etc/apt/sources.list": "deb [ arch=armhf ] http://raspbian.example/raspbian/ bookworm main contrib non-free rpi\n" +
				"# Uncomment line below then 'apt-get update' to enable 'apt-get source'\n#deb-src http://raspbian.example/raspbian/ bookworm main contrib non-free rpi\n",
			"/etc/apt/sources.list.d/raspi.list": "deb http://archive.example/debian/ bookworm main\n#deb-src http://archive.example/debian/ bookworm main\n",
			"/etc/apt/trusted.gpg.d/b.gpg":       key,
			"/etc/apt/trusted.gpg.d/a.asc":       key,
			"/etc/apt/trusted.gpg":               key,
		}, `/etc/apt/sources.list:1: http://raspbian.example/raspbian bookworm main,contrib,non-free,rpi arch=armhf by=/etc/apt/trusted.gpg,/etc/apt/trusted.gpg.d/a.asc,/etc/apt/trusted.gpg.d/b.gpg
/etc/apt/sources.list.d/raspi.list:1: http://archive.example/debian bookworm main by=/etc/apt/trusted.gpg,/etc/apt/trusted.gpg.d/a.asc,/etc/apt/trusted.gpg.d/b.gpg
`},
		{"as Raspberry Pi OS trixie has it", map[string]string{
			"/etc/apt/sources.list.d/raspbian.sources":        "Types: deb\nURIs: http://raspbian.example/raspbian/\nSuites: trixie\nComponents: main contrib non-free rpi\nSigned-By: /usr/share/keyrings/raspbian.gpg\n",
			"/etc/apt/sources.list.d/raspi.sources":           "Types: deb\nURIs: http://archive.example/debian/\nArchitectures: armhf\nSuites: trixie\nComponents: main\nSigned-By:\n /usr/share/keyrings/raspi.pgp\n",
			"/etc/apt/sources.list.d/README":                  "deb not read",
			"/usr/share/keyrings/raspbian.gpg":                key,
			"/usr/share/keyrings/raspi.pgp":                   key,
			"/etc/apt/sources.list.d/.hidden.list":            "deb not read",
			"/etc/apt/sources.list.d/raspi.sources.dpkg-dist": "Types: not read",
		}, `/etc/apt/sources.list.d/raspbian.sources:1: http://raspbian.example/raspbian trixie main,contrib,non-free,rpi by=/usr/share/keyrings/raspbian.gpg
/etc/apt/sources.list.d/raspi.sources:1: http://archive.example/debian trixie main arch=armhf by=/usr/share/keyrings/raspi.pgp
`},
		{"options of one line", map[string]string{"/etc/apt/sources.list": strings.Join([]string{
			"deb [arch=armhf,arm64 check-valid-until=no by-hash=no] http://a.example/x s c",
			"deb [ arch+=amd64 check-date=off by-hash=force ]   http://a.example/x   s   c",
			"deb [arch-=armhf] http://a.example/x s c",
			"deb [arch=amd64] http://a.example/x s c",
			`deb [signed-by=/k.gpg,/no.gpg lang=de] http://a.example/x s c`,
			"deb [signed-by=" + strings.ToLower(print1) + "," + print2 + "!] http://a.example/x s c",
			"deb [signed-by=/k.gpg trusted=yes] http://a.example/x s c",
			"deb [trusted=no] http://a.example/x s c",
			"deb [by-hash=maybe allow-insecure=yes valid-until-max=86400 check-valid-until=perhaps] http://a.example/x s c",
			"deb [signed-by=relative.gpg] http://a.example/x s c",
			"\tdeb http://a.example/$(ARCH)/x s/$(ARCH) c # a comment",
			`deb "http://a.example/with%20space" s c`,
		}, "\n"), "/k.gpg": key}, `/etc/apt/sources.list:1: http://a.example/x s c arch=armhf,arm64 by= check-valid-until=false by-hash=no
/etc/apt/sources.list:2: http://a.example/x s c by= check-date=false by-hash=force
/etc/apt/sources.list:5: http://a.example/x s c by=/k.gpg,/no.gpg(absent)
/etc/apt/sources.list:6: http://a.example/x s c by= only=` + print1 + `,` + print2 + `!
/etc/apt/sources.list:9: http://a.example/x s c by=
/etc/apt/sources.list:10: http://a.example/x s c by=
/etc/apt/sources.list:11: http://a.example/armhf/x s/armhf c by=
/etc/apt/sources.list:12: http://a.example/with space s c by=
note /etc/apt/sources.list:3: its options leave no packages for armhf: it is left out
note /etc/apt/sources.list:4: the source is for amd64, and the image for armhf: it is left out
note /etc/apt/sources.list:5: the keyring /no.gpg: it is not there: none of its keys counts
note /etc/apt/sources.list:7: the source is trusted=yes: nothing guards what comes from it, so hatchery leaves it out; have it signed, and name its key by signed-by
note /etc/apt/sources.list:8: the source is trusted=no: apt does not install from it unasked, and hatchery leaves it out
note /etc/apt/sources.list:9: check-valid-until=perhaps is neither yes nor no, and is not heeded
note /etc/apt/sources.list:9: by-hash=maybe is none of yes, no and force, and is not heeded
note /etc/apt/sources.list:9: allow-insecure is not heeded: what no good signature guards is not used
note /etc/apt/sources.list:9: valid-until-max is not supported, and is not heeded
note /etc/apt/sources.list:10: signed-by names "relative.gpg", which is neither the path of a keyring nor a fingerprint: no key counts for this source by it
`},
		{"what is no line", map[string]string{"/etc/apt/sources.list": strings.Join([]string{
			"deb",
			"deb http://a.example",
			"deb http://a.example s",
			"deb http://a.example ./",
			"deb http://a.example ./ main",
			"deb [arch=armhf http://a.example s c",
			"deb [arch] http://a.example s c",
			`deb "http://a.example s c`,
			"rpm http://a.example s c",
			"deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - Official]/ bookworm main",
			"deb file:/srv/x s c",
			"deb http:///x s c",
			"deb nonsense s c",
			"deb http://user:secret@a.example/x?y s c",
			"deb http://a.example/x ../../secret c",
			"deb-src http://a.example/x s c",
			"deb [] http://a.example/fine s c",
		}, "\n")}, `/etc/apt/sources.list:4: http://a.example ./ by=
/etc/apt/sources.list:5: http://a.example ./ by=
/etc/apt/sources.list:17: http://a.example/fine s c by=
note /etc/apt/sources.list:1: it is no source: a source is ` + "`deb URI SUITE COMPONENT…`" + `; it is left out
note /etc/apt/sources.list:2: it is no source: a source is ` + "`deb URI SUITE COMPONENT…`" + `; it is left out
note /etc/apt/sources.list:6: it is no source: no ] ends its options; it is left out
note /etc/apt/sources.list:7: it is no source: "arch" is no option=value; it is left out
note /etc/apt/sources.list:8: it is no source: a " is missing; it is left out
note /etc/apt/sources.list:3: no component is named, and the suite is no folder with a slash at its end: the source is left out
note /etc/apt/sources.list:5: the suite ./ is a folder and has no components: main are not heeded
note /etc/apt/sources.list:9: sources of the type "rpm" are not supported: this one is left out
note /etc/apt/sources.list:10: cdrom:[Debian GNU/Linux 12 _Bookworm_ - Official]/: archives are reached by http and https, and cdrom: is not supported: the source is left out
note /etc/apt/sources.list:11: file:/srv/x: archives are reached by http and https, and file: is not supported: the source is left out
note /etc/apt/sources.list:12: "http:///x" names no host: the source is left out
note /etc/apt/sources.list:13: "nonsense" is no URI: the source is left out
note /etc/apt/sources.list:14: "http://a.example/x" has a query or a fragment: the source is left out
note /etc/apt/sources.list:15: the suite ../../secret leads out of the archive: the source is left out
`},
		{"paragraphs", map[string]string{"/etc/apt/sources.list.d/x.sources": `# several of everything
Types: deb deb-src
URIs: http://a.example/x http://b.example/y/
Suites: s s-updates
Components: main
# a comment
 contrib
Check-Valid-Until: no
Signed-By: /k.gpg
 ` + print1 + `

Enabled: no
Types: deb
URIs: http://off.example
Suites: s
Components: c

Types: deb
URIs: http://c.example
Suites: ./
By-Hash: force
X-Repolib-Name: whatever

Types: deb-src
URIs: http://src.example
Suites: s
Components: c

Types: deb
Suites: s
Components: c

Types: deb
URIs: http://d.example
Suites: s
Components: c
Architectures: amd64 i386
Trusted: yes

Types: deb
URIs: http://e.example
Suites: s
Components: c
Enabled: yes
Trusted: yes

this is no field
Types: deb
URIs: http://after.example
Suites: s
Components: c
`, "/k.gpg": key}, `/etc/apt/sources.list.d/x.sources:2: http://a.example/x s main,contrib by=/k.gpg only=` + print1 + ` check-valid-until=false
/etc/apt/sources.list.d/x.sources:2: http://a.example/x s-updates main,contrib by=/k.gpg only=` + print1 + ` check-valid-until=false
/etc/apt/sources.list.d/x.sources:2: http://b.example/y s main,contrib by=/k.gpg only=` + print1 + ` check-valid-until=false
/etc/apt/sources.list.d/x.sources:2: http://b.example/y s-updates main,contrib by=/k.gpg only=` + print1 + ` check-valid-until=false
/etc/apt/sources.list.d/x.sources:18: http://c.example ./ by= by-hash=force
note /etc/apt/sources.list.d/x.sources:29: it is no source: it has no URIs; it is left out
note /etc/apt/sources.list.d/x.sources:47: it is no source: "this is no field" is no field; it and what follows in this file are left out
note /etc/apt/sources.list.d/x.sources:33: the source is for amd64, i386, and the image for armhf: it is left out
note /etc/apt/sources.list.d/x.sources:40: the source is trusted=yes: nothing guards what comes from it, so hatchery leaves it out; have it signed, and name its key by signed-by
`},
		{"a key in the paragraph", map[string]string{"/etc/apt/sources.list.d/x.sources": "Types: deb\nURIs: http://a.example\nSuites: s\nComponents: c\nSigned-By:\n" + embedded(key) + "\n"},
			"/etc/apt/sources.list.d/x.sources:1: http://a.example s c by=/etc/apt/sources.list.d/x.sources:1 (Signed-By)\n"},
		{"files that apt does not read", map[string]string{"/etc/apt/sources.list.d/a b.list": "deb http://a.example s c", "/etc/apt/preferences.d/a.bak": "nonsense"},
			"note /etc/apt/sources.list.d/a b.list: apt does not read a file of this name, and so hatchery does not\n"},
		{"keyrings that are none", map[string]string{"/etc/apt/trusted.gpg": "\x00\x00\x00\x20\x01\x01\x00\x02KBXf and so on", "/etc/apt/trusted.gpg.d/x.gpg": "", "/etc/apt/trusted.gpg.d/y.asc": "hello",
			"/etc/apt/sources.list": "deb [signed-by=/k.gpg] http://a.example s c", "/k.gpg": "\n"},
			`/etc/apt/sources.list:1: http://a.example s c by=/k.gpg(absent)
note /etc/apt/trusted.gpg: it is a GnuPG keybox, which apt does not read either (gpg --export makes a keyring): its keys do not count
note /etc/apt/trusted.gpg.d/x.gpg: it is empty: its keys do not count
note /etc/apt/trusted.gpg.d/y.asc: it is no OpenPGP keyring, neither binary nor armored: its keys do not count
note /etc/apt/sources.list:1: the keyring /k.gpg: it is empty: none of its keys counts
`},
		{"preferences", map[string]string{
			"/etc/apt/preferences": `Explanation: all of it
Package: *
Pin: release o=Raspbian,n=bookworm
Pin-Priority: 990

Package: docker.io
Pin: version 20.10*
Pin-Priority: 1001

Package: *
Pin: origin "archive.example"
Pin-Priority: -10
`,
			"/etc/apt/preferences.d/b":        "Package: *\nPin: release bookworm-backports\nPin-Priority: 100\n",
			"/etc/apt/preferences.d/a.pref":   "Package: *\nPin: release a=stable, v=12*\nPin-Priority: 1\n",
			"/etc/apt/preferences.d/bad.pref": "Package: *\nPin: release z=1\nPin-Priority: 1\n\nPackage: *\nPin: version 1\nPin-Priority: 1\n\nPackage: *\nPin: release a=x\nPin-Priority: high\n\nPackage: *\nPin: release a=x\nPin-Priority: 0\n\nPackage: *\nPin: release\nPin-Priority: 1\n\nPackage: *\nPin: release a=[\nPin-Priority: 1\n\nnonsense\n",
		}, `pin /etc/apt/preferences:1: release o=Raspbian,n=bookworm 990
pin /etc/apt/preferences:10: origin archive.example -10
pin /etc/apt/preferences.d/a.pref:1: release a=stable, v=12* 1
pin /etc/apt/preferences.d/b:1: release bookworm-backports 100
note /etc/apt/preferences:6: a pin of single packages (docker.io) is not supported: it is not heeded
note /etc/apt/preferences.d/bad.pref:1: "z=1" is no condition of a release (a=, c=, v=, o=, l=, n=, b=): it is not heeded
note /etc/apt/preferences.d/bad.pref:5: a pin by "version 1" is not supported; by release and by origin are: it is not heeded
note /etc/apt/preferences.d/bad.pref:9: its Pin-Priority "high" is no number: it is not heeded
note /etc/apt/preferences.d/bad.pref:13: its Pin-Priority is 0, which means nothing (apt_preferences(5)): it is not heeded
note /etc/apt/preferences.d/bad.pref:17: its pin says nothing of the release: it is not heeded
note /etc/apt/preferences.d/bad.pref:21: "[" is no pattern: it is not heeded
note /etc/apt/preferences.d/bad.pref:25: it is no preference: "nonsense" is no field; it and what follows in this file are not heeded
`},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s, err := apt.ReadSources(image(test.files), "armhf")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, describe(s)); diff != "" {
				t.Errorf("other sources (- wanted, + got):\n%s", diff)
			}
		})
	}
}

// embedded writes a key as the value of a field.
func embedded(key string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(key), "\n") {
		if line == "" {
			line = "."
		}
		b.WriteString(" " + line + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// TestEmbeddedKey: a key that stands in the paragraph counts.
func TestEmbeddedKey(t *testing.T) {
	s, err := apt.ReadSources(image(map[string]string{"/etc/apt/sources.list.d/x.sources": "Types: deb\nURIs: http://a.example\nSuites: s\nComponents: c\nSigned-By:\n" + embedded(string(fixture(t, "rsa.key.asc"))) + "\n"}), "armhf")
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, "rsa.inrelease", s.List[0], theDay); err != nil {
		t.Error(err)
	}
}

// broken is a root file system that cannot be read.
type broken struct{ apt.Root }

var errBroken = errors.New("input/output error")

func (broken) ReadFile(string) ([]byte, error) { return nil, errBroken }

func TestReadSourcesFails(t *testing.T) {
	if _, err := apt.ReadSources(broken{image(nil)}, "armhf"); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "cannot read the image's APT sources") {
		t.Errorf("got %v", err)
	}
}

func TestParseExtra(t *testing.T) {
	key := fixture(t, "rsa.key.asc")
	own, err := apt.ReadSources(image(map[string]string{"/etc/apt/trusted.gpg.d/x.asc": string(key)}), "armhf")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		summary string
		extra   apt.Extra
		image   *apt.Sources
		want    string
		says    string
	}{
		{"with a key", apt.Extra{URI: "https://a.example/linux/raspbian/", Suites: []string{"bookworm"}, Components: []string{"stable"}, Key: key, KeyName: "docker.asc"}, own,
			"cluster.yaml: sources[0]: https://a.example/linux/raspbian bookworm stable by=docker.asc\n", ""},
		{"with the image's keys", apt.Extra{URI: "https://a.example/x", Suites: []string{"s", "t"}, Components: []string{"c"}}, own,
			"cluster.yaml: sources[0]: https://a.example/x s c by=/etc/apt/trusted.gpg.d/x.asc\ncluster.yaml: sources[0]: https://a.example/x t c by=/etc/apt/trusted.gpg.d/x.asc\n", ""},
		{"a folder", apt.Extra{URI: "https://a.example/x", Suites: []string{"./"}, Key: key}, nil, "cluster.yaml: sources[0]: https://a.example/x ./ by=its key\n", ""},
		{"for another architecture", apt.Extra{URI: "https://a.example/x", Suites: []string{"s"}, Components: []string{"c"}, Architectures: []string{"arm64"}, Key: key}, nil, "", ""},
		{"for two", apt.Extra{URI: "https://a.example/x", Suites: []string{"s"}, Components: []string{"c"}, Architectures: []string{"arm64", "armhf"}, Key: key}, nil,
			"cluster.yaml: sources[0]: https://a.example/x s c arch=arm64,armhf by=its key\n", ""},
		{"no suite", apt.Extra{URI: "https://a.example/x", Key: key}, nil, "", "cluster.yaml: sources[0]: the source names no suite"},
		{"no component", apt.Extra{URI: "https://a.example/x", Suites: []string{"s"}, Key: key}, nil, "", "no component is named"},
		{"no URI", apt.Extra{URI: "a.example/x", Suites: []string{"s"}, Components: []string{"c"}, Key: key}, nil, "", `"a.example/x" is no URI`},
		{"no key that is one", apt.Extra{URI: "https://a.example/x", Suites: []string{"s"}, Components: []string{"c"}, Key: []byte("hello"), KeyName: "docker.asc"}, nil, "",
			"docker.asc: it is no OpenPGP keyring, neither binary nor armored"},
		{"a broken key", apt.Extra{URI: "https://a.example/x", Suites: []string{"s"}, Components: []string{"c"}, Key: []byte{0x99, 0xff, 0xff}, KeyName: "docker.asc"}, nil, "",
			"docker.asc has no OpenPGP key in it that can be used: the keyring docker.asc: a key cannot be read"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			test.extra.From = "cluster.yaml: sources[0]"
			got, err := apt.ParseExtra(test.extra, test.image, "armhf")
			if test.says != "" {
				var input *apt.InputError
				if err == nil || !strings.Contains(err.Error(), test.says) || !errors.As(err, &input) {
					t.Errorf("got %v, want an InputError %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, describe(&apt.Sources{List: got})); diff != "" {
				t.Errorf("other sources (- wanted, + got):\n%s", diff)
			}
			for _, s := range got {
				if !s.Own {
					t.Error("it is not the user's own")
				}
			}
		})
	}
}
