//go:build !linux

package bridgeport

import (
	"context"
	"errors"
	"net/netip"
)

// SlotOf needs Linux.
func SlotOf(context.Context, netip.Addr) (slot int, known bool, err error) {
	return 0, false, errors.ErrUnsupported
}

// Ports needs Linux.
func Ports(context.Context) ([]Port, error) { return nil, errors.ErrUnsupported }
