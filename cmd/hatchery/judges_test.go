//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"

	"hatchery/imagebuilder"
	"hatchery/internal/sparse"
	"hatchery/internal/testtool"
)

// standInReleases are those of which `make base` makes a big base image.
var standInReleases = []string{"bookworm", "trixie"}

// standInBase is the big base image of a release.
func standInBase(t *testing.T, release string) string {
	t.Helper()
	variable := "HATCHERY_BASE_" + strings.ToUpper(release)
	path := os.Getenv(variable)
	if path == "" {
		testtool.Missing(t, fmt.Sprintf("the stand-in base image: %s=$(make -s print-base RELEASE=%s) (made by `make base`)", variable, release))
	}
	return path
}

// TestJudges builds five images from each stand-in base, for CNAT and CBRIDGE,
// and lets programs that nobody here wrote look at every one: e2fsck,
// fsck.vfat, mtools, debugfs, the kernel, go-diskfs.
func TestJudges(t *testing.T) {
	if testing.Short() {
		t.Skip("ten large images")
	}
	for _, release := range standInReleases {
		t.Run(release, func(t *testing.T) { judgeRelease(t, release) })
	}
}

func judgeRelease(t *testing.T, release string) {
	base := standInBase(t, release)
	w := newWorkspace(t, base, "")
	for network, uplink := range map[string]string{"cnat": "wifi: {ssid: attic, psk: correct horse, country: GB}", "cbridge": "address: 192.168.42.10/24"} {
		t.Run(network, func(t *testing.T) {
			w.cluster(base, "controller: {network: "+network+", "+uplink+"}\n"+
				"slots: {p1: {hostname: oneil}, p2: {}, p3: {}, p4: {}}\ndomain: example.org\n")
			w.t = t
			w.hatchery("build", "-q", "--no-sums") // TestChecksums judges those
			var manifest imagebuilder.Manifest
			if err := json.Unmarshal(readFile(t, w.path("out/manifest.json")), &manifest); err != nil {
				t.Fatal(err)
			}
			if len(manifest.Targets) != len(allTargets) {
				t.Fatalf("the manifest has %d targets", len(manifest.Targets))
			}
			for _, target := range manifest.Targets {
				if target.Release != release {
					t.Errorf("%s is of release %s", target.Target, target.Release)
				}
				t.Run(target.Target, func(t *testing.T) { judge(t, w, target) })
			}
		})
	}
}

func judge(t *testing.T, w *workspace, target imagebuilder.TargetManifest) {
	image := w.path("out/" + target.Target + ".img")
	table := readFile512(t, image)
	boot, root := entryOf(table, 0), entryOf(table, 1)
	if id := fmt.Sprintf("%02x%02x%02x%02x", table[443], table[442], table[441], table[440]); id != target.DiskID {
		t.Errorf("disk id %s, the manifest says %s", id, target.DiskID)
	}

	out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", fmt.Sprintf("%s?offset=%d", image, root.start)).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	fat := w.path("boot.fat")
	section(t, image, boot, fat)
	if out, err := exec.Command(testtool.Need(t, "fsck.vfat"), "-n", fat).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
	cmdline := testtool.Run(t, "mtype", "-i", fat, "::cmdline.txt")
	for _, word := range []string{"root=PARTUUID=" + target.DiskID + "-02", "cgroup_memory=1", "cgroup_enable=memory", "cgroup_enable=cpuset"} {
		if !strings.Contains(" "+strings.TrimSpace(cmdline)+" ", " "+word+" ") {
			t.Errorf("no %s in cmdline.txt: %s", word, cmdline)
		}
	}
	if strings.Contains(cmdline, "init=") {
		t.Errorf("a first-boot script is left in cmdline.txt: %s", cmdline)
	}
	config := testtool.Run(t, "mtype", "-i", fat, "::config.txt")
	mode := "dtoverlay=dwc2,dr_mode=peripheral"
	if target.Target == "controller" {
		mode = "dtoverlay=dwc2,dr_mode=host"
	}
	for _, line := range []string{mode, "gpu_mem=16"} {
		if !strings.Contains("\n"+config, "\n"+line+"\n") {
			t.Errorf("no line %q in config.txt:\n%s", line, config)
		}
	}
	noSecretInFAT(t, w, fat)

	// debugfs's opinion of what was written.
	hostname := testtool.Run(t, "debugfs", "-R", "cat /etc/hostname", fmt.Sprintf("%s?offset=%d", image, root.start))
	if !strings.Contains(hostname, target.Hostname+"\n") {
		t.Errorf("debugfs reads the host name %q, want %s", hostname, target.Hostname)
	}

	mounted(t, w, image, root, target)
	diskfsAgrees(t, image, target)
}

