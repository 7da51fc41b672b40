package serving

import (
	"context"
	"log/slog"
	"net/netip"

	"hatchery/internal/bridgeport"
	"hatchery/netboot/rootnet"
)

// slotOf asks the kernel's bridge behind which slot's port an address is.
func slotOf(ctx context.Context, addr netip.Addr) (slot int, known bool, err error) {
	return bridgeport.SlotOf(ctx, addr)
}

// rootSlotOf asks the same of the bridge that roots come over.
func rootSlotOf(ctx context.Context, addr netip.Addr) (slot int, known bool, err error) {
	return rootnet.SlotOf(ctx, addr)
}

// rootNetwork keeps that bridge.
func rootNetwork(log *slog.Logger) func(context.Context, func(error)) {
	return func(ctx context.Context, told func(error)) {
		rootnet.Keep(ctx, rootnet.Options{Log: log}, func(_ rootnet.Status, err error) { told(err) })
	}
}
