// Package nodetest boots nodeinit under a real kernel: an emulated ARM board
// (QEMU's virt) with Debian's armhf kernel, whose link goes through a switch
// that knows VLAN 10, to whatever NBD server a test starts.
package nodetest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/filelock"
	"hatchery/internal/testtool"
)

// A Kernel is one with its modules.
type Kernel struct {
	Image   string
	Release string
	files   map[string]string // a module's name, its file
}

// DebianKernel gives Debian's kernel for ARM boards. It is fetched once, by apt
// with folders of its own, from the mirrors that the machine's APT
// configuration names, and kept under build/.
func DebianKernel(t testing.TB) *Kernel {
	t.Helper()
	if testing.Short() {
		t.Skip("a kernel to boot: not in short mode")
	}
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		testtool.Need(t, tool)
	}
	build := filepath.Join(repository(t), "build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		t.Fatal(err)
	}
	lock := filelock.New(filepath.Join(build, ".lock-kernel-armhf"))
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dir := filepath.Join(build, "kernel-armhf")
	if _, err := os.Stat(dir); err != nil {
		fetch(t, dir)
	}
	images, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if len(images) != 1 {
		t.Fatalf("%s holds the kernels %q: remove it", dir, images)
	}
	k := &Kernel{Image: images[0], files: map[string]string{}}
	k.Release = strings.TrimPrefix(filepath.Base(k.Image), "vmlinuz-")
	err := filepath.WalkDir(filepath.Join(dir, "lib/modules", k.Release), func(name string, d fs.DirEntry, err error) error {
		if stem, ok := strings.CutSuffix(filepath.Base(name), ".ko"); ok {
			k.files[strings.ReplaceAll(stem, "-", "_")] = name
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func repository(t testing.TB) string {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	t.Fatal("no go.mod above the test's folder")
	return ""
}

// fetch has apt fetch the package and unpacks it at dir.
func fetch(t testing.TB, dir string) {
	t.Helper()
	source := ""
	for line := range strings.Lines(testtool.Run(t, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Identifier: Packages")) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) == 3 && f[0] == "Debian" && !strings.Contains(f[1], "-") {
			source = fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", f[2], f[1])
			break
		}
	}
	if source == "" {
		testtool.Missing(t, "a Debian mirror in the machine's APT configuration (after apt-get update)")
	}
	work := dir + ".new"
	os.RemoveAll(work)
	defer os.RemoveAll(work)
	for _, sub := range []string{"etc/preferences.d", "etc/apt.conf.d", "state", "lists/partial", "archives/partial", "log", "tree"} {
		if err := os.MkdirAll(filepath.Join(work, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// How to reach the mirrors (proxies, credentials) is the machine's.
	var config strings.Builder
	for line := range strings.Lines(testtool.Run(t, "apt-config", "dump")) {
		for _, own := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until"} {
			if strings.HasPrefix(line, own) {
				config.WriteString(line)
			}
		}
	}
	fmt.Fprintf(&config, `APT::Architecture "armhf"; APT::Architectures {"armhf";}; APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "3";
Dir::Etc "%[1]s/etc"; Dir::Etc::netrc "/etc/apt/auth.conf"; Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "%[1]s/state"; Dir::State::Lists "%[1]s/lists"; Dir::State::Status "%[1]s/status"; Dir::Cache "%[1]s"; Dir::Log "%[1]s/log";
`, work)
	for name, text := range map[string]string{"apt.conf": config.String(), "etc/sources.list": source, "status": ""} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	apt := func(in string, args ...string) string {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(work, "apt.conf"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			testtool.Missing(t, fmt.Sprintf("Debian's armhf kernel (%q: %v: %s)", args, err, out))
		}
		return string(out)
	}
	apt(work, "apt-get", "-qq", "update")
	name := ""
	for line := range strings.Lines(apt(work, "apt-cache", "depends", "linux-image-armmp")) {
		if _, depends, ok := strings.Cut(line, "Depends: "); ok && name == "" {
			name = strings.TrimSpace(depends)
		}
	}
	apt(work, "apt-get", "-qq", "download", name)
	debs, _ := filepath.Glob(filepath.Join(work, "linux-image-*.deb"))
	if len(debs) != 1 {
		t.Fatalf("apt-get download %s left %q", name, debs)
	}
	testtool.Run(t, "dpkg-deb", "-x", debs[0], filepath.Join(work, "tree"))
	if err := os.Rename(filepath.Join(work, "tree"), dir); err != nil {
		t.Fatal(err)
	}
}

// Modules gives the files of modules, with what they depend on before them.
// What is built in, or unknown to this kernel, is left out.
func (k *Kernel) Modules(t testing.TB, names ...string) []string {
	t.Helper()
	var order []string
	seen := map[string]bool{}
	var add func(string)
	add = func(name string) {
		file := k.files[name]
		if seen[name] || file == "" {
			return
		}
		seen[name] = true
		depends, soft := info(t, file)
		for _, d := range append(soft, depends...) {
			add(d)
		}
		order = append(order, file)
	}
	for _, name := range names {
		add(strings.ReplaceAll(name, "-", "_"))
	}
	return order
}

// info reads what a module says it depends on.
func info(t testing.TB, file string) (depends, soft []string) {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		t.Fatalf("%s says nothing of itself", file)
	}
	data, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	for word := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(word), "depends="); ok && list != "" {
			depends = strings.Split(strings.ReplaceAll(list, "-", "_"), ",")
		}
		if list, ok := strings.CutPrefix(string(word), "softdep=pre: "); ok {
			for _, s := range strings.Fields(list) {
				soft = append(soft, strings.ReplaceAll(s, "-", "_"))
			}
		}
	}
	return depends, soft
}
