//go:build !linux && !darwin

package drive

import (
	"context"
	"os"
)

func openThrough(_ context.Context, _ []string, d Drive, _ OpenOptions) (*Handle, error) {
	return nil, &PermissionError{Path: d.Path, Remedy: remedy}
}

func serveOpener(context.Context, *os.File) error {
	return &PermissionError{Path: "the card", Remedy: remedy}
}

const remedy = "start hatchery from a prompt with an administrator's rights (Windows: right-click, Run as administrator)"
