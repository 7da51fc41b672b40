//go:build !linux

package rootnet

import (
	"context"
	"errors"
	"net/netip"

	"hatchery/internal/rtnl"
)

type vlans any

type kernelVLANs struct{}

// Ensure needs Linux.
func Ensure(context.Context, Options) (Status, error) { return Status{}, errors.ErrUnsupported }

// Keep needs Linux. Elsewhere it waits for ctx to end.
func Keep(ctx context.Context, _ Options, _ func(Status, error)) { <-ctx.Done() }

// Watch needs Linux. Elsewhere its channel tells nothing.
func Watch(ctx context.Context, _ Options) <-chan struct{} {
	return rtnl.Watch(ctx, rtnl.WatchOptions{})
}

// SlotOf needs Linux.
func SlotOf(context.Context, netip.Addr) (slot int, known bool, err error) {
	return 0, false, errors.ErrUnsupported
}
