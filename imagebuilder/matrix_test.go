package imagebuilder_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/spec"
	"hatchery/internal/testtool"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// matrixEpoch is every timestamp of the matrix's images.
const matrixEpoch = 1763769600

// A matrixBase is one kind of image to build from.
type matrixBase struct {
	name    string
	make    func(t testing.TB, options ...imagetest.Option) string
	options []imagetest.Option
	// only are the networks that are built; nil for all.
	only []string
	// controllerModel is a model that the base runs on.
	controllerModel string
	// noNodes is for images that no Pi Zero runs.
	noNodes bool
}

// The matrix: every release, as its images are today, and what differed in
// earlier ones or differs in those for 64 bits on one network.
var matrixBases = []matrixBase{
	{name: "bullseye", make: imagetest.Bullseye},
	{name: "bookworm", make: imagetest.Bookworm},
	{name: "trixie", make: imagetest.Trixie},
	{name: "bullseye-2022", make: imagetest.Bullseye, options: []imagetest.Option{imagetest.WithInitResize()}, only: []string{"cnat"}},
	{name: "trixie-2025", make: imagetest.Trixie, options: []imagetest.Option{imagetest.WithSystemdInit()}, only: []string{"cnat"}},
	{name: "bullseye-arm64", make: imagetest.Bullseye, options: []imagetest.Option{imagetest.WithArchitecture("arm64")}, only: []string{"cnat"}, controllerModel: "4", noNodes: true},
	{name: "bookworm-arm64", make: imagetest.Bookworm, options: []imagetest.Option{imagetest.WithArchitecture("arm64")}, only: []string{"cnat"}, controllerModel: "4", noNodes: true},
	{name: "trixie-arm64", make: imagetest.Trixie, options: []imagetest.Option{imagetest.WithArchitecture("arm64")}, only: []string{"cnat"}, controllerModel: "5", noNodes: true},
}

// matrixNetworks are the ways in which a controller is connected. Most have no
// node of their own: a node does not see the difference.
var matrixNetworks = []struct {
	name, controller, more string
	controllerOnly         bool
}{
	{"cnat", "{network: cnat%s}", "", false},
	{"cbridge", "{network: cbridge%s}", "", false},
	{"cnat-wifi", "{hostname: hammond, network: cnat, wifi: {ssid: Café, psk: an example only, country: GB}%s}",
		"user: {name: jack, password_hash: $y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7, sudo: password, authorized_keys: [%q]}\ntimezone: Europe/Berlin\nlocale: de_DE.UTF-8\ndocker: {packages: []}\n", true},
	{"cnat-static", "{network: cnat, address: 192.168.42.10/24, gateway: 192.168.42.1%s}", "domain: example.org\ndns: [192.168.42.1]\n", true},
	{"cbridge-static", "{network: cbridge, address: 192.168.42.10/24, gateway: 192.168.42.1%s}", "", true},
}

// matrixSecret is what ids are derived from: fixed, so that goldens can show
// fstab and cmdline.txt whole.
const matrixSecret = `{
  "format": 1,
  "cluster": "matrix",
  "secret": "6d6174726978206d6174726978206d6174726978206d6174726978206d617472"
}
`

// A matrixCase is one image that was built, beside the one it was built from.
type matrixCase struct {
	name, target string
	base, built  string // paths of images
	warnings     []string
}

// bootPath is where the release mounts the boot partition.
func (c matrixCase) bootPath() string {
	if strings.HasPrefix(c.name, "bullseye") {
		return "/boot"
	}
	return "/boot/firmware"
}

