//go:build !linux

package netboot

import "context"

// watchLinks has nothing to tell: there are no slots but on Linux.
func watchLinks(ctx context.Context, _ func(Links)) { <-ctx.Done() }
