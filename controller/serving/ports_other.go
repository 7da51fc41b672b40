//go:build !linux

package serving

import (
	"context"
	"log/slog"
	"net/netip"

	"hatchery/internal/nodefile"
)

// slotOf knows nothing: controllers run Linux.
func slotOf(context.Context, netip.Addr) (slot int, known bool, err error) { return 0, false, nil }

// rootSlotOf knows nothing either.
func rootSlotOf(context.Context, netip.Addr) (slot int, known bool, err error) { return 0, false, nil }

// rootNetwork is none.
func rootNetwork(*nodefile.Node, *slog.Logger) func(context.Context, func(error)) { return nil }