// eachMatrixCase builds the matrix and gives its images to check, one subtest
// each.
func eachMatrixCase(t *testing.T, check func(t *testing.T, c matrixCase)) {
	for _, base := range matrixBases {
		t.Run(base.name, func(t *testing.T) {
			image := base.make(t, base.options...)
			cache := t.TempDir()
			for _, network := range matrixNetworks {
				if base.only != nil && !slices.Contains(base.only, network.name) {
					continue
				}
				if testing.Short() && network.controllerOnly {
					continue
				}
				dir := t.TempDir()
				model := ""
				if base.controllerModel != "" {
					model = fmt.Sprintf(", model: %q", base.controllerModel)
				}
				user := fmt.Sprintf("user: {authorized_keys: [%q]}\ndocker: {packages: []}\n", key)
				if strings.Contains(network.more, "user:") {
					user = fmt.Sprintf(network.more, key)
				} else {
					user += network.more
				}
				text := fmt.Sprintf("name: matrix\nbase: {image: %q}\ncontroller: "+network.controller+"\nslots: {p1: {}, p2: {hostname: carter}}\n", image, model) + user
				targets := []string{"controller", "p1"}
				if network.controllerOnly || base.noNodes {
					targets = targets[:1]
				}
				result := buildFixed(t, dir, cache, text, targets)
				for _, target := range targets {
					name := fmt.Sprintf("%s-%s-%s", base.name, target, network.name)
					t.Run(target+"-"+network.name, func(t *testing.T) {
						check(t, matrixCase{name, target, image, filepath.Join(dir, "out", target+".img"), result.Warnings})
					})
				}
			}
		})
	}
}

// buildFixed builds a cluster whose ids are the same every time; its keys are
// new.
func buildFixed(t *testing.T, dir, cache, text string, targets []string) *imagebuilder.Result {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", fmt.Sprint(matrixEpoch))
	if err := os.Mkdir(filepath.Join(dir, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"cluster.yaml": text, "identity/identity.json": matrixSecret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cluster, err := spec.Load(filepath.Join(dir, "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	result, err := imagebuilder.Build(context.Background(), cluster, imagebuilder.Options{
		Out: filepath.Join(dir, "out"), Cache: cache, Targets: targets, NoSums: true,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return result
}

// TestMatrix builds the matrix and has everybody judge its images: fsck, the
// goldens, and the first-boot machinery.
func TestMatrix(t *testing.T) {
	eachMatrixCase(t, func(t *testing.T, c matrixCase) {
		checkFileSystems(t, c.built)
		t.Run("first boot", func(t *testing.T) { checkFirstBoot(t, c) })
		t.Run("golden", func(t *testing.T) { checkGolden(t, c) })
	})
	if *update || testing.Short() {
		return
	}
	// A golden of a case that is no more proves nothing.
	there, err := filepath.Glob("testdata/matrix/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, golden := range there {
		name := strings.TrimSuffix(filepath.Base(golden), ".golden")
		if !isMatrixCase(name) {
			t.Errorf("%s belongs to no case", golden)
		}
	}
}

// TestBasesOfTheirOwn: a controller for 64 bits with Zeros for which only 32-bit
// images will do, each of another release.
func TestBasesOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	text := fmt.Sprintf("name: matrix\nbase: {image: %q}\ncontroller: {model: 5, base: {image: %q}}\nslots: {p1: {}, p2: {base: {image: %q}}}\nuser: {authorized_keys: [%q]}\ndocker: {packages: []}\n",
		imagetest.Bullseye(t), imagetest.Trixie(t, imagetest.WithArchitecture("arm64")), imagetest.Bookworm(t), key)
	buildFixed(t, dir, t.TempDir(), text, nil)
	for target, want := range map[string]matrixCase{
		"controller": {name: "trixie-arm64"}, "p1": {name: "bullseye"}, "p2": {name: "bookworm"},
	} {
		image := filepath.Join(dir, "out", target+".img")
		checkFileSystems(t, image)
		u := unpack(t, image)
		for _, fault := range firstBootFaults(u, want.bootPath()) {
			t.Errorf("%s: %s", target, fault)
		}
		codename, _, _ := strings.Cut(want.name, "-")
		if text := u.read("/etc/os-release"); !strings.Contains(text, "VERSION_CODENAME="+codename+"\n") {
			t.Errorf("%s is built from\n%s", target, text)
		}
	}
}

// TestWrongArchitecture: what a Zero cannot run is refused before anything is
// written.
func TestWrongArchitecture(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", fmt.Sprint(matrixEpoch))
	for _, test := range []struct {
		summary, codename, architecture, want string
	}{
		{"bullseye for 64 bits", "bullseye", "arm64", "arm64"},
		{"bookworm for 64 bits", "bookworm", "arm64", "arm64"},
		{"trixie for 64 bits", "trixie", "arm64", "arm64"},
		{"bullseye of Debian's armhf", "bullseye", "armhf", "ARMv7"},
		{"bookworm of Debian's armhf", "bookworm", "armhf", "ARMv7"},
		{"trixie of Debian's armhf", "trixie", "armhf", "ARMv7"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			text := fmt.Sprintf("name: matrix\nbase: {image: %q}\nslots: {p1: {model: zero}}\nuser: {authorized_keys: [%q]}\ndocker: {packages: []}\n",
				imagetest.Release(t, test.codename, imagetest.WithArchitecture(test.architecture)), key)
			file := filepath.Join(dir, "cluster.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cluster, err := spec.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = imagebuilder.Build(context.Background(), cluster, imagebuilder.Options{
				Out: filepath.Join(dir, "out"), Cache: t.TempDir(), Targets: []string{"p1"}, NoSums: true,
			})
			var input *imagebuilder.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want an InputError with %q", err, test.want)
			}
			if images, _ := filepath.Glob(filepath.Join(dir, "out", "*.img")); len(images) > 0 {
				t.Errorf("there is %q all the same", images)
			}
		})
	}
}

