package serving

import (
	"context"
	"net/netip"

	"hatchery/internal/bridgeport"
)

// slotOf asks the kernel's bridge behind which slot's port an address is.
func slotOf(ctx context.Context, addr netip.Addr) (slot int, known bool, err error) {
	return bridgeport.SlotOf(ctx, addr)
}
