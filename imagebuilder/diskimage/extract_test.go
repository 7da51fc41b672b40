package diskimage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// debugfs changes the root of a miniature.
func debugfs(t *testing.T, image string, commands ...string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root, data[imagetest.RootStart:imagetest.RootStart+imagetest.RootSize], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if out, err := exec.Command(testtool.Need(t, "debugfs"), "-w", "-R", c, root).CombinedOutput(); err != nil {
			t.Fatalf("debugfs %s: %v\n%s", c, err, out)
		}
	}
	insert(t, image, root, imagetest.RootStart)
}

// TestExtractAsDebugfsDumps compares a whole root with what debugfs copies out.
func TestExtractAsDebugfsDumps(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs modes")
	}
	image := imagetest.Bookworm(t)
	debugfs(t, image, "ln /etc/hostname /etc/another-name", "sif /etc/hostname links_count 2",
		"mknod null c 1 3", "mknod fifo p")
	im := open(t, image)
	root, err := im.Partition(2)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	result, err := diskimage.Extract(t.Context(), root, "/", out, diskimage.ExtractOptions{Owners: os.Geteuid() == 0})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Skipped) != 2 || !strings.Contains(result.Skipped[0], "/fifo: it is a named pipe") || !strings.Contains(result.Skipped[1], "/null: it is a character device") {
		t.Errorf("skipped %q", result.Skipped)
	}
	dump := filepath.Join(t.TempDir(), "dump")
	if err := os.Mkdir(dump, 0o755); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "root")
	data, _ := os.ReadFile(image)
	if err := os.WriteFile(part, data[imagetest.RootStart:], 0o600); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "debugfs", "-R", "rdump / "+dump, part)
	for _, special := range []string{"null", "fifo"} {
		os.Remove(filepath.Join(dump, special))
	}
	want, got := listing(t, dump), listing(t, out)
	sameLines(t, "debugfs", want, got)
	a, _ := os.Stat(filepath.Join(out, "etc/hostname"))
	b, _ := os.Stat(filepath.Join(out, "etc/another-name"))
	if !os.SameFile(a, b) {
		t.Error("hard-linked files are no longer linked")
	}
	if result.Files+result.Folders+result.Links+1 != len(got) { // the root has no name
		t.Errorf("%+v, and there are %d", result, len(got))
	}
}

