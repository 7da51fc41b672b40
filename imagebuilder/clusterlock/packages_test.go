package clusterlock_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/clusterlock"
)

var (
	base1 = "sha256:" + strings.Repeat("1e", 32)
	base2 = "sha256:" + strings.Repeat("2e", 32)
)

// set is what Docker may lead to. It is unpacked in an order that is not that
// of the names.
func set(base, architecture string) clusterlock.PackageSet {
	return clusterlock.PackageSet{Base: base, Architecture: architecture, Wanted: []string{"docker.io", "libfoo=1:2.0~rc1-1+b2"}, Packages: []clusterlock.Package{
		{Name: "runc", Version: "1.1.5+ds1-1+b1", Architecture: architecture, URL: "http://archive.example/debian/pool/main/r/runc/runc_1.1.5+ds1-1+b1_armhf.deb", SHA256: strings.Repeat("00", 32), Size: 1, Automatic: true},
		{Name: "docker.io", Version: "20.10.24+dfsg1-1", Architecture: architecture, URL: "https://archive.example/debian/pool/main/d/docker.io/docker.io_20.10.24%2bdfsg1-1_armhf.deb", SHA256: strings.Repeat("1e", 32), Size: 36248044},
		{Name: "libfoo", Version: "1:2.0~rc1-1+b2", Architecture: "all", URL: "https://archive.example/debian/pool/l.deb", SHA256: strings.Repeat("ab", 32), Size: 1 << 33},
	}}
}

func containers() []clusterlock.Container {
	return []clusterlock.Container{
		{Image: "./images/app.tar", Platform: "linux/arm64", Digest: base2},
		{Image: "alpine:3.20", Platform: "linux/arm/v6", Digest: base1, Size: 3350000},
		{Image: "alpine:3.20", Platform: "linux/arm/v7", Digest: base2, Size: 3350001},
	}
}

func TestPackages(t *testing.T) {
	l := &clusterlock.Lock{}
	for _, s := range []clusterlock.PackageSet{set(base2, "armhf"), set(base1, "armhf"), set(base1, "arm64")} {
		slices.Reverse(s.Wanted)
		s.Wanted = append(s.Wanted, "docker.io")
		l.PutPackages(s)
	}
	var order []string
	for _, s := range l.Packages {
		order = append(order, s.Base[7:9]+s.Architecture)
	}
	if diff := cmp.Diff([]string{"1earm64", "1earmhf", "2earmhf"}, order); diff != "" {
		t.Error(diff)
	}
	for _, test := range []struct {
		summary, base, architecture string
		wanted                      []string
		want                        bool
	}{
		{"the same", base1, "armhf", []string{"docker.io", "libfoo=1:2.0~rc1-1+b2"}, true},
		{"in another order, and twice", base2, "armhf", []string{"libfoo=1:2.0~rc1-1+b2", "docker.io", "docker.io"}, true},
		{"another version", base1, "armhf", []string{"docker.io", "libfoo"}, false},
		{"less", base1, "armhf", []string{"docker.io"}, false},
		{"another base", "sha256:" + strings.Repeat("3e", 32), "armhf", []string{"docker.io", "libfoo=1:2.0~rc1-1+b2"}, false},
		{"another architecture", base2, "arm64", []string{"docker.io", "libfoo=1:2.0~rc1-1+b2"}, false},
	} {
		got, ok := l.PackagesFor(test.base, test.architecture, test.wanted)
		want := clusterlock.PackageSet{}
		if test.want {
			want = set(test.base, test.architecture)
		}
		if diff := cmp.Diff(want, got); diff != "" || ok != test.want {
			t.Errorf("%s: %v %s", test.summary, ok, diff)
		}
	}

	// What was given out or in is nobody's but the caller's.
	mine, ok := l.PackagesOf(base1, "arm64")
	if !ok {
		t.Fatal("a set is gone")
	}
	mine.Packages[0].Name, mine.Wanted[0] = "changed", "changed"
	put := set(base2, "armhf")
	put.Packages = put.Packages[:1]
	l.PutPackages(put)
	put.Packages[0].Name = "changed"
	if got, _ := l.PackagesOf(base2, "armhf"); len(l.Packages) != 3 || len(got.Packages) != 1 || got.Packages[0].Name != "runc" {
		t.Errorf("%+v", got)
	}
	if got, _ := l.PackagesOf(base1, "arm64"); got.Packages[0].Name != "runc" || got.Wanted[0] != "docker.io" {
		t.Errorf("%+v", got)
	}
	such := func(s clusterlock.PackageSet) bool { return s.Base == base1 }
	if !l.ForgetPackages(such) || l.ForgetPackages(such) || len(l.Packages) != 1 {
		t.Errorf("%d sets are left", len(l.Packages))
	}
}

