package overlays_test

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"hatchery/overlays"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// hostKey stands for an OpenSSH private key where nothing reads it.
const hostKey = "-----BEGIN OPENSSH PRIVATE KEY-----\nhost key of %s\n-----END OPENSSH PRIVATE KEY-----\n"

// exampleData is a target of the cluster that the tests have in common.
func exampleData(name string, edit ...func(*overlays.Data)) overlays.Data {
	hosts := []overlays.Host{
		{Name: "controller", Slot: 0, Hostname: "hammond"},
		{Name: "p1", Slot: 1, Hostname: "oneil"},
		{Name: "p2", Slot: 2, Hostname: "carter"},
		{Name: "p17", Slot: 17, Hostname: "p17"},
	}
	d := overlays.Data{
		Cluster: "homelab", Domain: "chappa.example", Name: name, Hosts: hosts,
		User: overlays.User{Name: "pi"}, Network: overlays.CNAT, Release: "bookworm",
		Timezone: "Europe/London", Locale: "en_GB.UTF-8",
		Docker: overlays.Docker{Packages: []string{"docker.io"}, Version: "20.10.24", Preload: true},
		Epoch:  time.Unix(1700000000, 0).UTC(),
		Identity: overlays.Identity{
			Generation: 1,
			Key:        []byte("-----BEGIN PRIVATE KEY-----\nkey of " + name + "\n-----END PRIVATE KEY-----\n"),
			// Templates must not take PEM's bytes for a list of numbers.
			Certificate:   []byte("-----BEGIN CERTIFICATE-----\n" + name + "\n-----END CERTIFICATE-----\n"),
			CA:            []byte("-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n"),
			HostKey:       fmt.Appendf(nil, hostKey, name),
			HostKeyPublic: "ssh-ed25519 AAAA " + name,
		},
	}
	for i, h := range hosts {
		if h.Name == name {
			d.Slot, d.Hostname = h.Slot, h.Hostname
			d.MachineID = strings.Repeat(fmt.Sprintf("%02x", i+1), 16)
		}
	}
	if d.Slot != 0 {
		d.Model, d.Root, d.Labels = "zero", "card", map[string]string{"disk": "ssd"}
	}
	for _, f := range edit {
		f(&d)
	}
	return d
}

func bridged(d *overlays.Data) { d.Network = overlays.CBRIDGE }

func static(d *overlays.Data) {
	d.Address, d.Gateway = netip.MustParsePrefix("192.168.42.10/24"), netip.MustParseAddr("192.168.42.1")
}

func wifi(d *overlays.Data) {
	d.Wifi = &overlays.Wifi{SSID: "Café; 5", PSK: ` back\slash "quote" `, Country: "GB"}
}

// bullseye has dhcpcd for NetworkManager, and the oldest systemd and sshd.
func bullseye(d *overlays.Data) { d.Release = "bullseye" }

// trixie has its locale elsewhere.
func trixie(d *overlays.Data) { d.Release = "trixie" }

func noDocker(d *overlays.Data) { d.Docker = overlays.Docker{} }

// engine has Docker's own packages, of a version.
func engine(version string) func(*overlays.Data) {
	return func(d *overlays.Data) {
		d.Docker = overlays.Docker{Packages: []string{"docker-ce", "docker-ce-cli", "containerd.io"}, Version: version}
	}
}

func password(d *overlays.Data) { d.User.Password, d.User.SudoPassword = true, true }

// variants are the targets of which every file is compared.
var variants = []struct {
	name string
	data overlays.Data
}{
	{"controller-cnat", exampleData("controller")},
	{"controller-cnat-static", exampleData("controller", static, password)},
	{"controller-cnat-wifi", exampleData("controller", static, wifi)},
	{"controller-cbridge", exampleData("controller", bridged)},
	{"controller-cbridge-static", exampleData("controller", bridged, static, wifi)},
	{"controller-bullseye-cnat-static", exampleData("controller", bullseye, static, password)},
	{"controller-bullseye-cbridge-wifi", exampleData("controller", bullseye, bridged, wifi)},
	{"controller-bullseye-cbridge", exampleData("controller", bullseye, bridged)},
	{"node-bullseye", exampleData("p1", bullseye)},
	{"controller-trixie-cnat-wifi", exampleData("controller", trixie, wifi)},
	{"node-cnat", exampleData("p1")},
	{"node-engine-29", exampleData("p1", engine("29.1.3"))},
	{"node-no-docker", exampleData("p1", noDocker)},
	{"controller-no-docker", exampleData("controller", noDocker)},
	{"controller-engine-28", exampleData("controller", engine("28.5.2"))},
	{"node-cbridge", exampleData("p17", bridged, func(d *overlays.Data) {
		d.DNS = []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2620:fe::fe")}
	})},
}

