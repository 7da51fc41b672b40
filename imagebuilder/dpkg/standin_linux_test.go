package dpkg_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/dpkg"
	"hatchery/internal/deb822"
	"hatchery/internal/ext4"
	"hatchery/internal/testtool"
)

// The stand-in bases' roots, Docker's real packages, and the root's own dpkg,
// run under emulation.

// standIn gives the root file system of a stand-in base as a file of the
// test's own, with room for Docker.
func standIn(t *testing.T, release string) string {
	t.Helper()
	testtool.NeedRoot(t)
	if _, err := os.Stat("/proc/sys/fs/binfmt_misc/qemu-arm"); err != nil {
		testtool.Missing(t, "qemu-arm among the kernel's binary formats (run `make base`)")
	}
	variable := "HATCHERY_BASE_" + strings.ToUpper(release)
	packed := os.Getenv(variable)
	if packed == "" {
		testtool.Missing(t, variable+", the path of the stand-in base (run `make base`)")
	}
	image := filepath.Join(t.TempDir(), "root.img")
	all := filepath.Join(t.TempDir(), "base.img")
	testtool.Run(t, "sh", "-c", `xz -dc "$0" >"$1"`, packed, all)
	var table struct {
		PartitionTable struct {
			Partitions []struct{ Start, Size int64 }
		}
	}
	check(t, json.Unmarshal([]byte(testtool.Run(t, "sfdisk", "-J", all)), &table))
	p := table.PartitionTable.Partitions[1]
	testtool.Run(t, "sh", "-c", fmt.Sprintf(`dd if="$0" of="$1" bs=1M iflag=skip_bytes,count_bytes skip=%d count=%d conv=sparse status=none && truncate -s %d "$1"`, p.Start*512, p.Size*512, p.Size*512+400<<20), all, image)
	check(t, os.Remove(all))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	root, err := ext4.Open(f, p.Size*512)
	check(t, err)
	check(t, root.Grow(p.Size*512+400<<20))
	check(t, root.Flush())
	return image
}

// fetch has APT fetch packages for a root with what they depend on there, from
// the mirrors that it was made from itself, and gives the files in the
// order in which APT would unpack them.
func fetch(t *testing.T, root string, names ...string) []string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command(testtool.Need(t, "bash"), append([]string{"testdata/fetch", root, dir}, names...)...).Output()
	if err != nil {
		var text []byte
		if exit, ok := err.(*exec.ExitError); ok {
			text = exit.Stderr
		}
		testtool.Missing(t, fmt.Sprintf("the Debian mirror that the base was made from: %v\n%s", err, text))
	}
	files := strings.Fields(string(out))
	if len(files) == 0 {
		t.Fatal("APT would install nothing")
	}
	return files
}

// openFiles opens packages by their files.
func openFiles(t *testing.T, files []string) []dpkg.Package {
	t.Helper()
	var list []dpkg.Package
	for _, name := range files {
		f, err := os.Open(name)
		check(t, err)
		t.Cleanup(func() { f.Close() })
		info, err := f.Stat()
		check(t, err)
		d, err := deb.Open(f, info.Size())
		check(t, err)
		list = append(list, dpkg.Package{Name: filepath.Base(name), Deb: d, Automatic: !strings.HasPrefix(filepath.Base(name), "docker.io_")})
	}
	return list
}

