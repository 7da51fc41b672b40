//go:build !linux

package serving

import (
	"context"
	"net/netip"
)

// slotOf knows nothing: controllers run Linux.
func slotOf(context.Context, netip.Addr) (slot int, known bool, err error) { return 0, false, nil }
