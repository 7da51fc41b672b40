//go:build ignore

// Pack builds the nodes' programs and puts them, compressed, into the payload
// folder; `make build` runs it. What has not changed is left as it is.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

var programs = []struct {
	name, from, tags string
	most             int // bytes before it is packed; 0 is any
}{
	// Nothing there speaks HTTP/2, which is half a megabyte. What runs on every node all
	// the time stays small: a dependency is looked at for what it brings along.
	{"firstboot", "./cmd/firstboot", "nethttpomithttp2", 10_000_000},
	{"hatchery", "./cmd/hatchery", "node", 0},
	{"nodeinit", "./cmd/nodeinit", "", 0},
	{"reimage", "./cmd/reimage", "nethttpomithttp2", 0},
	{"registry", "./cmd/registry", "nethttpomithttp2", 0},
}

var architectures = []struct {
	name string
	env  []string
}{
	{"armv6", []string{"GOARCH=arm", "GOARM=6"}},
	{"arm64", []string{"GOARCH=arm64"}},
}

func main() {
	if err := run("cmd/hatchery/payload"); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	scratch, err := os.MkdirTemp("", "hatchery-payload")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for _, p := range programs {
		for _, a := range architectures {
			name := p.name + "-" + a.name
			built := filepath.Join(scratch, name)
			cmd := exec.Command("go", "build", "-trimpath", "-tags", p.tags, "-ldflags", "-s -w", "-o", built, p.from)
			cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), a.env...)
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("cannot build %s: %w", name, err)
			}
			if info, err := os.Stat(built); err != nil {
				return err
			} else if p.most > 0 && info.Size() > int64(p.most) {
				return fmt.Errorf("%s has %d bytes, and may have %d: go tool nm -size -sort size tells what of", name, info.Size(), p.most)
			}
			if err := pack(built, filepath.Join(folder, name+".zst")); err != nil {
				return fmt.Errorf("cannot pack %s: %w", name, err)
			}
		}
	}
	return nil
}

// pack compresses a file in one thread: equal inputs give equal bytes.
func pack(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := e.EncodeAll(content, nil)
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, packed) {
		return nil
	}
	if err := os.WriteFile(to+".new", packed, 0o644); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}
