//go:build linux

package main

import (
	"bytes"
	le "encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestBadInput gives the builder what users give it on a bad day. Each must
// be told clearly, with the exit code that says whose mistake it is, and leave
// no output.
func TestBadInput(t *testing.T) {
	if testing.Short() {
		t.Skip("a dozen builds")
	}
	image := imagetest.Bookworm(t)
	compressed := imagetest.XZ(t, image)

	for _, test := range []struct {
		summary string
		base    func(t *testing.T, w *workspace) string // what cluster.yaml names
		more    string
		code    int
		stderr  []string
	}{{
		summary: "truncated xz",
		base: func(t *testing.T, w *workspace) string {
			data := readFile(t, compressed)
			w.write("base.img.xz", string(data[:len(data)*2/3]))
			return "./base.img.xz"
		},
		code: exitUsage, stderr: []string{"base.img.xz", "truncated"},
	}, {
		summary: "a flipped bit",
		base: func(t *testing.T, w *workspace) string {
			data := bytes.Clone(readFile(t, compressed))
			data[len(data)/2] ^= 0x10
			w.write("base.img.xz", string(data))
			return "./base.img.xz"
		},
		code: exitUsage, stderr: []string{"base.img.xz", "offset"},
	}, {
		summary: "another file's sha256",
		base: func(t *testing.T, w *workspace) string {
			return compressed + ", sha256: " + strings.Repeat("0123456789abcdef", 4)
		},
		code: exitUsage, stderr: []string{filepath.Base(compressed), strings.Repeat("0123456789abcdef", 4), digest.FromBytes(readFile(t, compressed)).Encoded()},
	}, {
		summary: "HTML instead of an image",
		base: func(t *testing.T, w *workspace) string {
			w.write("base.img.xz", "<!DOCTYPE html><html><body>Please log in</body></html>")
			return "./base.img.xz"
		},
		code: exitUsage, stderr: []string{"base.img.xz", "HTML"},
	}, {
		summary: "an image with a GPT",
		base: func(t *testing.T, w *workspace) string {
			path := copyImage(t, w, image)
			patch(t, path, 446+4, []byte{0xee})
			patch(t, path, 512, []byte("EFI PART"))
			return path
		},
		code: exitUsage, stderr: []string{"GPT"},
	}, {
		summary: "no second partition",
		base: func(t *testing.T, w *workspace) string {
			path := copyImage(t, w, image)
			patch(t, path, 446+16, make([]byte, 16))
			return path
		},
		code: exitUsage, stderr: []string{"partition 2 is missing"},
	}, {
		summary: "a dirty journal",
		base: func(t *testing.T, w *workspace) string {
			path := copyImage(t, w, image)
			feature(t, path, "needs_recovery")
			return path
		},
		code: exitUsage, stderr: []string{"journal", "e2fsck"},
	}, {
		summary: "an ext4 feature that is not known",
		base: func(t *testing.T, w *workspace) string {
			path := copyImage(t, w, image)
			feature(t, path, "casefold")
			return path
		},
		code: exitUsage, stderr: []string{"casefold"},
	}, {
		summary: "a damaged file system",
		base: func(t *testing.T, w *workspace) string {
			path := copyImage(t, w, image)
			patch(t, path, rootStart(t, path)+1024+0x20, []byte{7, 7, 7, 7}) // blocks per group
			return path
		},
		code: exitUsage, stderr: []string{"superblock"},
	}, {
		summary: "an image that hatchery made",
		base: func(t *testing.T, w *workspace) string {
			w.cluster(compressed, "")
			w.hatchery("build", "controller", "-q", "--no-sums")
			path := w.path("made.img")
			for _, err := range []error{os.Rename(w.path("out/controller.img"), path), os.RemoveAll(w.path("out"))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			return path
		},
		code: exitUsage, stderr: []string{"the base image", `"controller" of the cluster "homelab"`, "/etc/hatchery/node.json", "was made from"},
	}, {
		summary: "a missing file",
		base:    func(t *testing.T, w *workspace) string { return "./nowhere.img.xz" },
		code:    exitUsage, stderr: []string{"cluster.yaml:2:", "nowhere.img.xz"},
	}, {
		summary: "a time zone that the image does not know",
		base:    func(t *testing.T, w *workspace) string { return compressed },
		more:    "timezone: Europe/Nowhere\n",
		code:    exitUsage, stderr: []string{"Europe/Nowhere"},
	}} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorkspace(t, "unset", "")
			w.cluster(test.base(t, w), test.more)
			expectFailure(t, w, w.command("build", "-q"), test.code, test.stderr)
		})
	}
}

