package spec_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/spec"
)

// armored is an OpenPGP message in ASCII armor, without a checksum (RFC 9580,
// section 6.1, makes it optional).
func armored(kind string, packets []byte) string {
	text := "-----BEGIN PGP " + kind + "-----\n\n"
	for line := range slices.Chunk(packets, 48) {
		text += base64.StdEncoding.EncodeToString(line) + "\n"
	}
	return text + "-----END PGP " + kind + "-----\n"
}

// binaryKey is archiveKey without its armor.
func binaryKey(t testing.TB) []byte {
	t.Helper()
	_, body, _ := strings.Cut(archiveKey, "\n\n")
	body, _, _ = strings.Cut(body, "\n=")
	key, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestDocker(t *testing.T) {
	dir := home(t)
	if err := os.WriteFile(filepath.Join(dir, "docker.gpg"), binaryKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	packages := []spec.PackageRef{{Name: "docker.io"}}
	indented := "      " + strings.ReplaceAll(strings.TrimSpace(archiveKey), "\n", "\n      ")
	for _, test := range []struct {
		summary, content string
		want             spec.Docker
	}{
		{"nothing said", "", spec.Docker{Packages: packages, Source: "base"}},
		{"an empty section", "docker:\n", spec.Docker{Packages: packages, Source: "base"}},
		{"packages without a value", "docker: {packages: , upgrade: true}\n", spec.Docker{Packages: packages, Source: "base", Upgrade: true}},
		{"no Docker", "docker: {packages: []}\n", spec.Docker{Source: "base"}},
		{"no Docker, and nothing to preload", "docker: {packages: [], preload: []}\n", spec.Docker{Source: "base"}},
		{"packages", "docker: {packages: [docker.io=20.10.24+dfsg1-1+b3, 'containerd:armel', libc6:armhf=2:1.0~rc1-1, g++], recommends: true}\n",
			spec.Docker{Packages: []spec.PackageRef{{"docker.io", "20.10.24+dfsg1-1+b3"}, {"containerd:armel", ""}, {"libc6:armhf", "2:1.0~rc1-1"}, {"g++", ""}}, Source: "base", Recommends: true}},
		{"images", "docker: {preload: [alpine, alpine:3.20, ghcr.io/a/b_c:v1, localhost:5000/x, '[::1]:5000/x', a/b:t@sha256:" + strings.Repeat("0a", 32) + ", ./app.tar, ~/layout, " + dir + "/layout/index.json]}\n",
			spec.Docker{Packages: packages, Source: "base", Preload: []string{"alpine", "alpine:3.20", "ghcr.io/a/b_c:v1", "localhost:5000/x", "[::1]:5000/x", "a/b:t@sha256:" + strings.Repeat("0a", 32),
				filepath.Join(dir, "app.tar"), filepath.Join(dir, "layout"), filepath.Join(dir, "layout", "index.json")}}},
		{"sources", "docker:\n  sources:\n    z: {uri: https://archive.example/raspbian/, suites: [bookworm, bookworm/updates], components: [stable, non-free], key: docker.asc}\n" +
			"    own: {uri: 'http://archive.example:81', components: [main]}\n    a:\n      uri: https://archive.example\n      suites: [./]\n      key: |\n" + strings.ReplaceAll(indented, "      ", "        ") + "\n    b: {uri: https://archive.example/b, suites: [stable/], key: docker.gpg}\n",
			spec.Docker{Packages: packages, Source: "base", Sources: []spec.AptSource{
				{Name: "z", URI: "https://archive.example/raspbian", Suites: []string{"bookworm", "bookworm/updates"}, Components: []string{"stable", "non-free"}, Key: archiveKey, KeyFile: filepath.Join(dir, "docker.asc")},
				{Name: "own", URI: "http://archive.example:81", Suites: []string{""}, Components: []string{"main"}},
				{Name: "a", URI: "https://archive.example", Suites: []string{"./"}, Key: strings.TrimSpace(archiveKey)},
				{Name: "b", URI: "https://archive.example/b", Suites: []string{"stable/"}, Key: string(binaryKey(t)), KeyFile: filepath.Join(dir, "docker.gpg")},
			}}},
		{"mirrors", "docker:\n  mirrors:\n    http://archive.example/debian/: http://localhost:3142/archive.example/debian\n    'https://archive.example': 'http://[fd00::1]:3142/'\n",
			spec.Docker{Packages: packages, Source: "base", Mirrors: map[string]string{"http://archive.example/debian": "http://localhost:3142/archive.example/debian", "https://archive.example": "http://[fd00::1]:3142"}}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c, err := load(t, dir, threeLines+test.content)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, c.Docker); diff != "" {
				t.Error(diff)
			}
			if len(c.Unbuilt()) > 0 {
				t.Errorf("not built: %v", c.Unbuilt())
			}
		})
	}
}