// enter runs a program in a root, with what such a program expects of a
// system, and in namespaces of its own, so that nothing outlives it.
func enter(t *testing.T, root string, args ...string) (string, error) {
	t.Helper()
	script := `mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && mount -t tmpfs tmpfs "$0/run" && mount -t tmpfs tmpfs "$0/tmp" && exec chroot "$0" "$@"`
	cmd := exec.Command(testtool.Need(t, "unshare"), append([]string{"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, root}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1", "INITRD=No", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustEnter(t *testing.T, root string, args ...string) string {
	t.Helper()
	out, err := enter(t, root, args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

func TestUnpackDockerBookworm(t *testing.T) { testDocker(t, "bookworm") }
func TestUnpackDockerTrixie(t *testing.T)   { testDocker(t, "trixie") }

func testDocker(t *testing.T, release string) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	theirs := standIn(t, release)
	ours := theirs + ".ours"
	dir := mount(t, theirs, 0)
	files := fetch(t, dir, "docker.io")
	hello := fetch(t, dir, "hello")
	check(t, unix.Unmount(dir, 0))
	testtool.Run(t, "cp", "--sparse=always", theirs, ours)

	// dpkg's turn: the root's own, in the root.
	dir = mount(t, theirs, 0)
	check(t, os.MkdirAll(filepath.Join(dir, "root/debs"), 0o755))
	inside := []string{"dpkg", "--no-triggers", "--auto-deconfigure", "--force-unsafe-io", "--unpack"}
	for _, name := range files {
		testtool.Run(t, "cp", name, filepath.Join(dir, "root/debs"))
		inside = append(inside, "/root/debs/"+filepath.Base(name))
	}
	start := time.Now().Truncate(time.Second)
	mustEnter(t, dir, inside...)
	check(t, os.RemoveAll(filepath.Join(dir, "root/debs")))

	// Ours.
	packages := openFiles(t, files)
	f, err := os.OpenFile(ours, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	info, err := f.Stat()
	check(t, err)
	began := time.Now()
	root, err := ext4.Open(f, info.Size())
	check(t, err)
	before := root.Usage()
	result, err := dpkg.Unpack(context.Background(), root, packages, dpkg.Options{Epoch: epoch, Hold: true})
	check(t, err)
	check(t, root.Flush())
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	after := root.Usage()
	t.Logf("%d packages in %v, %d MiB of Go's memory from the system", len(packages), time.Since(began).Round(time.Millisecond), memory.Sys>>20)
	testtool.Run(t, "e2fsck", "-fn", ours)
	estimate := int64(0)
	for _, p := range packages {
		control, err := p.Deb.Control()
		check(t, err)
		estimate += dpkg.Space(control)
	}
	if used := int64(before.FreeBlocks-after.FreeBlocks) * before.BlockSize; used > estimate || estimate > used*5/4 {
		t.Errorf("%d MiB were used, and the estimate was %d", used>>20, estimate>>20)
	}

	mine := mount(t, ours, 0)
	// dpkg has no option that holds what it unpacks.
	status := strings.TrimPrefix(deb822.StatusFile, "/")
	check(t, os.WriteFile(filepath.Join(dir, status), []byte(strings.ReplaceAll(readFile(t, dir, status), "Status: install ok unpacked\n", "Status: hold ok unpacked\n")), 0o644))
	compare(t, dir, mine, start, "/root", "/var/lib/apt") // APT's marks
	check(t, unix.Unmount(dir, unix.MNT_DETACH))

	// What the node does at its first boot.
	out := mustEnter(t, mine, "apt-mark", "showauto")
	for _, p := range result.Packages {
		if p.Automatic != slices.Contains(strings.Fields(out), p.Name) {
			t.Errorf("%s: automatic is %v, and apt-mark showauto says\n%s", p.Name, p.Automatic, out)
		}
	}
	content := readFile(t, mine, dpkg.ScriptsFile)
	if want := "docker.io armel preinst /var/lib/dpkg/info/docker.io.preinst install\n"; content != want {
		t.Errorf("the scripts to be run are\n%swant\n%s", content, want)
	}
	for line := range strings.Lines(content) {
		words := strings.Fields(line)
		mustEnter(t, mine, append([]string{"env", "DPKG_MAINTSCRIPT_PACKAGE=" + words[0], "DPKG_MAINTSCRIPT_ARCH=" + words[1], "DPKG_MAINTSCRIPT_NAME=" + words[2]}, words[3:]...)...)
	}
	check(t, os.WriteFile(filepath.Join(mine, "usr/sbin/policy-rc.d"), []byte("#!/bin/sh\nexit 101\n"), 0o755))
	mustEnter(t, mine, "dpkg", "--force-unsafe-io", "--configure", "-a")
	if out := mustEnter(t, mine, "dpkg", "--audit"); out != "" {
		t.Errorf("dpkg --audit:\n%s", out)
	}
	for _, p := range result.Packages {
		if out := mustEnter(t, mine, "dpkg-query", "-W", "-f", "${db:Status-Status}", p.Name); out != "installed" {
			t.Errorf("%s is %s", p.Name, out)
		}
		if out := mustEnter(t, mine, "dpkg", "-V", p.Name); out != "" {
			t.Errorf("dpkg -V %s:\n%s", p.Name, out)
		}
	}
	mustEnter(t, mine, "apt-get", "check")
	testtool.Run(t, "cp", hello[0], filepath.Join(mine, "root/hello.deb"))
	mustEnter(t, mine, "apt-get", "-y", "install", "/root/hello.deb")
	if out := mustEnter(t, mine, "hello"); out != "Hello, world!\n" {
		t.Errorf("the package that was installed then says %q", out)
	}
	// The Pi Zero's processor.
	if out := mustEnter(t, mine, "env", "QEMU_CPU=arm1176", "dockerd", "--version"); !strings.HasPrefix(out, "Docker version ") {
		t.Errorf("dockerd --version says %q", out)
	}
}

func readFile(t *testing.T, root, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	check(t, err)
	return string(content)
}