// listing is a folder as text: names, modes, times, links' targets and
// contents. debugfs keeps no times of folders and links, nor setuid.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(path, root)
		if line != "" {
			line += " " + (info.Mode() &^ (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)).String()
		}
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += info.ModTime().UTC().Format(" 2006-01-02T15:04:05 ") + string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestExtractPlaces says where things go, and what is refused.
func TestExtractPlaces(t *testing.T) {
	im := open(t, imagetest.Bookworm(t, imagetest.WithSymlink("/etc/hostname", "/name")))
	tree := assembled(t, im)
	type o = diskimage.ExtractOptions
	for _, test := range []struct {
		summary    string
		from, dest string
		options    o
		want       string // a path that is there afterwards
		err        error
	}{
		{"a file by another name", "/etc/hostname", "new", o{}, "new", nil},
		{"a file into a folder", "/etc/hostname", "folder", o{}, "folder/hostname", nil},
		{"a file into a folder that is made", "/etc/hostname", "made/here/", o{}, "made/here/hostname", nil},
		{"what a link leads to", "/name", "new", o{}, "new", nil},
		{"a link's target by the link's name", "/name", "folder", o{}, "folder/name", nil},
		{"a folder by another name", "/etc/ssh", "new", o{}, "new/sshd_config.d", nil},
		{"a folder into a folder", "/etc/ssh", "folder", o{}, "folder/ssh/sshd_config.d", nil},
		{"a folder with dots", "/etc/ssh/.", "folder", o{}, "folder/ssh/sshd_config.d", nil},
		{"everything", "/", "new", o{}, "new/boot/firmware/cmdline.txt", nil},
		{"everything into a folder", "/", "folder", o{}, "folder/boot/firmware/cmdline.txt", nil},
		{"what is in the way", "/etc/hostname", "file", o{}, "", diskimage.ErrInTheWay},
		{"what is in the way, within", "/etc/hostname", "full", o{}, "", diskimage.ErrInTheWay},
		{"everything over a file", "/", "file", o{Replace: true}, "", diskimage.ErrInTheWay},
		{"everything, with something in the way", "/", "full", o{}, "", diskimage.ErrInTheWay},
		{"replaced", "/etc/hostname", "file", o{Replace: true}, "file", nil},
		{"a folder replaced", "/etc", "full", o{Replace: true}, "full/etc/hostname", nil},
		{"a link in the way, replaced and not followed", "/etc/hostname", "full/link", o{Replace: true}, "full/link", nil},
		{"not there", "/etc/nope", "new", o{}, "", fs.ErrNotExist},
		{"nowhere", "/etc/hostname", "no/such/folder", o{}, "", fs.ErrNotExist},
		{"more than an image can have", "/etc", "new", o{MostBytes: 100}, "", errors.New("it is damaged")},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(dir, "outside")
			for name, content := range map[string]string{"file": "precious", "outside": "precious", "full/hostname": "precious", "full/etc/mine": "precious"} {
				os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			os.Mkdir(filepath.Join(dir, "folder"), 0o755)
			if err := os.Symlink(outside, filepath.Join(dir, "full/link")); err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			dest := filepath.Join(dir, test.dest)
			if strings.HasSuffix(test.dest, "/") {
				dest += "/"
			}
			result, err := diskimage.Extract(t.Context(), tree, test.from, dest, test.options)
			if !matches(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			if err != nil {
				sameLines(t, "what was there before", before, listing(t, dir))
				return
			}
			info, err := os.Lstat(filepath.Join(dir, test.want))
			if err != nil || info.Mode()&fs.ModeSymlink != 0 {
				t.Errorf("%s: %v, %v", test.want, info, err)
			}
			if _, err := os.Lstat(result.Path); err != nil {
				t.Errorf("it says that it went to %s", result.Path)
			}
			if data, _ := os.ReadFile(outside); string(data) != "precious" {
				t.Error("a link was followed out")
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*", ".hatchery*"))
			more, _ := filepath.Glob(filepath.Join(dir, ".hatchery*"))
			if len(left)+len(more) > 0 {
				t.Errorf("left over: %v %v", left, more)
			}
		})
	}
}

// A hostileTree claims whatever its nodes say.
type hostileTree struct{ nodes map[string][]diskimage.Node }

func (h hostileTree) Lstat(p string) (diskimage.Node, error) {
	return diskimage.Node{Path: "/top", Mode: fs.ModeDir | 0o755}, nil
}
func (h hostileTree) ReadDir(p string) ([]diskimage.Node, error) { return h.nodes[p], nil }
func (h hostileTree) Open(string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("hostile")), nil
}
func (h hostileTree) Walk(root string, visit func(diskimage.Node) error) error {
	top, _ := h.Lstat(root)
	if err := visit(top); err != nil {
		return err
	}
	for _, n := range h.nodes["/top"] {
		if err := visit(n); err != nil && err != fs.SkipDir {
			return err
		}
	}
	return nil
}

// TestExtractStaysWithin gives it names and links that lead out.
func TestExtractStaysWithin(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(dir, "dest")
	file := func(p string) diskimage.Node { return diskimage.Node{Path: p, Mode: 0o644} }
	link := func(p, target string) diskimage.Node {
		return diskimage.Node{Path: p, Mode: fs.ModeSymlink | 0o777, Target: target}
	}
	folder := func(p string) diskimage.Node { return diskimage.Node{Path: p, Mode: fs.ModeDir | 0o755} }
	tree := hostileTree{map[string][]diskimage.Node{"/top": {
		file("/top/.."), file("/top/../../outside/evil"), file("/elsewhere/evil"), file("/top/a\x00b"),
		// A link, and below it a file, as if it were a folder.
		link("/top/link", outside), file("/top/link/evil"),
		link("/top/up", ".."), file("/top/up/evil"),
		folder("/top/twice"), link("/top/twice", outside), file("/top/twice/good"),
		file("/top/fine"),
	}}}
	result, err := diskimage.Extract(t.Context(), tree, "/top", dest, diskimage.ExtractOptions{})
	if err != nil && !strings.Contains(err.Error(), "escapes") && !strings.Contains(err.Error(), "path") {
		t.Fatal(err)
	}
	t.Logf("%+v, %v", result, err)
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("written outside: %v", entries)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "outside" && e.Name() != "dest" {
			t.Errorf("written outside: %s", e.Name())
		}
	}
}