// TestClustersOfFourSectors: the boot partitions of most images that were
// published have larger clusters than the miniatures', and are larger for it.
func TestClustersOfFourSectors(t *testing.T) {
	dir := t.TempDir()
	text := fmt.Sprintf("name: matrix\nbase: {image: %q}\nuser: {authorized_keys: [%q]}\ndocker: {packages: []}\n", imagetest.Bookworm(t, imagetest.WithClusters(4)), key)
	buildFixed(t, dir, t.TempDir(), text, []string{"p1"})
	image := filepath.Join(dir, "out", "p1.img")
	checkFileSystems(t, image)
	for _, fault := range firstBootFaults(unpack(t, image), "/boot/firmware") {
		t.Error(fault)
	}
}

// checkGolden compares an image with what it was built from: what was added,
// changed and removed, with modes, owners and digests, and the text of what is
// text.
func checkGolden(t *testing.T, c matrixCase) {
	got := c.describe(t)
	golden := filepath.Join("testdata", "matrix", c.name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s", diff.Diff(golden, want, "now", got))
	}
}

// isMatrixCase says whether the matrix has a case of this name.
func isMatrixCase(name string) bool {
	for _, base := range matrixBases {
		for _, network := range matrixNetworks {
			if base.only != nil && !slices.Contains(base.only, network.name) {
				continue
			}
			if name == fmt.Sprintf("%s-controller-%s", base.name, network.name) ||
				!network.controllerOnly && !base.noNodes && name == fmt.Sprintf("%s-p1-%s", base.name, network.name) {
				return true
			}
		}
	}
	return false
}

// checkFileSystems has e2fsck and fsck.vfat judge an image.
func checkFileSystems(t *testing.T, image string) {
	t.Helper()
	for _, p := range openImage(t, image).Partitions() {
		switch p.Number {
		case 1:
			boot := filepath.Join(t.TempDir(), "boot")
			testtool.Run(t, "dd", "if="+image, "of="+boot, "bs=4096", "conv=sparse", "status=none",
				fmt.Sprintf("skip=%d", p.Start/4096), fmt.Sprintf("count=%d", p.Size/4096))
			testtool.Run(t, "fsck.vfat", "-n", boot)
		case 2:
			testtool.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", image, p.Start))
		}
	}
}

func openImage(t *testing.T, path string) *diskimage.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := diskimage.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// described is a file of an image, as a golden shows it.
type described struct {
	diskimage.Node
	line    string
	content []byte
}