func TestContainers(t *testing.T) {
	l := &clusterlock.Lock{}
	for _, c := range []int{2, 0, 1, 2} {
		l.PutContainer(containers()[c])
	}
	if diff := cmp.Diff(containers(), l.Containers); diff != "" {
		t.Error(diff)
	}
	l.PutContainer(clusterlock.Container{Image: "alpine:3.20", Platform: "linux/arm/v6", Digest: base2})
	if c, ok := l.ContainerFor("alpine:3.20", "linux/arm/v6"); !ok || c.Digest != base2 || c.Size != 0 || len(l.Containers) != 3 {
		t.Errorf("%+v, %v", c, ok)
	}
	if c, ok := l.ContainerFor("alpine:3.20", "linux/arm64"); ok {
		t.Errorf("%+v", c)
	}
	such := func(c clusterlock.Container) bool { return c.Image == "alpine:3.20" }
	if !l.ForgetContainers(such) || l.ForgetContainers(such) || len(l.Containers) != 1 {
		t.Errorf("%d are left", len(l.Containers))
	}
}

// TestUpdatePackages: the file is canonical whatever order it was changed in,
// and is not touched where nothing changes.
func TestUpdatePackages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "8")
	dir := t.TempDir()
	var first string
	for round := range 2 {
		if _, err := clusterlock.Update(t.Context(), dir, func(l *clusterlock.Lock) error {
			l.Packages = []clusterlock.PackageSet{set(base2, "armhf"), set(base1, "armhf")}
			l.Containers = containers()
			slices.Reverse(l.Containers)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := read(t, dir); round == 0 {
			first = got
			write(t, dir, "# mine\n"+got)
		} else if got != "# mine\n"+first {
			t.Errorf("an update of nothing gives\n%s", got)
		}
	}
	l, err := clusterlock.Read(dir)
	if err != nil || len(l.Packages) != 2 || l.Packages[0].Base != base1 || l.Packages[0].Packages[0].Name != "runc" || l.Containers[2].Platform != "linux/arm/v7" {
		t.Errorf("%+v, %v", l, err)
	}
	// One number changes, deep within.
	if _, err := clusterlock.Update(t.Context(), dir, func(l *clusterlock.Lock) error { l.Packages[1].Packages[2].Size++; return nil }); err != nil || !strings.Contains(read(t, dir), fmt.Sprintf("size: %d\n", 1<<33+1)) {
		t.Errorf("%v\n%s", err, read(t, dir))
	}
	before := read(t, dir)
	secret := func(l *clusterlock.Lock) error {
		l.Packages[0].Packages[0].URL = "https://me:hunter2@archive.example/a.deb"
		return nil
	}
	if _, err := clusterlock.Update(t.Context(), dir, secret); err == nil || !strings.Contains(err.Error(), "url has an account") || strings.Contains(err.Error(), "hunter2") || read(t, dir) != before {
		t.Errorf("%v\n%s", err, read(t, dir))
	}
	vast := func(l *clusterlock.Lock) error {
		l.Packages[0].Packages = nil
		for i := range 2000 - len(l.Packages[1].Packages) {
			l.Packages[0].Packages = append(l.Packages[0].Packages, clusterlock.Package{Name: fmt.Sprintf("a%d", i), Version: "1", Architecture: "all", URL: "https://archive.example/" + strings.Repeat("x", 500), SHA256: strings.Repeat("ab", 32), Size: 1})
		}
		return nil
	}
	if _, err := clusterlock.Update(t.Context(), dir, vast); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") || read(t, dir) != before {
		t.Errorf("%v", err)
	}
}

// TestLargest: what the limits allow can be read again.
func TestLargest(t *testing.T) {
	l := &clusterlock.Lock{Epoch: now}
	for s := range 2 {
		of := clusterlock.PackageSet{Base: []string{base1, base2}[s], Architecture: "armhf", Wanted: []string{"a"}}
		for i := range 1000 {
			of.Packages = append(of.Packages, clusterlock.Package{Name: fmt.Sprintf("a%d", i), Version: "1", Architecture: "all", URL: "https://archive.example/" + strings.Repeat("x", 200), SHA256: strings.Repeat("ab", 32), Size: 1, Automatic: true})
		}
		l.PutPackages(of)
	}
	for i := range 1000 {
		l.PutContainer(clusterlock.Container{Image: fmt.Sprintf("a%d:b", i), Platform: "linux/arm/v6", Digest: base1, Size: 1})
	}
	again, err := clusterlock.Parse(l.Bytes())
	if err != nil || len(again.Packages) != 2 || len(again.Packages[1].Packages) != 1000 || len(again.Containers) != 1000 {
		t.Fatalf("%d bytes: %v", len(l.Bytes()), err)
	}
}

