package imagebuilder_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/identity"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

func inspect(t *testing.T, name, cache string) *imagebuilder.Inspection {
	t.Helper()
	image, err := imagebuilder.OpenImage(t.Context(), name, imagebuilder.ImageOptions{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	found, err := imagebuilder.Inspect(t.Context(), image.Image)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestInspectWhatWasBuilt finds in an image what the build put there, and what
// the manifest says of it.
func TestInspectWhatWasBuilt(t *testing.T) {
	b := newBench(t)
	c := b.cluster("homelab", "slots: {p1: {}, p2: {hostname: carter, model: zero-w}}\n")
	result, err := b.try(c, "out", "p2")
	if err != nil {
		t.Fatal(err)
	}
	store, err := identity.Open(b.path("identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	id, err := store.Target("p2", 2, "carter")
	if err != nil {
		t.Fatal(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(id.HostKeyPublic))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{result.Targets[0].Image, result.Targets[0].Layer} {
		found := inspect(t, file, b.path("cache"))
		n := found.Hatchery
		if n == nil || n.Cluster != "homelab" || n.Name != "p2" || n.Slot != 2 || n.Hostname != "carter" || n.Model != "zero-w" || n.Epoch.Unix() != 1763769600 {
			t.Fatalf("%+v", n)
		}
		cert := n.Certificate
		if cert == nil || !cert.Valid || cert.Generation != 1 || cert.Slot != 2 || cert.Cluster != "homelab" || cert.CA != store.Fingerprint() {
			t.Errorf("%+v", cert)
		}
		if n.HostKey != ssh.FingerprintSHA256(public) {
			t.Errorf("host key %s", n.HostKey)
		}
		if len(found.Warnings) > 0 {
			t.Errorf("warnings %q", found.Warnings)
		}
		if found.FirstBoot.MachineID != "set" || len(found.FirstBoot.Steps) > 0 {
			t.Errorf("first boot: %+v", found.FirstBoot)
		}
		var private []string
		for _, p := range found.Private {
			private = append(private, p.Path)
		}
		if want := []string{"/etc/hatchery/identity/key.pem", "/etc/ssh/ssh_host_ed25519_key"}; !slices.Equal(private, want) {
			t.Errorf("private files %q", private)
		}
		// Whatever the manifest says was written bears the build's time.
		var files []string
		for _, f := range n.Files {
			files = append(files, f.Path)
		}
		manifest := readBuilt(t, b.path("out"))
		was := links(t, b.base) // one that is as it should be stays as it is
		for _, f := range manifest {
			if !slices.Contains(files, f) && !was[f] {
				t.Errorf("%s is in the manifest, and not among what was built", f)
			}
		}
		if len(files) > len(manifest)+3 {
			t.Errorf("%d files bear the build's time, and the manifest has %d", len(files), len(manifest))
		}
	}
	base := inspect(t, b.base, "")
	if base.Hatchery != nil || len(base.Private) > 0 {
		t.Errorf("the base: %+v, %v", base.Hatchery, base.Private)
	}
	if !slices.ContainsFunc(base.FirstBoot.Steps, func(s string) bool { return strings.Contains(s, "init=/usr/lib/raspberrypi-sys-mods/firstboot") }) {
		t.Errorf("the base's first boot: %q", base.FirstBoot.Steps)
	}
}

// links are the symbolic links of an image.
func links(t *testing.T, name string) map[string]bool {
	t.Helper()
	image, err := imagebuilder.OpenImage(t.Context(), name, imagebuilder.ImageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	tree, err := image.Tree()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	if err := tree.Walk("/", func(n diskimage.Node) error {
		all[n.Path] = n.Mode&fs.ModeSymlink != 0
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// readBuilt lists the files and links that p2's manifest names.
func readBuilt(t *testing.T, dir string) (files []string) {
	t.Helper()
	out := testtool.Run(t, "sh", "-c", `sed -n 's/^ *"path": "\(.*\)",$/\1/p;s/^ *"mode": "d.*/DIR/p' "$1"/manifest.json`, "sh", dir)
	lines := strings.Fields(out)
	for i, line := range lines {
		if line != "DIR" && (i+1 == len(lines) || lines[i+1] != "DIR") {
			files = append(files, line)
		}
	}
	if len(files) < 20 {
		t.Fatalf("the manifest has %d files", len(files))
	}
	return files
}

// TestInspectCertificates tells what is wrong with an identity.
func TestInspectCertificates(t *testing.T) {
	store, err := identity.Open(t.TempDir(), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.Open(t.TempDir(), "other")
	if err != nil {
		t.Fatal(err)
	}
	p1, err := store.Target("p1", 1, "p1")
	if err != nil {
		t.Fatal(err)
	}
	p2, err := store.Target("p2", 2, "p2")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary              string
		certificate, ca, key []byte
		says                 string // "" is valid
	}{
		{"as it should be", p1.Certificate, p1.CA, p1.Key, ""},
		{"another slot's", p2.Certificate, p2.CA, p2.Key, "it is that of slot 2"},
		{"another cluster's authority", p1.Certificate, other.CA(), p1.Key, "signed by unknown authority"},
		{"another's key", p1.Certificate, p1.CA, p2.Key, "the key beside it is another's"},
		{"no key", p1.Certificate, p1.CA, []byte("nothing"), "its key is no PEM file"},
		{"no certificate", []byte("nothing"), p1.CA, p1.Key, "holds no certificate"},
		{"the authority's own", p1.CA, p1.CA, p1.Key, "it names no slot"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			file := func(name string, content []byte) imagetest.Option {
				return imagetest.WithFile("/etc/hatchery/"+name, string(content), 0o600, 0, 0)
			}
			found := inspect(t, imagetest.Bookworm(t,
				file("node.json", []byte(`{"cluster":"homelab","name":"p1","slot":1,"hostname":"p1"}`)),
				imagetest.WithFile("/etc/hostname", "p1\n", 0o644, 0, 0),
				file("identity/certificate.pem", test.certificate), file("identity/ca.pem", test.ca), file("identity/key.pem", test.key)), "")
			c := found.Hatchery.Certificate
			if c == nil || c.Valid != (test.says == "") || !strings.Contains(c.Problem, test.says) {
				t.Errorf("%+v, want %q", c, test.says)
			}
			if (len(found.Warnings) == 0) != (test.says == "") {
				t.Errorf("warnings %q", found.Warnings)
			}
		})
	}
}

// TestInspectDamagedNode is told, not failed at.
func TestInspectDamagedNode(t *testing.T) {
	found := inspect(t, imagetest.Bookworm(t, imagetest.WithFile("/etc/hatchery/node.json", `{"cluster": 7`, 0o644, 0, 0)), "")
	if found.Hatchery != nil || len(found.Warnings) != 1 || !strings.Contains(found.Warnings[0], "node.json") {
		t.Errorf("%+v, %q", found.Hatchery, found.Warnings)
	}
}

// TestFirstBoot knows each release's machinery.
func TestFirstBoot(t *testing.T) {
	for release, want := range map[string][]string{
		"bullseye": {"regenerate_ssh_host_keys.service makes new SSH host keys"},
		"bookworm": {"cmdline.txt: init=/usr/lib/raspberrypi-sys-mods/firstboot runs before the system", "regenerate_ssh_host_keys.service makes new SSH host keys", "userconfig.service asks for a user, or takes it from userconf.txt"},
		"trixie":   {"cmdline.txt: resize: grows the root partition", "cloud-init-main.service runs cloud-init, with the seed on the boot partition"},
	} {
		found := inspect(t, imagetest.Release(t, release), "")
		for _, step := range want {
			if !slices.Contains(found.FirstBoot.Steps, step) {
				t.Errorf("%s: no %q in %q", release, step, found.FirstBoot.Steps)
			}
		}
		if found.FirstBoot.MachineID == "set" {
			t.Errorf("%s: machine id %s", release, found.FirstBoot.MachineID)
		}
	}
}

// TestOpenImage opens what a name stands for, or says what is wrong with it.
func TestOpenImage(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	base := imagetest.Bookworm(t)
	data, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	xz := imagetest.XZ(t, base)
	gz := write("image.img.gz", []byte(testtool.Run(t, "gzip", "-c", base)))
	for _, name := range []string{base, xz, gz, xz} {
		if found := inspect(t, name, cache); found.Release == nil || found.Release.Codename != "bookworm" {
			t.Errorf("%s: %+v", name, found.Release)
		}
	}
	images, _ := filepath.Glob(filepath.Join(cache, "images", "*.img"))
	if len(images) != 1 {
		t.Errorf("the cache holds %v", images)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("folder/a.img", data[:4096])
	write("folder/a.img.bmap", nil)
	for name, says := range map[string]string{
		filepath.Join(dir, "nope"):                       "there is no file",
		filepath.Join(dir, "folder"):                     "is a folder, not an image: name one in it, such as " + filepath.Join(dir, "folder", "a.img"),
		write("empty", nil):                              "it is empty",
		write("torn.img.xz", []byte("\xfd7zXZ\x00torn")): "torn.img.xz",
		write("torn.layer", []byte("hatchlyr torn")):     "header",
	} {
		_, err := imagebuilder.OpenImage(t.Context(), name, imagebuilder.ImageOptions{Cache: cache})
		var input *imagebuilder.InputError
		var baseInput *baseimage.InputError
		if err == nil || !strings.Contains(err.Error(), says) || !errors.As(err, &input) && !errors.As(err, &baseInput) {
			t.Errorf("%s: %v, want %q", name, err, says)
		}
	}
	if strings.Contains(fmt.Sprint(imagebuilder.OpenImage(t.Context(), filepath.Join(dir, "folder"), imagebuilder.ImageOptions{})), ".bmap") {
		t.Error("a block map is named as an image")
	}
}