func mustRender(t testing.TB, data overlays.Data) []overlays.Entry {
	t.Helper()
	entries, err := overlays.Render(data, overlays.Trees(data.Controller())...)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// describe writes entries as text: a listing, then the text of every file that
// is no secret.
func describe(entries []overlays.Entry) []byte {
	var out, text bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&out, "%s %d:%d %s", e.Mode, e.UID, e.GID, e.Path)
		switch {
		case e.Mode&fs.ModeSymlink != 0:
			fmt.Fprintf(&out, " -> %s", e.Target)
		case e.Mode.IsRegular():
			fmt.Fprintf(&out, " %d bytes sha256 %.12x", len(e.Content), sha256.Sum256(e.Content))
		}
		if e.Secret {
			out.WriteString(" secret")
		}
		if e.KeepExisting {
			out.WriteString(" keep")
		}
		fmt.Fprintf(&out, " (%s)\n", e.From)
		if e.Mode.IsRegular() && !e.Secret && utf8.Valid(e.Content) {
			fmt.Fprintf(&text, "\n-- %s --\n%s", e.Path, e.Content)
		}
	}
	out.Write(text.Bytes())
	return out.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

func TestTrees(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			golden(t, v.name, describe(mustRender(t, v.data)))
		})
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	for _, v := range variants {
		a, b := mustRender(t, v.data), mustRender(t, v.data)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s: %s", v.name, diff)
		}
		if !slices.IsSortedFunc(a, func(x, y overlays.Entry) int { return strings.Compare(x.Path, y.Path) }) {
			t.Errorf("%s: not sorted", v.name)
		}
	}
}

// TestSecretsAreMarked looks for the secrets of the data in what is not
// marked as secret.
func TestSecretsAreMarked(t *testing.T) {
	for _, v := range variants {
		secrets := []string{string(v.data.Identity.Key), string(v.data.Identity.HostKey), string(v.data.Identity.Certificate)}
		if v.data.Wifi != nil {
			secrets = append(secrets, "quote")
		}
		found := 0
		for _, e := range mustRender(t, v.data) {
			for _, s := range secrets {
				if !bytes.Contains(e.Content, []byte(s)) {
					continue
				}
				found++
				if !e.Secret || e.Mode.Perm()&0o077 != 0 {
					t.Errorf("%s: %s (%s) holds a secret, and is marked %v", v.name, e.Path, e.Mode, e.Secret)
				}
			}
		}
		if found != len(secrets) {
			t.Errorf("%s: %d of %d secrets laid", v.name, found, len(secrets))
		}
	}
}

// TestNothingOfTheIdentityOnTheBootPartition: anybody who holds the card can
// read that, and it has no owners.
func TestNothingOfTheIdentityOnTheBootPartition(t *testing.T) {
	for _, v := range variants {
		for _, e := range mustRender(t, v.data) {
			if strings.HasPrefix(e.Path, "/boot") {
				t.Errorf("%s: %s", v.name, e.Path)
			}
		}
	}
}

// TestLinksPointToWhatIsLaid checks that a unit that is enabled is there,
// where it is one of ours.
func TestLinksPointToWhatIsLaid(t *testing.T) {
	for _, v := range variants {
		entries := mustRender(t, v.data)
		laid := map[string]bool{}
		for _, e := range entries {
			laid[e.Path] = true
		}
		for _, e := range entries {
			if strings.Contains(e.Target, "hatchery") && !strings.HasPrefix(e.Target, "/run/") && !laid[e.Target] {
				t.Errorf("%s: %s points to %s, which is not there", v.name, e.Path, e.Target)
			}
		}
	}
}

