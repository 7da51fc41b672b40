package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"hatchery/internal/sparse"
)

// The static binary that users get, built once for the tests that watch it
// from outside.
var buildBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hatchery-binary")
	if err != nil {
		return "", err
	}
	// Readable for the unprivileged users that some tests run it as.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hatchery")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.payloadFolder="+payloadFolder, "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func binary(t *testing.T) string {
	t.Helper()
	path, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A workspace is a folder with a cluster file, a key and a cache of its own.
type workspace struct {
	t   *testing.T
	dir string
}

// newWorkspace makes one whose cluster is built from base, with more lines of
// cluster.yaml where they are given.
func newWorkspace(t *testing.T, base, more string) *workspace {
	t.Helper()
	// Not t.TempDir: that one lies below a folder that only root may enter,
	// and some tests run the binary as nobody.
	dir, err := os.MkdirTemp("", "hatchery-workspace")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &workspace{t: t, dir: dir}
	w.write("key.pub", testKey)
	w.cluster(base, more)
	return w
}

func (w *workspace) path(name string) string { return filepath.Join(w.dir, name) }

func (w *workspace) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *workspace) cluster(base, more string) {
	w.t.Helper()
	w.write("cluster.yaml", fmt.Sprintf("name: homelab\nbase: {image: %s}\nuser: {authorized_keys: [./key.pub]}\n%sdocker: {packages: []}\n", base, more))
}

// command is the binary, to be run in the workspace.
func (w *workspace) command(args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(binary(w.t), args...)
	w.in(cmd)
	return cmd
}

func (w *workspace) in(cmd *exec.Cmd) {
	cmd.Dir = w.dir
	cmd.Env = []string{"HOME=" + w.dir, "XDG_CACHE_HOME=" + w.path("cache"), "SOURCE_DATE_EPOCH=1763769600", "PATH=" + os.Getenv("PATH")}
}

// hatchery runs the binary and fails the test where it fails.
func (w *workspace) hatchery(args ...string) string {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("hatchery %q: %v\n%s", args, err, stderr.String())
	}
	return stdout.String()
}

// digestOf is a digest of a file's content: of its blocks that are not zero,
// with their places, so that a large sparse image takes as long as its data.
func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	fmt.Fprintln(h, info.Size())
	const size = int64(64 << 10)
	block := make([]byte, size)
	next := int64(0)
	for segment, err := range sparse.Segments(f, 0, info.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		// Whole blocks, each once, so that it does not matter how the file's
		// holes lie.
		for off := max(next, segment.Offset/size*size); off < segment.Offset+segment.Length; off += size {
			next = off + size
			n, err := f.ReadAt(block, off)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if !sparse.IsZero(block[:n]) {
				fmt.Fprintln(h, off)
				h.Write(block[:n])
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

var allTargets = []string{"controller", "p1", "p2", "p3", "p4"}

// imageDigests are the digests of the images that are there.
func (w *workspace) imageDigests(out string) map[string]string {
	w.t.Helper()
	digests := map[string]string{}
	for _, target := range allTargets {
		path := filepath.Join(w.dir, out, target+".img")
		if _, err := os.Lstat(path); err == nil {
			digests[target] = digestOf(w.t, path)
		}
	}
	return digests
}
