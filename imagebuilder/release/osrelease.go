package release

import (
	"errors"
	"fmt"
	"io/fs"

	"hatchery/internal/osrelease"
)

// osRelease reads what an image calls itself.
func osRelease(root Root) (map[string]string, error) {
	data, err := root.ReadFile("/etc/os-release")
	if errors.Is(err, fs.ErrNotExist) {
		data, err = root.ReadFile("/usr/lib/os-release")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell the image's release: %w", err)
	}
	return osrelease.Parse(data), nil
}