// describeTree describes all files of an image by path.
func describeTree(t *testing.T, image *diskimage.Image) map[string]described {
	t.Helper()
	tree, err := image.Tree()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]described{}
	err = tree.Walk("/", func(n diskimage.Node) error {
		d := described{Node: n, line: fmt.Sprintf("%v %d:%d %s", n.Mode, n.UID, n.GID, n.Path)}
		switch {
		case n.Problem != "":
			return errors.New(n.Path + ": " + n.Problem)
		case n.Mode.IsRegular():
			data, err := diskimage.ReadFile(tree, n.Path, 1<<24)
			if err != nil {
				return err
			}
			d.content = data
			if isIdentity(n.Path) {
				d.line += " <identity>"
			} else {
				d.line += fmt.Sprintf(" %d bytes sha256 %.12x", len(data), sha256.Sum256(data))
			}
		case n.Mode&fs.ModeSymlink != 0:
			d.line += " -> " + n.Target
		}
		if len(n.Xattrs) > 0 {
			d.line += fmt.Sprintf(" xattrs %q", n.Xattrs)
		}
		files[n.Path] = d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// isIdentity says whether a file holds keys or certificates, which are new for
// every cluster, or goes by them: what the image says that it is.
func isIdentity(path string) bool {
	return path == nodefile.BuildFile || strings.HasPrefix(path, "/etc/hatchery/identity/") || strings.HasPrefix(path, "/etc/ssh/ssh_host_")
}

// describe says what is in the image and was not in its base, or otherwise.
func (c matrixCase) describe(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	was, is := openImage(t, c.base), openImage(t, c.built)
	fmt.Fprintf(&b, "-- partitions --\n")
	for _, image := range []*diskimage.Image{was, is} {
		fmt.Fprintf(&b, "%s:", image.Table().DiskID)
		for _, p := range image.Partitions() {
			fmt.Fprintf(&b, " [%d type %s start %d size %d %s %q]", p.Number, p.Type, p.Start, p.Size, p.FileSystem, p.FSLabel)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "-- warnings --\n")
	for _, warning := range c.warnings {
		fmt.Fprintln(&b, warning)
	}
	before, after := describeTree(t, was), describeTree(t, is)
	fmt.Fprintf(&b, "-- files: + added, ~ changed, - removed --\n")
	var texts []string
	for _, path := range union(before, after) {
		old, was := before[path]
		now, is := after[path]
		switch {
		case !is:
			fmt.Fprintf(&b, "- %s\n", old.line)
			continue
		case was && old.line == now.line && bytes.Equal(old.content, now.content):
			// Its time stamp is what some files are there for.
			if now.Mode.IsRegular() && !old.ModTime.Equal(now.ModTime) {
				fmt.Fprintf(&b, "~ %s, touched\n", now.line)
			}
			continue
		case was:
			fmt.Fprintf(&b, "~ %s\n", now.line)
			if short := func(d described) string { return fmt.Sprint(d.Mode, d.UID, d.GID) }; short(old) != short(now) {
				fmt.Fprintf(&b, "  was %s\n", old.line)
			}
		default:
			fmt.Fprintf(&b, "+ %s\n", now.line)
		}
		if now.Mode.IsRegular() || now.Mode.IsDir() && !was {
			want, moved := time.Unix(matrixEpoch, 0), time.Unix(imagetest.Epoch, 0)
			if !now.ModTime.Equal(want) && !(strings.HasPrefix(path, "/home/") && now.ModTime.Equal(moved)) {
				t.Errorf("%s is of %v, not %v", path, now.ModTime.UTC(), want.UTC())
			}
		}
		if now.Mode.IsRegular() && !isIdentity(path) && utf8.Valid(now.content) && !bytes.Contains(now.content, []byte{0}) {
			texts = append(texts, path)
		}
	}
	for _, path := range texts {
		fmt.Fprintf(&b, "-- %s --\n%s", path, after[path].content)
		if content := after[path].content; len(content) > 0 && !bytes.HasSuffix(content, []byte("\n")) {
			b.WriteString("\n(no newline at the end)\n")
		}
	}
	return b.Bytes()
}

// union gives the keys of both, sorted.
func union[V any](a, b map[string]V) []string {
	var names []string
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
