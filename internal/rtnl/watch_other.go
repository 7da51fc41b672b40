//go:build !linux

package rtnl

import "context"

// Watch needs Linux. Elsewhere its channel tells nothing, and is closed when
// ctx ends.
func Watch(ctx context.Context, _ WatchOptions) <-chan struct{} {
	told := make(chan struct{})
	context.AfterFunc(ctx, func() { close(told) })
	return told
}
