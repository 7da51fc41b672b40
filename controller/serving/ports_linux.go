package serving

import (
	"context"
	"log/slog"
	"net/netip"

	"hatchery/internal/bridgeport"
)

// slotOf asks the kernel's bridge behind which slot's port an address is.
func slotOf(ctx context.Context, addr netip.Addr) (slot int, known bool, err error) {
	return bridgeport.SlotOf(ctx, addr)
}

// rootSlotOf asks the same of the bridge that roots come over.
func rootSlotOf(context.Context, netip.Addr) (slot int, known bool, err error) {
	return 0, false, nil
}

// rootNetwork keeps that bridge.
func rootNetwork(*slog.Logger) func(context.Context) error { return nil }
