package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// fakePayload makes a folder with the nodes' programs for a test run in a
// checkout where `make build` has not been: programs that do nothing, for the
// right processors. It gives "" where the real ones are embedded.
func fakePayload() (folder string, err error) {
	if _, err := nodePrograms()("firstboot", "armv6"); err == nil {
		return "", nil
	}
	if folder, err = os.MkdirTemp("", "hatchery-payload"); err != nil {
		return "", err
	}
	source := filepath.Join(folder, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return "", err
	}
	// Some tests run hatchery as nobody.
	if err := os.Chmod(folder, 0o755); err != nil {
		return "", err
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		return "", err
	}
	for architecture, env := range map[string][]string{"armv6": {"GOARCH=arm", "GOARM=6"}, "arm64": {"GOARCH=arm64"}} {
		built := filepath.Join(folder, architecture)
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", built, source)
		cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		content, err := os.ReadFile(built)
		if err != nil {
			return "", err
		}
		for _, name := range []string{"firstboot", "hatchery", "nodeinit", "reimage"} {
			if err := os.WriteFile(filepath.Join(folder, name+"-"+architecture+".zst"), encoder.EncodeAll(content, nil), 0o644); err != nil {
				return "", err
			}
		}
	}
	return folder, nil
}