// TestExtractHoles keeps holes, times and the content of a file that is mostly
// nothing.
func TestExtractHoles(t *testing.T) {
	image := imagetest.Bookworm(t, imagetest.WithFile("/srv/sparse", "end", 0o644, 0, 0))
	debugfs(t, image, "sif /srv/sparse size 3000000000", "sif /srv/sparse mtime @1234567890")
	im := open(t, image)
	out := filepath.Join(t.TempDir(), "sparse")
	result, err := diskimage.Extract(t.Context(), assembled(t, im), "/srv/sparse", out, diskimage.ExtractOptions{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != 3000000000 || result.Bytes > 2*mib || !info.ModTime().Equal(time.Unix(1234567890, 0)) {
		t.Errorf("%d bytes, %d of data, %v", info.Size(), result.Bytes, info.ModTime())
	}
	if sys := diskUsage(info); sys > mib {
		t.Errorf("it takes %d bytes of the disk", sys)
	}
}

// TestExtractInterrupted leaves nothing.
func TestExtractInterrupted(t *testing.T) {
	tree := assembled(t, open(t, imagetest.Bookworm(t)))
	dir := t.TempDir()
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		counted := &countedTree{Tree: tree, left: 20, then: cancel}
		if _, err := diskimage.Extract(ctx, counted, "/", dir, diskimage.ExtractOptions{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left over: %v", entries)
	}
}

type countedTree struct {
	diskimage.Tree
	left int
	then func()
}

func (c *countedTree) Open(p string) (io.ReadCloser, error) {
	if c.left--; c.left == 0 {
		c.then()
	}
	return c.Tree.Open(p)
}

// TestReadAt reads in the middle of files of both kinds.
func TestReadAt(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 30_000)
	tree := assembled(t, open(t, imagetest.Bookworm(t, imagetest.WithFile("/srv/f", string(content), 0o644, 0, 0), imagetest.WithBootFile("f", string(content)))))
	for _, name := range []string{"/srv/f", "/boot/firmware/f"} {
		f, err := tree.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		r := f.(io.ReaderAt)
		for _, off := range []int64{0, 1, 511, 4095, 65536, 299_990, 299_999} {
			p := make([]byte, 5000)
			n, err := r.ReadAt(p, off)
			want := content[off:min(off+5000, int64(len(content)))]
			if !bytes.Equal(p[:n], want) || (n < len(p)) != (err == io.EOF) {
				t.Errorf("%s at %d: %d bytes, %v", name, off, n, err)
			}
		}
		if n, err := r.ReadAt(make([]byte, 1), 300_000); n != 0 || err != io.EOF {
			t.Errorf("%s at its end: %d, %v", name, n, err)
		}
		if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
			t.Errorf("%s before its beginning: no error", name)
		}
		if _, err := diskimage.ReadFile(tree, name, 299_999); !errors.Is(err, diskimage.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}

func TestPrivate(t *testing.T) {
	key := "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"
	with := func(path, content string) imagetest.Option {
		return imagetest.WithFile(path, content, 0o600, 0, 0)
	}
	found := map[string]string{ // what is private, and what is said of it
		"/etc/ssh/ssh_host_rsa_key":                             key,
		"/etc/hatchery/identity/key.pem":                        "-----BEGIN PRIVATE KEY-----\n",
		"/home/pi/.ssh/id_ed25519":                              key,
		"/home/other/.ssh/deploy":                               key,
		"/root/.ssh/id_rsa":                                     key,
		"/etc/shadow":                                           "root:*:1::::::\npi:$y$j9T$abc$def:1::::::\nnone:!:1::::::\n",
		"/etc/NetworkManager/system-connections/a.nmconnection": "[wifi-security]\nkey-mgmt=wpa-psk\npsk=secret words\n",
		"/etc/netplan/50-wifi.yaml":                             "wifis:\n  wlan0:\n    access-points:\n      home:\n        password: \"x\"\n",
		"/etc/wpa_supplicant/wpa_supplicant.conf":               "network={\n\tssid=\"a\"\n\tpsk=\"b\"\n}\n",
		"/etc/wireguard/wg0.conf":                               "[Interface]\nPrivateKey = abc=\n",
		"/var/lib/docker/swarm/certificates/swarm-node.key":     "x",
		"/var/lib/docker/swarm/docker-state.json":               "{}",
		"/etc/letsencrypt/archive/example.org/privkey1.pem":     "-----BEGIN EC PRIVATE KEY-----\n",
		"/etc/ssl/private/web.key":                              "-----BEGIN RSA PRIVATE KEY-----\n",
		"/var/lib/rancher/k3s/server/tls/client-ca.key":         "x",
		"/home/pi/.docker/config.json":                          `{"auths": {"r": {"auth": "c2Vj"}}}`,
		"/home/pi/.git-credentials":                             "https://u:p@example.org\n",
	}
	clean := map[string]string{
		"/etc/ssh/ssh_host_rsa_key.pub":                         "ssh-rsa AAAA\n",
		"/home/pi/.ssh/authorized_keys":                         "ssh-ed25519 AAAA\n",
		"/home/pi/.ssh/known_hosts":                             "h ssh-ed25519 AAAA\n",
		"/etc/NetworkManager/system-connections/b.nmconnection": "[connection]\nid=lan\ntype=ethernet\n",
		"/etc/netplan/10-lan.yaml":                              "ethernets: {eth0: {dhcp4: true}}\n",
		"/etc/gshadow":                                          "adm:*::pi\nsudo:!::pi\n",
		"/etc/shadow-":                                          "pi:!:1::::::\nx::1::::::\ny:!*:1::::::\n",
		"/etc/ssl/private/README":                               "nothing\n",
		"/var/lib/docker/swarm/certificates/swarm-node.crt":     "-----BEGIN CERTIFICATE-----\n",
		"/home/pi/.docker/config.json.bak":                      `{"auth": "x"}`,
		"/root/.docker/config.json":                             `{"auths": {}}`,
		"/srv/ssh_host_rsa_key":                                 key,
		"/var/lib/iwd/empty.psk":                                "",
	}
	boot := map[string]string{"userconf.txt": "pi:$6$salt$hash\n", "wpa_supplicant.conf": "country=GB\nnetwork={\npsk=\"x\"\n}\n"}
	var options []imagetest.Option
	for p, content := range found {
		options = append(options, with(p, content))
	}
	for p, content := range clean {
		options = append(options, with(p, content))
	}
	for p, content := range boot {
		options = append(options, imagetest.WithBootFile(p, content))
	}
	options = append(options, imagetest.WithSymlink("/etc/ssh/ssh_host_rsa_key", "/etc/ssl/private/linked.key"))
	tree := assembled(t, open(t, imagetest.Bookworm(t, options...)))
	got, err := diskimage.FindPrivate(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/boot/firmware/userconf.txt", "/boot/firmware/wpa_supplicant.conf"}
	for p := range found {
		want = append(want, p)
	}
	var paths []string
	for _, f := range got {
		paths = append(paths, f.Path)
		if f.Path == "/etc/shadow" && f.What != "password hash of pi" || f.Path == "/boot/firmware/userconf.txt" && f.What != "password hash of pi" {
			t.Errorf("%+v", f)
		}
	}
	slices.Sort(want)
	if !slices.Equal(want, paths) {
		t.Errorf("want %q\n got %q", want, paths)
	}
	for _, p := range want {
		if !diskimage.Private(p) {
			t.Errorf("%s is not one by its name", p)
		}
	}
	for _, p := range []string{"/", "/etc/passwd", "/etc/ssh/ssh_host_rsa_key.pub", "/etc/ssh/sshd_config", "/etc/letsencrypt", "/srv/ssh_host_rsa_key", "/home/.ssh/x"} {
		if diskimage.Private(p) {
			t.Errorf("%s is one by its name", p)
		}
	}
	for _, p := range []string{"/user-data", "/boot/user-data", "/etc/letsencrypt/a/b/c.pem", "/var/lib/rancher/k3s/x.key", "home/pi/.ssh/id_rsa"} {
		if !diskimage.Private(p) {
			t.Errorf("%s is none by its name", p)
		}
	}
}