func TestRenderRules(t *testing.T) {
	data := exampleData("p1")
	for _, test := range []struct {
		summary string
		trees   []fstest.MapFS
		want    string // the listing; or
		err     string // a regular expression
	}{
		{
			summary: "defaults, executable bit, set-user-ID bit dropped",
			trees: []fstest.MapFS{{
				"etc/a": {Data: []byte("a"), Mode: 0o600}, "usr/b": {Data: []byte("b"), Mode: 0o711 | fs.ModeSetuid},
			}},
			want: "-rw-r--r-- 0:0 /etc/a (t0/etc/a)\n-rwxr-xr-x 0:0 /usr/b (t0/usr/b)\n",
		},
		{
			summary: "modes: bits, owner, secret, folders, names with blanks",
			trees: []fstest.MapFS{{
				"a": {Data: []byte("a")}, "with blank": {Data: []byte("b")},
				"modes": {Data: []byte("# comment\n\na 6755 1000 50 secret\n\"with blank\" 0600 1 2\nvar/x/ 1777 3 4\n")},
			}},
			want: "ugrwxr-xr-x 1000:50 /a secret (t0/a)\ndtrwxrwxrwx 3:4 /var/x (t0/modes:5)\n-rw------- 1:2 /with blank (t0/with blank)\n",
		},
		{
			summary: "a template that renders to blanks lays nothing, and its mode is no error",
			trees: []fstest.MapFS{{
				"a.tmpl": {Data: []byte("{{if .Controller}}x{{end}}\n \t\n")}, "modes": {Data: []byte("a 0600 0 0")},
				"b": {Data: []byte("\n")},
			}},
			want: "-rw-r--r-- 0:0 /b (t0/b)\n",
		},
		{
			summary: "templates, and a links file that is one",
			trees: []fstest.MapFS{{
				"a.tmpl": {Data: []byte("{{.Hostname}}")}, "links.tmpl": {Data: []byte("l -> /x/{{.Hostname}}\n")},
			}},
			want: "-rw-r--r-- 0:0 /a (t0/a.tmpl)\nLrwxrwxrwx 0:0 /l -> /x/oneil (t0/links.tmpl:1)\n",
		},
		{
			summary: "real links are kept, dangling or not",
			trees:   []fstest.MapFS{{"l": {Data: []byte("../nowhere"), Mode: fs.ModeSymlink | 0o777}}},
			want:    "Lrwxrwxrwx 0:0 /l -> ../nowhere (t0/l)\n",
		},
		{
			summary: "later trees replace",
			trees: []fstest.MapFS{
				{"a": {Data: []byte("1")}, "b": {Data: []byte("1")}, "modes": {Data: []byte("a 0600 5 5")}},
				{"a": {Data: []byte("2")}, "links": {Data: []byte("b -> c")}},
			},
			want: "-rw-r--r-- 0:0 /a (t1/a)\nLrwxrwxrwx 0:0 /b -> c (t1/links:1)\n",
		},
		{
			summary: "lib is usr/lib, so the later one wins whatever it calls it",
			trees:   []fstest.MapFS{{"usr/lib/x": {Data: []byte("1")}}, {"lib/x": {Data: []byte("2")}}},
			want:    "-rw-r--r-- 0:0 /usr/lib/x (t1/lib/x)\n",
		},
		{
			summary: "an empty folder is made, an existing one left alone",
			trees:   []fstest.MapFS{{"srv/x": {Mode: fs.ModeDir | 0o700}}},
			want:    "drwxr-xr-x 0:0 /srv/x keep (t0/srv/x)\n",
		},
		{
			summary: "an empty folder does not undo the mode that an earlier tree gave",
			trees:   []fstest.MapFS{{"modes": {Data: []byte("srv/ 0700 1 1")}}, {"srv": {Mode: fs.ModeDir}}},
			want:    "drwx------ 1:1 /srv (t0/modes:1)\n",
		},
		{summary: "unknown field", trees: []fstest.MapFS{{"etc/a.tmpl": {Data: []byte("one\n{{.Nonsense}}")}}}, err: `t0/etc/a\.tmpl:2:.*Nonsense`},
		{summary: "missing key", trees: []fstest.MapFS{{"a.tmpl": {Data: []byte("{{.Labels.nonsense}}")}}}, err: `t0/a\.tmpl:1:.*no entry for key "nonsense"`},
		{summary: "syntax", trees: []fstest.MapFS{{"a.tmpl": {Data: []byte("\n\n{{if}}")}}}, err: `t0/a\.tmpl:3:`},
		{summary: "template that calls what may not exist", trees: []fstest.MapFS{{"a.tmpl": {Data: []byte("{{env \"HOME\"}}")}}}, err: `function "env" not defined`},
		{summary: "file and template of one name", trees: []fstest.MapFS{{"a.tmpl": {Data: []byte("x")}, "a": {}}}, err: `t0/a\.tmpl: /a is laid by t0/a already`},
		{summary: "mode of nothing", trees: []fstest.MapFS{{"modes": {Data: []byte("\nnone 0600 0 0")}}}, err: `t0/modes:2: no file none in t0`},
		{summary: "mode of a folder without its slash", trees: []fstest.MapFS{{"d": {Mode: fs.ModeDir}, "modes": {Data: []byte("d 0600 0 0")}}}, err: `t0/modes:1: d is a folder`},
		{summary: "bad mode", trees: []fstest.MapFS{{"a": {}, "modes": {Data: []byte("a 0888 0 0")}}}, err: `t0/modes:1: "0888" is no octal mode`},
		{summary: "owner by name", trees: []fstest.MapFS{{"a": {}, "modes": {Data: []byte("a 0644 root 0")}}}, err: `t0/modes:1: "root" is no number`},
		{summary: "twice", trees: []fstest.MapFS{{"a": {}, "modes": {Data: []byte("a 0644 0 0\na 0600 0 0")}}}, err: `t0/modes:2: a is in line 1 already`},
		{summary: "path out of the tree", trees: []fstest.MapFS{{"links": {Data: []byte("../a -> b")}}}, err: `t0/links:1: "\.\./a" is no path`},
		{summary: "absolute path", trees: []fstest.MapFS{{"links": {Data: []byte("/a -> b")}}}, err: `t0/links:1: "/a" is no path`},
		{summary: "no arrow", trees: []fstest.MapFS{{"links": {Data: []byte("a b")}}}, err: `t0/links:1: want a path, -> and a target`},
		{summary: "two targets", trees: []fstest.MapFS{{"links": {Data: []byte("a -> b c")}}}, err: `t0/links:1: want one target`},
		{summary: "file where a folder has to be", trees: []fstest.MapFS{{"a": {}}, {"a/b": {}}}, err: `t1/a/b: cannot lie below /a, which t0/a makes a file`},
		{summary: "a device", trees: []fstest.MapFS{{"d": {Mode: fs.ModeDevice}}}, err: `t0/d: .*an overlay holds`},
		{
			summary: "all problems at once",
			trees:   []fstest.MapFS{{"a.tmpl": {Data: []byte("{{.X}}")}, "modes": {Data: []byte("x 1 1 1\ny 1")}}, {"b.tmpl": {Data: []byte("{{.Y}}")}}},
			err:     `(?s)a\.tmpl:1.*modes:2.*modes:1.*b\.tmpl:1`,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var trees []overlays.Tree
			for i, m := range test.trees {
				trees = append(trees, overlays.Tree{Name: fmt.Sprintf("t%d", i), FS: m})
			}
			entries, err := overlays.Render(data, trees...)
			if test.err != "" {
				if err == nil || !regexp.MustCompile(test.err).MatchString(err.Error()) {
					t.Fatalf("error %v, want one like %s", err, test.err)
				}
				if entries != nil && strings.HasPrefix(test.err, "t0") {
					t.Fatal("entries beside an error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := string(describe(entries))
			got, _, _ = strings.Cut(got, "\n-- ")
			got = regexp.MustCompile(` \d+ bytes sha256 \w+`).ReplaceAllString(got, "")
			if !strings.HasSuffix(got, "\n") {
				got += "\n"
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDataIsChecked(t *testing.T) {
	for _, test := range []struct {
		summary string
		edit    func(*overlays.Data)
		err     string
	}{
		{"line feed in a host name", func(d *overlays.Data) { d.Hostname = "a\nb" }, "no host name"},
		{"line feed in a domain", func(d *overlays.Data) { d.Domain = "a\nb" }, "no domain"},
		{"two words for a user", func(d *overlays.Data) { d.User.Name = "pi ALL" }, "no user name"},
		{"time zone that climbs", func(d *overlays.Data) { d.Timezone = "../../etc/shadow" }, "no time zone"},
		{"locale with a command", func(d *overlays.Data) { d.Locale = "C;reboot" }, "no locale"},
		{"slot and name differ", func(d *overlays.Data) { d.Slot = 2 }, "not slot 2"},
		{"unknown network", func(d *overlays.Data) { d.Network = "nat" }, "no network mode"},
		{"target is no host of the cluster", func(d *overlays.Data) { d.Hosts = d.Hosts[:1] }, "not among the hosts"},
		{"gateway elsewhere", func(d *overlays.Data) { static(d); d.Gateway = netip.MustParseAddr("10.0.0.1") }, "not on the controller's network"},
		{"short Wi-Fi key", func(d *overlays.Data) { wifi(d); d.Wifi.PSK = "short" }, "Wi-Fi key"},
		{"line feed in the Wi-Fi key", func(d *overlays.Data) { wifi(d); d.Wifi.PSK = "12345678\n[x]" }, "Wi-Fi key"},
		{"a package's name that climbs", func(d *overlays.Data) { d.Docker.Packages = []string{"../docker"} }, "no package"},
		{"a package of two lines", func(d *overlays.Data) { d.Docker.Packages = []string{"a\nb"} }, "no package"},
		{"a version that is none", func(d *overlays.Data) { d.Docker.Version = "newest" }, "no version"},
		{"machine id", func(d *overlays.Data) { d.MachineID = "" }, "no machine id"},
		{"epoch", func(d *overlays.Data) { d.Epoch = time.Time{} }, "no epoch"},
		{"two public keys", func(d *overlays.Data) { d.Identity.HostKeyPublic = "a\nb" }, "not one line"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			data := exampleData("p1", test.edit)
			_, err := overlays.Render(data, overlays.Trees(data.Controller())...)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want one with %q", err, test.err)
			}
			if data.Wifi != nil && strings.Contains(err.Error(), data.Wifi.PSK) {
				t.Error("the error tells the key")
			}
		})
	}
}

// clusterTargets are those of exampleData.
var clusterTargets = []string{"controller", "p1", "p2", "p17"}

func TestUserTrees(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("common/etc/motd.tmpl", "I am {{.Name}}\n", 0o644)
	write("common/usr/local/bin/tool", "#!/bin/sh\n", 0o755)
	write("node/etc/motd", "a node\n", 0o644)
	write("p2/etc/key", "a key\n", 0o600)
	write("README.md", "mine\n", 0o644)
	write(".gitignore", "*.bak\n", 0o644)
	write(".git/config", "", 0o644)
	write("p2/etc/motd", "the second\n", 0o644)
	write("p2/modes", "etc/motd 0640 0 4\netc/key 0600 0 0 secret\n", 0o600)
	write("controller/etc/timezone", "UTC\n", 0o644)

	for _, test := range []struct{ name, path, want string }{
		{"controller", "/etc/motd", "I am controller\n"},
		{"controller", "/etc/timezone", "UTC\n"},
		{"p1", "/etc/motd", "a node\n"},
		{"p1", "/etc/timezone", "Europe/London\n"},
		{"p2", "/etc/motd", "the second\n"},
	} {
		data := exampleData(test.name)
		users, err := overlays.UserTrees([]string{dir}, test.name, clusterTargets)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := overlays.Render(data, append(overlays.Trees(data.Controller()), users...)...)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(entries, func(e overlays.Entry) bool { return e.Path == test.path })
		if i < 0 || string(entries[i].Content) != test.want {
			t.Errorf("%s: %s is not %q", test.name, test.path, test.want)
		}
		if test.name == "p2" && (entries[i].Mode != 0o640 || entries[i].GID != 4) {
			t.Errorf("mode %s, group %d", entries[i].Mode, entries[i].GID)
		}
	}

}

// TestUserTreesOfControllers: what lies in controller is for each of several
// controllers, what lies in controller2 for that one alone.
func TestUserTreesOfControllers(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"common", "controller", "controller2", "node", "p1"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	targets := []string{"controller", "controller2", "controller3", "p1", "p5"}
	for name, want := range map[string]string{
		"controller":  "common controller",
		"controller2": "common controller controller2",
		"controller3": "common controller",
		"p1":          "common node p1",
		"p5":          "common node",
	} {
		trees, err := overlays.UserTrees([]string{dir}, name, targets)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tree := range trees {
			got = append(got, filepath.Base(tree.Name))
		}
		if have := strings.Join(got, " "); have != want {
			t.Errorf("%s gets %s, not %s", name, have, want)
		}
	}
	_, err := overlays.UserTrees([]string{dir}, "controller", clusterTargets)
	if err == nil || !strings.Contains(err.Error(), "controller2 is none of common, controller, node, p1") {
		t.Errorf("a cluster with one controller: error %v", err)
	}
}

func TestUserFolderIsChecked(t *testing.T) {
	for _, test := range []struct {
		summary string
		name    string // "x" a file, "x/" a folder, "x -> y" a link
		err     string // "" for none
	}{
		{"a README", "README.txt", ""},
		{"a hidden file", ".editorconfig", ""},
		{"a hidden folder", ".git/", ""},
		{"a slot's folder", "p17/", ""},
		{"a link to a folder", "node -> common", ""},
		{"a folder for the controller", "controller/", ""},
		{"a tree laid straight into the folder", "etc/", "etc is none of common, controller, node, p1, p2, p17"},
		{"a slot that the cluster does not have", "p7/", "p7 is none of common, controller, node, p1, p2, p17"},
		{"a stray file", "stray.txt", "stray.txt lies in none of the subfolders common, controller"},
		{"a list at the top", "modes", "modes lies in none of the subfolders"},
		{"a link to nothing", "node -> nowhere", "node is a link that leads nowhere"},
		{"a link to nothing in another target's place", "p2 -> nowhere", "p2 is a link that leads nowhere"},
		{"a file for a folder", "node", "node is no folder"},
		{"a file for another target's folder", "p2", "p2 is no folder"},
		{"a link to a file", "node -> /dev/null", "node is no folder"},
		{"a folder called README", "README/", "README is none of"},
	} {
		dir := t.TempDir()
		var err error
		name, link, isLink := strings.Cut(test.name, " -> ")
		if err := os.Mkdir(filepath.Join(dir, "common"), 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		switch {
		case isLink:
			err = os.Symlink(link, path)
		case strings.HasSuffix(name, "/"):
			err = os.Mkdir(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		trees, err := overlays.UserTrees([]string{dir}, "p1", clusterTargets)
		switch {
		case test.err == "" && (err != nil || len(trees) == 0):
			t.Errorf("%s: %v", test.summary, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want one with %q", test.summary, err, test.err)
		}
	}
	if _, err := overlays.UserTrees([]string{filepath.Join(t.TempDir(), "none")}, "p1", clusterTargets); err == nil || !strings.Contains(err.Error(), "cannot read overlay folder") {
		t.Errorf("no such folder: error %v", err)
	}
}

// TestClosedFiles: what the user closed to others is not laid open.
func TestClosedFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs modes of files")
	}
	for _, test := range []struct {
		summary, name string
		mode          fs.FileMode
		modes, err    string
	}{
		{"open", "a", 0o644, "", ""},
		{"open to the group", "a", 0o640, "", ""},
		{"closed", "etc/a", 0o600, "", "node/etc/a: closed to others here (-rw-------), but everybody would read it in the image: add the line `etc/a 0600 0 0 secret` to"},
		{"closed and named", "etc/a", 0o600, "etc/a 0600 0 0 secret\n", ""},
		{"closed and named to be open", "etc/a", 0o600, "etc/a 0644 0 0\n", ""},
		{"read-only", "a", 0o400, "", "`a 0600 0 0 secret`"},
		{"a program", "usr/bin/a", 0o700, "", "`usr/bin/a 0700 0 0 secret`"},
		{"a template", "a.tmpl", 0o600, "", "node/a.tmpl: closed to others here (-rw-------), but everybody would read it in the image: add the line `a 0600"},
		{"a template, named", "a.tmpl", 0o600, "a 0600 0 0\n", ""},
		{"a name with a blank", "a b", 0o600, "", "`\"a b\" 0600 0 0 secret`"},
		{"a folder that is merged into usr", "lib/a", 0o600, "usr/lib/a 0600 0 0\n", ""},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "node", test.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), test.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		if test.modes != "" {
			if err := os.WriteFile(filepath.Join(dir, "node/modes"), []byte(test.modes), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		trees, err := overlays.UserTrees([]string{dir}, "p1", clusterTargets)
		if err != nil {
			t.Fatal(err)
		}
		_, err = overlays.Render(exampleData("p1"), trees...)
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", test.summary, err, test.err)
		}
	}
}

// TestFilesNameWhatIsLaid looks for paths of ours in what is laid, and checks
// that they are laid too.
func TestFilesNameWhatIsLaid(t *testing.T) {
	ours := regexp.MustCompile(`(/usr/lib|/etc)/hatchery/[a-z./-]*[a-z]`)
	for _, v := range variants {
		entries := mustRender(t, v.data)
		laid := map[string]bool{overlays.AgentPath: true} // the builder puts it there
		for _, e := range entries {
			laid[e.Path] = true
		}
		found := 0
		for _, e := range entries {
			for _, path := range ours.FindAllString(string(e.Content), -1) {
				found++
				if !laid[path] {
					t.Errorf("%s: %s names %s, which is not there", v.name, e.Path, path)
				}
			}
		}
		if found < 3 {
			t.Errorf("%s: only %d paths found", v.name, found)
		}
	}
}
