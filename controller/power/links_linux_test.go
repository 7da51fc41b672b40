package power_test

import (
	"context"
	"fmt"
	"testing"

	"hatchery/controller/power"
	"hatchery/internal/netspace"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"links": func(context.Context, []string) error {
		up, err := power.KernelLinks()
		fmt.Println(up)
		return err
	}})
}

// TestKernelLinks: a slot's link is up when the kernel has its interface, of either
// name, with a carrier.
func TestKernelLinks(t *testing.T) {
	netspace.Need(t)
	ctl, far := netspace.New(t), netspace.New(t)
	links := func() string { return ctl.Output(ctl.Self(t.Context(), "links")) }
	same(t, "none", links(), "map[]")
	for i, name := range []string{"ethpi1", "ethupi2", "ethpi3", "ethpi04x", "eth4", "ethpi5"} {
		netspace.Cable(ctl, name, fmt.Sprintf("02:00:00:00:01:%02x", i), far, "far"+name, fmt.Sprintf("02:00:00:00:02:%02x", i))
	}
	same(t, "not up", links(), "map[]")
	for _, name := range []string{"ethpi1", "ethupi2", "ethpi3", "ethpi04x", "eth4"} {
		ctl.IP("link set " + name + " up")
		if name != "ethpi3" { // that one's other end is down: no carrier
			far.IP("link set far" + name + " up")
		}
	}
	same(t, "up", links(), "map[1:true 2:true]")
	far.IP("link del farethpi1")
	same(t, "one is gone", links(), "map[2:true]")
}