// expectFailure runs a command that must fail with the exit code, say all of
// the words on stderr, and leave no image or layer behind.
func expectFailure(t *testing.T, w *workspace, cmd *exec.Cmd, code int, words []string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("%v, want exit code %d\n%s", err, code, stderr.String())
	}
	for _, word := range words {
		if !strings.Contains(stderr.String(), word) {
			t.Errorf("no %q in: %s", word, stderr.String())
		}
	}
	if strings.Contains(stderr.String(), "panic") || strings.Contains(stderr.String(), "goroutine") {
		t.Errorf("a crash: %s", stderr.String())
	}
	for _, pattern := range []string{"out/*.img", "out/.*.img*", "out/layers/*.layer", "out/layers/.*", "out/manifest.json"} {
		if found, _ := filepath.Glob(w.path(pattern)); len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
}

// TestFullDisk builds onto a file system without room.
func TestFullDisk(t *testing.T) {
	testtool.NeedRoot(t)
	w := newWorkspace(t, imagetest.Bookworm(t), "")
	// With a warm cache: only the outputs go to the small file system.
	w.hatchery("build", "-q", "--layers-only", "-o", "elsewhere")
	if err := os.Mkdir(w.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", w.path("out"), "tmpfs", 0, "size=6m"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(w.path("out"), syscall.MNT_DETACH)
	var stderr bytes.Buffer
	cmd := w.command("build", "-q")
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("%v, want exit code %d\n%s", err, exitFailed, stderr.String())
	}
	if !strings.Contains(stderr.String(), "no space left on device") || !strings.Contains(stderr.String(), "out") {
		t.Errorf("unclear: %s", stderr.String())
	}
	for _, pattern := range []string{"out/p*.img", "out/.*.img*"} {
		found, _ := filepath.Glob(w.path(pattern))
		for _, path := range found {
			// An image that fitted is whole.
			if strings.HasPrefix(filepath.Base(path), ".") {
				t.Errorf("left behind: %s", path)
			}
		}
	}
	// Room again: the next run just works.
	if err := syscall.Mount("tmpfs", w.path("out"), "tmpfs", syscall.MS_REMOUNT, "size=900m"); err != nil {
		t.Fatal(err)
	}
	w.hatchery("build", "-q")
}

// TestUnreadableKey names the file that may not be read.
func TestUnreadableKey(t *testing.T) {
	w := newWorkspace(t, "unset", "")
	w.cluster(publish(t, w, imagetest.XZ(t, imagetest.Bookworm(t))), "")
	cmd := w.command("build", "-q")
	if os.Geteuid() == 0 {
		giveAway(t, w)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if err := os.Chmod(w.path("key.pub"), 0); err != nil {
		t.Fatal(err)
	}
	expectFailure(t, w, cmd, exitUsage, []string{"cluster.yaml:3:", "user.authorized_keys", "key.pub", "permission denied"})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// copyImage copies an image into the workspace.
func copyImage(t *testing.T, w *workspace, image string) string {
	t.Helper()
	testtool.Run(t, "cp", "--sparse=always", image, w.path("base.img"))
	if err := os.Chmod(w.path("base.img"), 0o644); err != nil {
		t.Fatal(err)
	}
	return w.path("base.img")
}

func patch(t *testing.T, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

// rootStart is where an image's second partition begins, in bytes.
func rootStart(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entry := make([]byte, 16)
	if _, err := f.ReadAt(entry, 446+16); err != nil {
		t.Fatal(err)
	}
	return int64(le.LittleEndian.Uint32(entry[8:])) * 512
}

// feature sets a feature of an image's root file system.
func feature(t *testing.T, path, name string) {
	t.Helper()
	out := testtool.Run(t, "debugfs", "-w", "-R", "feature "+name, fmt.Sprintf("%s?offset=%d", path, rootStart(t, path)))
	if !strings.Contains(out, name) {
		t.Fatalf("debugfs did not set %s: %s", name, out)
	}
}
