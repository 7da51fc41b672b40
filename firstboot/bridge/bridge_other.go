//go:build !linux

package bridge

import (
	"context"
	"errors"

	"hatchery/internal/nodefile"
	"hatchery/internal/rtnl"
)

// Ensure needs Linux.
func Ensure(context.Context, *nodefile.Node, Options) (Status, error) {
	return Status{}, errors.ErrUnsupported
}

// Watch needs Linux. Elsewhere its channel tells nothing.
func Watch(ctx context.Context, _ *nodefile.Node, _ Options) <-chan struct{} {
	return rtnl.Watch(ctx, rtnl.WatchOptions{})
}
