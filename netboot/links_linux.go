package netboot

import (
	"context"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/rtnl"
)

// watchLinks tells the slots' links by the interfaces of this machine, whose
// names say how a slot booted: ethpiN from its card, ethupiN over the link.
func watchLinks(ctx context.Context, told func(Links)) {
	for range rtnl.Watch(ctx, rtnl.WatchOptions{}) {
		links, err := rtnl.Links()
		if err != nil {
			continue // the next change tells
		}
		now := Links{map[int]bool{}, map[int]bool{}}
		for _, l := range links {
			a := l.Attrs()
			if !rtnl.Carrier(a) {
				continue
			}
			if n, ok := slotOfLink(a.Name, clusterctrl.BootLinkPrefix); ok {
				now.Booted[n] = true
			} else if n, ok := slotOfLink(a.Name, clusterctrl.CardLinkPrefix); ok {
				now.Card[n] = true
			}
		}
		told(now)
	}
}

// slotOfLink is the slot in an interface's name; VLANs on it have longer ones.
func slotOfLink(name, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= clusterctrl.MinSlot && n <= clusterctrl.MaxSlot
}
