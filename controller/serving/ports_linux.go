package serving

import (
	"context"
	"log/slog"
	"net/netip"

	"hatchery/internal/bridgeport"
	"hatchery/internal/nodefile"
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
func rootNetwork(node *nodefile.Node, log *slog.Logger) func(context.Context, func(error)) {
	var slots []int
	for _, t := range node.Targets {
		if t.Slot > 0 {
			slots = append(slots, t.Slot)
		}
	}
	return func(ctx context.Context, told func(error)) {
		rootnet.Keep(ctx, rootnet.Options{Slots: slots, Log: log}, func(_ rootnet.Status, err error) { told(err) })
	}
}
