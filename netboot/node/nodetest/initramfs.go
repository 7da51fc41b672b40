package nodetest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hatchery/internal/testtool"
)

// built are the programs that were built already.
var built struct {
	sync.Mutex
	programs map[string][]byte
}

// Build builds a program of this module for the boards that nodes are, once in a
// process. Nobody changes what it gives.
func Build(t testing.TB, pkg string) []byte {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if program := built.programs[pkg]; program != nil {
		return program
	}
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command(testtool.Need(t, "go"), "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm", "GOARM=6", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if built.programs == nil {
		built.programs = map[string][]byte{}
	}
	built.programs[pkg] = data
	return data
}

// Initramfs makes one: init, other programs, modules and their list, which is
// in the modules' order.
func Initramfs(t testing.TB, init []byte, modules []string, more map[string][]byte) []byte {
	t.Helper()
	var a archive
	for _, dir := range []string{"dev", "etc", "etc/hatchery", "lib", "lib/modules"} {
		a.add(dir, 0o40755, nil, 0, 0)
	}
	a.add("dev/console", 0o20600, nil, 5, 1)
	a.add("dev/null", 0o20666, nil, 1, 3)
	a.add("init", 0o100755, init, 0, 0)
	for name, data := range more {
		a.add(name, 0o100755, data, 0, 0)
	}
	var list strings.Builder
	for _, file := range modules {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := "lib/modules/" + filepath.Base(file)
		a.add(name, 0o100644, data, 0, 0)
		fmt.Fprintf(&list, "/%s\n", name)
	}
	a.add("etc/hatchery/modules", 0o100644, []byte(list.String()), 0, 0)
	a.add("TRAILER!!!", 0, nil, 0, 0)
	return a.Bytes()
}

// An archive is cpio's format newc (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode int, data []byte, major, minor int) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// Disk makes an image as a card has it: a table with the signature, an empty
// boot partition, and a root of a size and UUID that holds what dir holds.
func Disk(t testing.TB, image, dir string, signature uint32, rootMiB int, uuid string) {
	t.Helper()
	const start = 4 << 20
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(start + int64(rootMiB)<<20); err != nil {
		t.Fatal(err)
	}
	table := make([]byte, 512)
	for i := range 4 {
		table[440+i] = byte(signature >> (8 * i))
	}
	entry := func(n int, kind byte, first, sectors int) {
		e := table[446+16*n:]
		e[4] = kind
		for i := range 4 {
			e[8+i], e[12+i] = byte(first>>(8*i)), byte(sectors>>(8*i))
		}
	}
	entry(0, 0x0c, 2048, 2048)
	entry(1, 0x83, start/512, rootMiB<<20/512)
	table[510], table[511] = 0x55, 0xaa
	if _, err := f.WriteAt(table, 0); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "rootfs", "-O", "^metadata_csum,^64bit", "-U", uuid,
		"-E", fmt.Sprintf("offset=%d,root_owner=0:0", start), "-d", dir, image, fmt.Sprintf("%dk", rootMiB<<10))
}

// Root makes a folder as a root file system: init and the folders that every
// system has.
func Root(t testing.TB, init []byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys", "run", "sbin", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sbin/init"), init, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
