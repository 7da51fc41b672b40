package dpkg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
	"hatchery/imagebuilder/dpkg"
	"hatchery/internal/deb822"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
)

var epoch = time.Date(2026, 5, 13, 0, 0, 0, 0, time.UTC)

// A memory is a root partition.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// miniature gives the root partition of a miniature of Raspberry Pi OS.
func miniature(t testing.TB, codename string, options ...imagetest.Option) memory {
	t.Helper()
	image, err := os.ReadFile(imagetest.Release(t, codename, options...))
	if err != nil {
		t.Fatal(err)
	}
	return memory(image[imagetest.LayoutOf(codename).RootStart:])
}

func (m memory) open(t testing.TB) *ext4.FS {
	t.Helper()
	root, err := ext4.Open(m, int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// open makes a package of the bytes of a .deb.
func open(t testing.TB, name string, content []byte) dpkg.Package {
	t.Helper()
	d, err := deb.Open(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return dpkg.Package{Name: name, Deb: d}
}

// makeDeb builds a package without knowing of this machine.
func makeDeb(t testing.TB, name, version, arch string, fields []string, files []debtest.File, options ...debtest.Option) dpkg.Package {
	t.Helper()
	return open(t, name+".deb", debtest.Build(t, debtest.Control(name, version, arch, fields...), files, options...))
}

func read(t testing.TB, root *ext4.FS, name string) string {
	t.Helper()
	content, err := root.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// paragraph gives a package's part of the status file.
func paragraph(t testing.TB, root *ext4.FS, name string) string {
	t.Helper()
	for p := range strings.SplitSeq(read(t, root, deb822.StatusFile), "\n\n") {
		if strings.HasPrefix(p, "Package: "+name+"\n") {
			return p + "\n"
		}
	}
	t.Fatalf("no %s in the status file", name)
	return ""
}

// TestUnpack unpacks into each release without any tool.
func TestUnpack(t *testing.T) {
	for _, codename := range []string{"bullseye", "bookworm", "trixie"} {
		t.Run(codename, func(t *testing.T) {
			part := miniature(t, codename)
			packages := func() []dpkg.Package {
				list := []dpkg.Package{
					makeDeb(t, "libhello", "1:2.0-1", "armhf", []string{"Multi-Arch: same", "Source: hello (2.0-1)", "Installed-Size: 30"}, []debtest.File{{Path: "/usr/lib/libhello.so.1", Content: "lib"}}),
					makeDeb(t, "hello", "2.0-1+b1", "armhf", []string{"Section: misc", "Depends: libc6 (>=2), libhello"}, []debtest.File{
						debtest.Executable("/bin/hello", "#!/bin/sh\n"), {Path: "/etc/hello.conf", Content: "x\n"}, debtest.Symlink("/usr/bin/hi", "hello"), debtest.HardLink("/usr/bin/hallo", "/bin/hello"),
					}, debtest.Conffiles("/etc/hello.conf"), debtest.Script("preinst", "#!/bin/sh\n")),
				}
				list[0].Automatic = true
				return list
			}
			again := slices.Clone(part)
			var result *dpkg.Result
			for _, p := range []memory{part, again} {
				root := p.open(t)
				var err error
				if result, err = dpkg.Unpack(context.Background(), root, packages(), dpkg.Options{Epoch: epoch, Hold: true}); err != nil {
					t.Fatal(err)
				}
				if err := root.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(part, again) {
				t.Error("the same packages make another image the second time")
			}
			root := part.open(t)
			const status = `Package: hello
Status: hold ok unpacked
Section: misc
Maintainer: Nobody <nobody@archive.example>
Architecture: armhf
Version: 2.0-1+b1
Depends: libc6 (>= 2), libhello
Conffiles:
 /etc/hello.conf newconffile
Description: hello for tests
`
			if got := paragraph(t, root, "hello"); got != status {
				t.Errorf("the status file has\n%s", got)
			}
			for name, want := range map[string]string{
				"/var/lib/dpkg/info/hello.list":             "/.\n/bin\n/bin/hello\n/etc\n/etc/hello.conf\n/usr\n/usr/bin\n/usr/bin/hallo\n/usr/bin/hi\n",
				"/var/lib/dpkg/info/libhello:armhf.list":    "/.\n/usr\n/usr/lib\n/usr/lib/libhello.so.1\n",
				"/usr/bin/hello":                            "#!/bin/sh\n",
				"/etc/hello.conf.dpkg-new":                  "x\n",
				"/var/lib/hatchery/packages/scripts":        "hello armhf preinst /var/lib/dpkg/info/hello.preinst install\n",
				"/var/lib/dpkg/info/format":                 "1\n",
				"/var/lib/dpkg/triggers/Unincorp":           "",
				"/var/lib/dpkg/info/hello.conffiles":        "/etc/hello.conf\n",
				"/var/lib/dpkg/info/libhello:armhf.md5sums": "e8acc63b1e238f3255c900eed37254b8  usr/lib/libhello.so.1\n",
			} {
				if got := read(t, root, name); got != want {
					t.Errorf("%s has\n%swant\n%s", name, got, want)
				}
			}
			if !strings.HasSuffix(read(t, root, "/var/lib/apt/extended_states"), "Package: libhello\nArchitecture: armhf\nAuto-Installed: 1\n\n") {
				t.Errorf("extended_states has\n%s", read(t, root, "/var/lib/apt/extended_states"))
			}
			got := fmt.Sprintf("%+v", result)
			const want = "&{Packages:[{Name:libhello Version:1:2.0-1 Architecture:armhf Source:hello SourceVersion:2.0-1 InstalledSize:30720 Automatic:true Files:[/usr/lib/libhello.so.1]}" +
				" {Name:hello Version:2.0-1+b1 Architecture:armhf Source:hello SourceVersion:2.0-1+b1 InstalledSize:0 Automatic:false Files:[/bin/hello /etc/hello.conf.dpkg-new /usr/bin/hallo]}]" +
				" Scripts:[hello armhf preinst /var/lib/dpkg/info/hello.preinst install]}"
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestUnpackRefuses(t *testing.T) {
	part := miniature(t, "bookworm")
	plain := func(name, version, arch string) func(testing.TB) dpkg.Package {
		return func(t testing.TB) dpkg.Package { return makeDeb(t, name, version, arch, nil, nil) }
	}
	status := func(from, to string) func(testing.TB, *ext4.FS) {
		return func(t testing.TB, root *ext4.FS) {
			text := read(t, root, deb822.StatusFile)
			if !strings.Contains(text, from) {
				t.Fatalf("no %q in the status file", from)
			}
			write(t, root, deb822.StatusFile, strings.Replace(text, from, to, 1))
		}
	}
	for _, c := range []struct {
		summary string
		edit    func(testing.TB, *ext4.FS)
		unpack  []func(testing.TB) dpkg.Package
		options dpkg.Options
		want    string
		kind    any
	}{
		{
			summary: "for another architecture", unpack: []func(testing.TB) dpkg.Package{plain("x", "1", "arm64")},
			want: "x.deb is for arm64, and the image's packages are for armhf", kind: new(*dpkg.ArchitectureError),
		},
		{
			summary: "there already", unpack: []func(testing.TB) dpkg.Package{plain("kmod", "99", "armhf")},
			want: "the image has kmod 30+20221128-1 already, which 99 would replace: allow it with `docker: {upgrade: true}`, or take a base image that is up to date", kind: new(*dpkg.PresentError),
		},
		{
			summary: "there already, of the same version", unpack: []func(testing.TB) dpkg.Package{plain("kmod", "30+20221128-1", "armhf")},
			want: "the image has kmod 30+20221128-1 already: leave it out", kind: new(*dpkg.InputError),
		},
		{
			summary: "twice", unpack: []func(testing.TB) dpkg.Package{plain("x", "1", "all"), plain("x", "2", "all")},
			want: "x.deb and x.deb are both package x: name one of them", kind: new(*dpkg.InputError),
		},
		{
			summary: "a dpkg that was interrupted", edit: func(t testing.TB, root *ext4.FS) {
				if err := root.MkdirAll("/var/lib/dpkg/updates", ext4.Attr{Mode: 0o755}); err != nil {
					t.Fatal(err)
				}
				write(t, root, "/var/lib/dpkg/updates/0003", "x")
			},
			want: "/var/lib/dpkg/updates/0003: dpkg was interrupted in this image: boot it and run `dpkg --configure -a`, or take another base image", kind: new(*dpkg.DatabaseError),
		},
		{
			summary: "a package that is half there", edit: status("install ok installed", "install reinstreq half-installed"),
			want: "dpkg was interrupted in this image; reinstall the package there, or take another base image", kind: new(*dpkg.DatabaseError),
		},
		{
			summary: "a state that is none", edit: status("install ok installed", "install ok instaled"),
			want: `is "instaled", which is no state of a package`, kind: new(*dpkg.DatabaseError),
		},
		{
			summary: "no dpkg", edit: status("Package: dpkg\n", "Package: dpkg-dev\n"),
			want: "it does not have the package dpkg", kind: new(*dpkg.DatabaseError),
		},
		{
			summary: "no status file", edit: func(t testing.TB, root *ext4.FS) {
				if err := root.Remove(deb822.StatusFile); err != nil {
					t.Fatal(err)
				}
			},
			want: "/var/lib/dpkg/status: there is none: no dpkg was at work here", kind: new(*dpkg.DatabaseError),
		},
		{
			summary: "a layout of the future", edit: func(t testing.TB, root *ext4.FS) { write(t, root, "/var/lib/dpkg/info/format", "2\n") },
			want: `/var/lib/dpkg/info/format:1: the version "2" of the layout is not known`, kind: new(*dpkg.DatabaseError),
		},
		{
			summary: "a way that leads out of the image", edit: func(t testing.TB, root *ext4.FS) {
				if err := root.MkdirAll("/opt", ext4.Attr{Mode: 0o755}); err != nil {
					t.Fatal(err)
				}
				if err := root.Symlink("../../../etc", "/opt/out", ext4.Attr{Mode: 0o777}); err != nil {
					t.Fatal(err)
				}
			},
			unpack: []func(testing.TB) dpkg.Package{func(t testing.TB) dpkg.Package {
				return makeDeb(t, "x", "1", "all", nil, []debtest.File{{Path: "/opt/out/shadow", Content: "x"}})
			}},
			want: "cannot unpack x.deb: /opt/out/shadow cannot be written: the symbolic link /opt/out leads out of the image, by way of ../../../etc", kind: new(*dpkg.EscapeError),
		},
		{
			summary: "a way that a package before it made",
			unpack: []func(testing.TB) dpkg.Package{func(t testing.TB) dpkg.Package {
				return makeDeb(t, "a", "1", "all", nil, []debtest.File{debtest.Symlink("/opt/out", "root/../etc"), debtest.Symlink("/opt/root", "/")})
			}, func(t testing.TB) dpkg.Package {
				return makeDeb(t, "b", "1", "all", nil, []debtest.File{{Path: "/opt/out/shadow", Content: "x"}}, debtest.WithoutParents())
			}},
			want: "cannot unpack b.deb: /opt/out/shadow cannot be written", kind: new(*dpkg.EscapeError),
		},
		{
			summary: "a file of the boot partition",
			unpack: []func(testing.TB) dpkg.Package{func(t testing.TB) dpkg.Package {
				return makeDeb(t, "firmware", "1", "all", nil, []debtest.File{{Path: "/boot/firmware/start.elf", Content: "x"}})
			}},
			want: "cannot unpack firmware.deb: /boot/firmware/start.elf belongs on the file system that the image mounts at /boot/firmware, and packages are unpacked to the root alone: leave firmware out", kind: new(*dpkg.InputError),
		},
		{
			summary: "more than there is room for",
			unpack: []func(testing.TB) dpkg.Package{func(t testing.TB) dpkg.Package {
				return makeDeb(t, "big", "1", "all", nil, []debtest.File{{Path: "/opt/big", Zeros: 80 << 20}}, debtest.Compression("gz"))
			}},
			want: "cannot write /opt/big", kind: ext4.ErrNoSpace,
		},
		{
			summary: "a bomb", options: dpkg.Options{Most: 1 << 20},
			unpack: []func(testing.TB) dpkg.Package{func(t testing.TB) dpkg.Package {
				return makeDeb(t, "bomb", "1", "all", nil, []debtest.File{{Path: "/opt/big", Zeros: 2 << 20}}, debtest.Compression("gz"))
			}},
			want: "cannot unpack bomb.deb", kind: deb.ErrTooLarge,
		},
		{
			summary: "two that are a bomb together", options: dpkg.Options{Most: 3 << 20},
			unpack: []func(testing.TB) dpkg.Package{func(t testing.TB) dpkg.Package {
				return makeDeb(t, "first", "1", "all", nil, []debtest.File{{Path: "/opt/1", Zeros: 2 << 20}}, debtest.Compression("gz"))
			}, func(t testing.TB) dpkg.Package {
				return makeDeb(t, "second", "1", "all", nil, []debtest.File{{Path: "/opt/2", Zeros: 2 << 20}}, debtest.Compression("gz"))
			}},
			want: "cannot unpack second.deb", kind: deb.ErrTooLarge,
		},
	} {
		t.Run(c.summary, func(t *testing.T) {
			root := slices.Clone(part).open(t)
			if c.edit != nil {
				c.edit(t, root)
			}
			if c.unpack == nil {
				c.unpack = append(c.unpack, plain("x", "1", "all"))
			}
			var packages []dpkg.Package
			for _, p := range c.unpack {
				packages = append(packages, p(t))
			}
			c.options.Epoch = epoch
			_, err := dpkg.Unpack(context.Background(), root, packages, c.options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got error %v\nwant      %s", err, c.want)
			}
			if target, ok := c.kind.(error); ok {
				if !errors.Is(err, target) {
					t.Errorf("%v is not %v", err, target)
				}
			} else if !errors.As(err, c.kind) {
				t.Errorf("%v is no %T", err, c.kind)
			}
		})
	}
}

func write(t testing.TB, root *ext4.FS, name, content string) {
	t.Helper()
	if err := root.MkdirAll(path.Dir(name), ext4.Attr{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := root.Create(name, strings.NewReader(content), ext4.Attr{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
}

func TestUnpackCancelled(t *testing.T) {
	root := miniature(t, "bookworm").open(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p := makeDeb(t, "x", "1", "all", nil, []debtest.File{{Path: "/opt/x", Content: "x"}})
	if _, err := dpkg.Unpack(ctx, root, []dpkg.Package{p}, dpkg.Options{Epoch: epoch}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestUnpackPreDepends has what a preinst needs configured before it is run,
// with what that needs in turn.
func TestUnpackPreDepends(t *testing.T) {
	root := miniature(t, "bookworm").open(t)
	script := debtest.Script("preinst", "#!/bin/sh\n")
	result, err := dpkg.Unpack(context.Background(), root, []dpkg.Package{
		makeDeb(t, "deep", "1", "all", nil, nil),
		makeDeb(t, "needed", "1", "armhf", []string{"Multi-Arch: same", "Depends: libc6, deep"}, nil, script),
		makeDeb(t, "other", "1", "all", nil, nil, script),
		makeDeb(t, "silent", "1", "all", []string{"Pre-Depends: needed"}, nil),
		makeDeb(t, "needy", "1", "all", []string{"Pre-Depends: nobody | needed (>= 1), dpkg"}, nil, script),
	}, dpkg.Options{Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, s := range result.Scripts {
		fmt.Fprintln(&got, s)
	}
	const want = `needed armhf preinst /var/lib/dpkg/info/needed:armhf.preinst install
other all preinst /var/lib/dpkg/info/other.preinst install
needy all configure /usr/bin/dpkg --force-confdef --force-confold --configure deep needed:armhf
needy all preinst /var/lib/dpkg/info/needy.preinst install
`
	if got.String() != want || read(t, root, dpkg.ScriptsFile) != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// TestUnpackOldScripts keeps the scripts of a version that is replaced.
func TestUnpackOldScripts(t *testing.T) {
	root := miniature(t, "bookworm").open(t)
	scripts := func(version string) []debtest.Option {
		var list []debtest.Option
		for _, name := range []string{"preinst", "prerm", "postrm"} {
			list = append(list, debtest.Script(name, "#!/bin/sh\n# "+version+"\n"))
		}
		return list
	}
	write(t, root, "/var/lib/dpkg/info/kmod.prerm", "#!/bin/sh\n# base\n")
	var last string
	for _, version := range []string{"90", "91"} {
		_, err := dpkg.Unpack(context.Background(), root, []dpkg.Package{makeDeb(t, "kmod", version, "armhf", nil, nil, scripts(version)...)}, dpkg.Options{Epoch: epoch, Upgrade: true})
		if err != nil {
			t.Fatal(err)
		}
		last = read(t, root, dpkg.ScriptsFile)
	}
	const want = `kmod armhf prerm /var/lib/hatchery/packages/old/kmod.prerm upgrade 90
kmod armhf preinst /var/lib/dpkg/info/kmod.preinst upgrade 30+20221128-1 90
kmod armhf preinst /var/lib/dpkg/info/kmod.preinst upgrade 90 91
kmod armhf postrm /var/lib/hatchery/packages/old/kmod.postrm upgrade 91
`
	if last != want {
		t.Errorf("got\n%swant\n%s", last, want)
	}
	if got := read(t, root, "/var/lib/hatchery/packages/old/kmod.prerm"); got != "#!/bin/sh\n# base\n" {
		t.Errorf("the script that was kept is\n%s", got)
	}
	if got := paragraph(t, root, "kmod"); !strings.Contains(got, "\nConfig-Version: 30+20221128-1\n") || !strings.Contains(got, "\nSection: admin\n") {
		t.Errorf("the status file has\n%s", got)
	}
}

// TestSpace: a little more than the package says.
func TestSpace(t *testing.T) {
	control, err := makeDeb(t, "x", "1", "all", []string{"Installed-Size: 1000"}, nil, debtest.ControlFile("templates", strings.Repeat("x", 5000))).Deb.Control()
	if err != nil {
		t.Fatal(err)
	}
	if got := dpkg.Space(control); got < 1000<<10+8192 || got > 1200<<10 {
		t.Errorf("got %d", got)
	}
}