// letters are n words.
func letters(n int) (words []string) {
	for i := range n {
		words = append(words, string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	return words
}

func TestDockerProblems(t *testing.T) {
	dir := home(t)
	for _, test := range []struct {
		summary, content string
		want             []string // as in TestProblems
	}{
		{"packages", "docker: {packages: [Docker, docker.io/stable, docker.io=, docker.io=1.0_2, a:B, docker.io, docker.io=1.0, x, ./a.deb]}\n",
			[]string{`4:21: docker.packages[0]: "Docker" is not the name`, `4:29: docker.packages[1]: "docker.io/stable" is no name of a package: files and`, `4:47: docker.packages[2]: "docker.io=" names no version`, `4:59: docker.packages[3]: "1.0_2" is not the version`,
				`4:76: docker.packages[4]: "a:B" is not the name`, `4:92: docker.packages[6]: "docker.io" is there twice`, `4:107: docker.packages[7]: "x" is not the name`, `4:110: docker.packages[8]: "./a.deb" is no name`}},
		{"packages in one text", "docker: {packages: docker.io}\n", []string{"4:20: docker.packages: wants a list, not text"}},
		{"nothing to load images into", "docker: {packages: [], preload: [alpine]}\n", []string{"4:33: docker.preload: `docker.packages` is empty, so there is no Docker"}},
		{"packages that are wrong are not none", "docker: {packages: [A], preload: [alpine]}\n", []string{`4:21: docker.packages[0]: "A" is not`}},
		{"images", "docker: {preload: [Alpine, 'alpine:', 'https://ghcr.io/a/b', alpine, alpine, app.tar, gone.tar.gz, ./gone.tar, ./stacks, a@sha256:" + strings.Repeat("0", 64) + ", '', ~jack/x.tar]}\n",
			[]string{`4:20: docker.preload[0]: "Alpine" is not a container image: its name has no capitals`, `4:28: docker.preload[1]: "alpine:" is not a container image: write one`, `4:39: docker.preload[2]: "https://ghcr.io/a/b" is not a container image: leave out "https://"`,
				`4:70: docker.preload[4]: "alpine" is there twice`, `4:78: docker.preload[5]: "app.tar" would be looked for in a registry`, `4:87: docker.preload[6]: "gone.tar.gz" would be`, `4:100: docker.preload[7]: the image "./gone.tar" does not exist (paths`,
				`4:112: docker.preload[8]: the folder "./stacks" is no OCI layout: it has no index.json`, `4:122: docker.preload[9]: "a@sha256:`, `4:197: docker.preload[10]: "" is not a container image`, `4:201: docker.preload[11]: another user's home`}},
		{"source", "docker: {sources: {Docker: {}, x: , y: {uri: x, typo: 1}}}\n",
			[]string{`4:20: docker.sources.Docker: "Docker" is no name of a source`, "4:32: docker.sources.x.uri: is missing", "4:32: docker.sources.x.components: is missing", "4:40: docker.sources.y.components: is missing", "4:46: docker.sources.y.uri: this is not a URL", "4:49: docker.sources.y.typo: is not a known key"}},
		{"URIs", "docker:\n  sources:\n    a: {components: [m], uri: 'ftp://archive.example'}\n    b: {components: [m], uri: 'https://me:hunter2@archive.example'}\n    c: {components: [m], uri: 'https://archive.example/?token=hunter2'}\n    d: {components: [m], uri: 'file:/srv'}\n    e: {components: [m], uri: 'https:///x'}\n    f: {components: [m], uri: 'https://archive.example/a/../b'}\n    g: {components: [m], uri: \"https://archive.example/\\u009b\"}\n    h: {components: [m], uri: 'https://archive.example/#'}\n",
			[]string{`6:31: docker.sources.a.uri: "ftp:" is not supported`, "7:31: docker.sources.b.uri: a URL with a user or password", "8:31: docker.sources.c.uri: the URL of an archive ends with a folder", "9:31: docker.sources.d.uri: this is not a URL: it begins with http", "10:31: docker.sources.e.uri: this is not a URL: it names no server",
				"11:31: docker.sources.f.uri: the URL's path has", "12:31: docker.sources.g.uri: this is not a URL", "13:31: docker.sources.h.uri: the URL of"}},
		{"suites", "docker:\n  sources:\n    a: {uri: 'http://a', suites: [a, b/]}\n    b: {uri: 'http://a', suites: [b/], components: [main]}\n    c: {uri: 'http://a', suites: [../x, 'a b', x, x], components: [main]}\n    d: {uri: 'http://a', suites: [x], components: []}\n",
			[]string{"6:34: docker.sources.a.suites: a suite that ends in / has no components, and", "7:52: docker.sources.b.components: a suite that ends in / has no components: leave", `8:35: docker.sources.c.suites[0]: "../x" is not a suite`, `8:41: docker.sources.c.suites[1]: "a b" is not`, `8:51: docker.sources.c.suites[3]: "x" is there twice`, "9:51: docker.sources.d.components: is missing"}},
		{"endless components", "docker: {sources: {a: {uri: 'http://a', components: [" + strings.Join(letters(40), ", ") + "]}}}\n",
			[]string{"4:182: docker.sources.a.components[32]: is one too many: at most 32"}},
		{"mirrors", "docker: {mirrors: {'http://a/': 'http://b', 'http://a': 'http://c', b: 'http://c', 'http://d': c, 'http://e': 'https://me:hunter2@c', 'http://f': [x], 'http://g': }}\n",
			[]string{"4:45: docker.mirrors.http://a: is there twice, but for a /", "4:69: docker.mirrors.b: this is not a URL", "4:96: docker.mirrors.http://d: this is not", "4:111: docker.mirrors.http://e: a URL with a user", "4:147: docker.mirrors.http://f: wants text, not a list", "4:152: docker.mirrors.http://g: is empty"}},
		{"exceptions", "cpu:\n  allow:\n    opt/tool: a\n    /: a\n    /*: a\n    /a/*/b: a\n    /a/: a\n    /a/../b: a\n    A b:/x: a\n    /c: ''\n    /d: \"a\\nb\"\n    /e: [a]\n    pkg:/: a\n    /f:\n",
			[]string{`6:5: cpu.allow.opt/tool: "opt/tool" is no file in an image: write an absolute path, or`, `7:5: cpu.allow./: "/" is no file`, "8:5: cpu.allow./*: this would let everything pass", `9:5: cpu.allow./a/*/b: "/a/*/b": a * may stand at the end only`, `10:5: cpu.allow./a/: "/a/" is no file`, "11:5: cpu.allow./a/../b: ",
				`12:5: cpu.allow."A b:/x": "A b" is neither`, "13:9: cpu.allow./c: write in one line why", "14:9: cpu.allow./d: write in one line", "15:9: cpu.allow./e: wants text", "16:5: cpu.allow.pkg:/: ", "17:5: cpu.allow./f: is empty"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := load(t, dir, threeLines+test.content)
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret shows: %v", err)
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), filepath.Join(dir, "cluster.yaml")+":", ""), "\n")
			ok := len(got) == len(test.want)
			for i := range min(len(got), len(test.want)) {
				ok = ok && strings.HasPrefix(got[i], test.want[i])
			}
			if !ok {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}

// TestArchiveKeys has what people take for the key of an archive.
func TestArchiveKeys(t *testing.T) {
	dir := home(t)
	key := binaryKey(t)
	// An old packet header (RFC 9580, section 4.2.2) with one octet of length.
	packet := func(tag byte, content []byte) []byte {
		return append([]byte{0x80 | tag<<2, byte(len(content))}, content...)
	}
	body := key[2 : 2+key[1]]
	for _, test := range []struct{ summary, content, want string }{
		{"armored", archiveKey, ""},
		{"armored on Windows", "\ufeff" + strings.ReplaceAll(archiveKey, "\n", "\r\n"), ""},
		{"two keys after each other", "Our keys:\n" + archiveKey + archiveKey, ""},
		{"binary", string(key), ""},
		{"beside one of a kind that is not known", string(packet(6, []byte{99, 1, 2, 3})) + string(key), ""},
		{"only of a kind that is not known", string(packet(6, []byte{99, 1, 2, 3})), "holds no OpenPGP public key that is known here"},
		{"an empty file", "", "holds no OpenPGP public key"},
		{"a page", "<html>not found</html>", "is no OpenPGP key, or damaged"},
		{"an SSH key", key1, "is no OpenPGP key"},
		{"cut short", string(key[:len(key)-5]), "is no OpenPGP key, or damaged"},
		{"cut short within its armor", archiveKey[:200], "is no OpenPGP key, or damaged"},
		{"a keybox", "\x00\x00\x00\x20\x01\x01\x00\x02KBXf" + strings.Repeat("\x00", 20), "is a keybox of GnuPG"},
		{"a private key", string(packet(5, body)), "holds a PRIVATE key"},
		{"a private subkey", string(key) + string(packet(7, body)), "holds a PRIVATE key"},
		{"an armored private key", armored("PRIVATE KEY BLOCK", packet(5, body)), "holds a PRIVATE key"},
		{"a private key in public armor", armored("PUBLIC KEY BLOCK", packet(5, body)), "holds a PRIVATE key"},
		{"a signature", armored("SIGNATURE", packet(2, body)), "is a signature, not a key"},
		{"a message", armored("MESSAGE", packet(11, body)), "is something of OpenPGP, but no key"},
		{"a message in a key's armor", armored("PUBLIC KEY BLOCK", packet(11, body)), "is not a file of OpenPGP public keys alone"},
		{"endless heads", strings.Repeat("-----BEGIN PGP ", 60_000), "is damaged"},
		{"endless blocks", strings.Repeat(armored("PUBLIC KEY BLOCK", key), 1000), "has more than 64 armored blocks"},
		{"endless", strings.Repeat("x", 1<<20+1), "is larger than 1 MiB"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "a.key"), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := load(t, dir, threeLines+"docker: {sources: {a: {uri: 'http://a', components: [main], key: a.key}}}\n")
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want == "" && c.Docker.Sources[0].Key != test.content:
				t.Errorf("the key is %q", c.Docker.Sources[0].Key)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), `:4:66: docker.sources.a.key: "a.key" `+test.want) || strings.Contains(err.Error(), "\n")):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	for _, test := range []struct{ summary, key, want string }{
		{"no file", "gone.asc", `the key file "gone.asc" does not exist`},
		{"a folder", "stacks", `"stacks" is a folder`},
		{"the text of a private key", "'" + strings.ReplaceAll(armored("PRIVATE KEY BLOCK", []byte("hunter2")), "\n", "\n\n  ") + "'", "holds a PRIVATE key"},
	} {
		_, err := load(t, dir, threeLines+"docker:\n sources:\n  a:\n   uri: http://a\n   components: [main]\n   key: "+test.key+"\n")
		if err == nil || !strings.Contains(err.Error(), "docker.sources.a.key: ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "aHVudGVyMg") {
			t.Errorf("%s: %v, want %q", test.summary, err, test.want)
		}
	}
}

func TestCPU(t *testing.T) {
	dir := home(t)
	c, err := load(t, dir, threeLines+`
cpu:
  allow:
    /opt/tool/run: " never started "
    /opt/tool/*: 1
    libfoo1:/usr/lib/lib*: dispatches
    alpine:3.20:/bin/x: no
    localhost:5000/a:/*: all of it
    ./app.tar:/x: local
`)
	if err != nil {
		t.Fatal(err)
	}
	want := spec.CPU{Allow: []spec.CPUException{
		{"", "/opt/tool/run", "never started"}, {"", "/opt/tool/*", "1"}, {"libfoo1", "/usr/lib/lib*", "dispatches"},
		{"alpine:3.20", "/bin/x", "no"}, {"localhost:5000/a", "/*", "all of it"}, {filepath.Join(dir, "app.tar"), "/x", "local"},
	}}
	if diff := cmp.Diff(want, c.CPU); diff != "" {
		t.Error(diff)
	}
	for _, test := range []struct {
		exception  int
		from, path string
		want       bool
	}{
		{0, "", "/opt/tool/run", true}, {0, "anything", "/opt/tool/run", true}, {0, "", "/opt/tool/run2", false}, {0, "", "/opt/tool", false},
		{1, "", "/opt/tool/a/b", true}, {1, "", "/opt/tool", false}, {1, "", "/opt/tool2", false},
		{2, "libfoo1", "/usr/lib/libx.so", true}, {2, "libfoo2", "/usr/lib/libx.so", false}, {2, "", "/usr/lib/libx.so", false},
		{4, "localhost:5000/a", "/x", true},
	} {
		if got := c.CPU.Allow[test.exception].Covers(test.from, test.path); got != test.want {
			t.Errorf("%+v covers %s of %q: %v", c.CPU.Allow[test.exception], test.path, test.from, got)
		}
	}
}

func TestPackageRef(t *testing.T) {
	for want, ref := range map[string]spec.PackageRef{"docker.io": {Name: "docker.io"}, "libc6:armhf=2.36-9": {Name: "libc6:armhf", Version: "2.36-9"}} {
		if got := ref.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// FuzzKeyring: whatever a file holds, it is taken or refused in one line.
func FuzzKeyring(f *testing.F) {
	key := binaryKey(f)
	for _, seed := range []string{archiveKey, string(key), armored("PUBLIC KEY BLOCK", key), armored("PRIVATE KEY BLOCK", key), "-----BEGIN PGP ", "\x99\x00\x01", "\xc6\xff\xff\xff\xff\xff", "\xc6\xe0\x00", "KBXf"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := spec.CheckKeyring(data); err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q", err)
		}
	})
}
