//go:build !linux && !darwin && !windows

package drive

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

var here elsewhere

// elsewhere is a system whose disks hatchery does not know how to find.
type elsewhere struct{}

func unknown() error {
	return fmt.Errorf("the disks of %s are not known to hatchery: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (elsewhere) list(context.Context) ([]Drive, error)       { return nil, unknown() }
func (elsewhere) find(context.Context, string) (Drive, error) { return Drive{}, unknown() }
func open(context.Context, Drive, bool) (device, error)       { return nil, unknown() }
