package power

import (
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/rtnl"
)

// kernelLinks gives the slots that have an interface with a carrier: ethpiN of a
// node that booted from its card, ethupiN of one that booted over its link.
func kernelLinks() (map[int]bool, error) {
	links, err := rtnl.Links()
	if err != nil {
		return nil, err
	}
	up := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		for _, prefix := range []string{clusterctrl.CardLinkPrefix, clusterctrl.BootLinkPrefix} {
			digits, ours := strings.CutPrefix(a.Name, prefix)
			if n, err := strconv.Atoi(digits); ours && err == nil && rtnl.Carrier(a) {
				up[n] = true
			}
		}
	}
	return up, nil
}