// mounted lets the kernel read every file back.
func mounted(t *testing.T, w *workspace, image string, root entry, target imagebuilder.TargetManifest) {
	testtool.NeedRoot(t)
	mnt := w.path("mnt")
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	defer testtool.Mount(t, image, mnt, root.start, root.size, "ro", "noload")()
	files := 0
	for _, f := range target.Files {
		if strings.HasPrefix(f.Path, "/boot/firmware/") {
			continue
		}
		path := filepath.Join(mnt, f.Path)
		info, err := os.Lstat(path)
		if err != nil {
			t.Errorf("the kernel does not find %s: %v", f.Path, err)
			continue
		}
		if info.Mode().String() != f.Mode {
			t.Errorf("%s has mode %v, the manifest says %s", f.Path, info.Mode(), f.Mode)
		}
		switch {
		case f.Target != "":
			if to, err := os.Readlink(path); err != nil || to != f.Target {
				t.Errorf("%s leads to %s, %v, want %s", f.Path, to, err, f.Target)
			}
		case f.Digest != "":
			sum := sha256.Sum256(readFile(t, path))
			if hex.EncodeToString(sum[:]) != f.Digest.Encoded() {
				t.Errorf("%s has another digest than the manifest says", f.Path)
			}
		case f.Secret && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 && !strings.HasPrefix(f.Path, "/etc/shadow") && !strings.HasPrefix(f.Path, "/etc/gshadow"):
			t.Errorf("%s is secret, but has mode %v", f.Path, info.Mode())
		}
		files++
	}
	if files < 20 {
		t.Errorf("only %d files were compared", files)
	}
	if data, err := os.ReadFile(filepath.Join(mnt, "etc/fstab")); err != nil || !strings.Contains(string(data), "PARTUUID="+target.DiskID+"-02") {
		t.Errorf("fstab does not name the root by its PARTUUID: %v\n%s", err, data)
	}
	// Every file of the root can be read through the kernel.
	if out, err := exec.Command("sh", "-c", `find "$0" -xdev -type f -print0 | xargs -0 cat | wc -c`, mnt).Output(); err != nil {
		t.Errorf("cannot read the whole root: %v", err)
	} else if n, _ := strconv.Atoi(strings.TrimSpace(string(out))); n < 10<<20 {
		t.Errorf("the root holds %d bytes only", n)
	}
}

// diskfsAgrees lets an independent reader look at a few files.
func diskfsAgrees(t *testing.T, image string, target imagebuilder.TargetManifest) {
	backend, err := file.OpenFromPath(image, true)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := diskfs.OpenBackend(backend, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	root, err := disk.GetFilesystem(2)
	if err != nil {
		t.Fatalf("go-diskfs: %v", err)
	}
	for path, want := range map[string]string{"/etc/hostname": target.Hostname + "\n"} {
		if got := diskfsRead(t, root, path); got != want {
			t.Errorf("go-diskfs reads %q from %s, want %q", got, path, want)
		}
	}
}

func diskfsRead(t *testing.T, fsys filesystem.FileSystem, path string) string {
	t.Helper()
	f, err := fsys.OpenFile(path, os.O_RDONLY)
	if err != nil {
		t.Fatalf("go-diskfs: %s: %v", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatalf("go-diskfs: %s: %v", path, err)
	}
	return string(data)
}

// noSecretInFAT looks for keys in the boot partition, which anybody with the
// card can read.
func noSecretInFAT(t *testing.T, w *workspace, fat string) {
	t.Helper()
	data := readFile(t, fat)
	for _, word := range []string{"PRIVATE KEY", "correct horse"} {
		if bytes.Contains(data, []byte(word)) {
			t.Errorf("the boot partition holds %q", word)
		}
	}
}

// TestEqualInputsGiveEqualImages builds twice, into folders and caches of
// their own, with one identity.
func TestEqualInputsGiveEqualImages(t *testing.T) {
	w := newWorkspace(t, standInBase(t, "bookworm"), "")
	w.hatchery("build", "-q", "--no-sums", "-o", "one")
	first := w.imageDigests("one")
	w.hatchery("build", "-q", "--no-sums", "-o", "two", "--cache", "cache-of-its-own")
	second := w.imageDigests("two")
	for _, target := range allTargets {
		if first[target] == "" || first[target] != second[target] {
			t.Errorf("%s: %s, then %s", target, first[target], second[target])
		}
	}
}

// TestUpdateEqualsAfresh changes slots back and forth; an image brought up to
// date must equal one written afresh.
func TestUpdateEqualsAfresh(t *testing.T) {
	base := standInBase(t, "bookworm")
	w := newWorkspace(t, base, "")
	w.hatchery("build", "-q", "--no-sums")
	w.cluster(base, "slots: {p1: {}, p2: {hostname: carter}, p3: {}, p4: {}}\ntimezone: Europe/Berlin\n")
	if out := w.hatchery("build", "-q", "--no-sums"); !strings.Contains(out, "updated") || strings.Contains(out, "written") {
		t.Errorf("the images were not brought up to date:\n%s", out)
	}
	updated := w.imageDigests("out")
	w.hatchery("build", "-q", "--no-sums", "-o", "afresh")
	for target, digest := range w.imageDigests("afresh") {
		if updated[target] != digest {
			t.Errorf("%s: the updated image differs from one written afresh", target)
		}
	}
}

// entry is one partition, in bytes.
type entry struct{ start, size int64 }

func entryOf(mbr []byte, n int) entry {
	e := mbr[446+16*n:]
	u32 := func(b []byte) int64 {
		return int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16 | int64(b[3])<<24
	}
	return entry{u32(e[8:]) * 512, u32(e[12:]) * 512}
}

func readFile512(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, 512)
	if _, err := io.ReadFull(f, mbr); err != nil {
		t.Fatal(err)
	}
	return mbr
}

// section copies a partition to a file of its own.
func section(t *testing.T, image string, e entry, place string) {
	t.Helper()
	in, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(place)
	if err != nil {
		t.Fatal(err)
	}
	// Most of it is zeros.
	err = out.Truncate(e.size)
	if err == nil {
		err = sparse.CopyRange(t.Context(), out, 0, in, e.start, e.size, nil)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