func TestPackagesThatAreRefused(t *testing.T) {
	head := "epoch: 8\n"
	good := string((&clusterlock.Lock{Packages: []clusterlock.PackageSet{set(base1, "armhf")}, Containers: containers()[1:2]}).Bytes())
	_, body, _ := strings.Cut(good, "\npackages:")
	good = head + "packages:" + body
	if _, err := clusterlock.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ summary, was, is, want string }{
		{"a base by name", base1[:20], "raspios", `base is no digest`},
		{"no architecture", `    architecture: "armhf"` + "\n    wanted", "    wanted", "architecture is missing"},
		{"nothing wanted", "      - \"docker.io\"\n      - \"libfoo=1:2.0~rc1-1+b2\"\n", "", "wanted is missing"},
		{"what would disturb a terminal", `- "docker.io"`, `- "docker\u009b2J"`, "wanted has what is endless"},
		{"an empty wish", `- "docker.io"`, `- ""`, "wanted has"},
		{"no name", `name: "runc"`, `name: ""`, "this is no package's name"},
		{"a path for a name", `name: "runc"`, `name: "../runc"`, "this is no package's name"},
		{"no version", `        version: "1.1.5+ds1-1+b1"` + "\n", "", `"runc": version is missing`},
		{"a version with a blank", `1.1.5+ds1-1+b1"`, `1 1"`, `"runc": version is missing, or none`},
		{"a package twice", `name: "runc"`, `name: "docker.io"`, `"docker.io": it is there twice`},
		{"no digest", strings.Repeat("00", 32), "", `"runc": sha256 is missing`},
		{"a digest in capitals", strings.Repeat("ab", 32), strings.Repeat("AB", 32), `"libfoo": sha256 is missing`},
		{"no size", "size: 36248044", "size: 0", "size is missing"},
		{"a negative size", "size: 36248044", "size: -1", "size is missing, or makes"},
		{"a file", "https://archive.example/debian/pool/l.deb", "file:///etc/passwd", "url is no http or https URL"},
		{"an account", "https://archive.example/debian/pool/l.deb", "https://hunter2@archive.example/", "url has an account"},
		{"a query", "https://archive.example/debian/pool/l.deb", "https://archive.example/?hunter2", "url has an account, a query"},
		{"no URL", "https://archive.example/debian/pool/l.deb", "", "url is missing"},
		{"an endless URL", "https://archive.example/debian/pool/l.deb", "https://archive.example/" + strings.Repeat("x", 2000), "url is missing, is endless"},
		{"a key of a later version", "size: 36248044", "size: 36248044\n        signed: true", "a newer hatchery"},
		{"a key twice", "size: 36248044", "size: 36248044\n        size: 1", "line "},
		{"automatic in words", "automatic: true", "automatic: perhaps", "line "},
		{"packages as a mapping", "packages:\n  - base", "packages:\n    base", "line "},
		{"no image", `image: "alpine:3.20"`, `image: ""`, "image is missing"},
		{"an endless image", `alpine:3.20`, strings.Repeat("a", 1001), "image is missing, is endless"},
		{"no platform", `linux/arm/v6`, "arm", "platform is missing, or none"},
		{"no digest of a container", "    digest: \"" + base1 + "\"\n", "", "digest is missing"},
		{"a container twice", `    size: 3350000`, "    size: 3350000\n  - image: \"alpine:3.20\"\n    platform: \"linux/arm/v6\"\n    digest: \"" + base1 + `"`, "it is there twice for linux/arm/v6"},
		{"a set twice", "containers:", "  - base: \"" + base1 + "\"\n    architecture: armhf\n    wanted:\n      - a\ncontainers:", "it is there twice for armhf"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			content := strings.Replace(good, test.was, test.is, 1)
			if content == good {
				t.Fatal("nothing was changed")
			}
			dir := t.TempDir()
			write(t, dir, content)
			_, err := clusterlock.Read(dir)
			var input *clusterlock.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want an InputError with %q", err, test.want)
			}
		})
	}
}
