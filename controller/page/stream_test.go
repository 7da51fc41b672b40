package page

import (
	"net/netip"
	"testing"
)

// TestPlaces: however many watch from other machines, there are places for who comes through
// ssh; and each that leaves makes room for its like.
func TestPlaces(t *testing.T) {
	s := &Service{watchingFrom: map[netip.Addr]int{}}
	here := netip.MustParseAddr("127.0.0.1")
	lan := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 1, byte(n)}) }
	// fill has as many enter as may, one of each address after the other.
	fill := func(of func(n int) netip.Addr) (leave []func()) {
		for n := range 2 * maxWatchers {
			if l, ok := s.enter(of(n)); ok {
				leave = append(leave, l)
			}
		}
		return leave
	}
	others := fill(lan)
	if len(others) != maxWatchers-keptForLoopback {
		t.Errorf("%d watch from the LAN", len(others))
	}
	mine := fill(func(int) netip.Addr { return here })
	if len(mine) != keptForLoopback {
		t.Errorf("%d watch through ssh beside them", len(mine))
	}
	others[0]()
	if _, ok := s.enter(lan(200)); !ok {
		t.Error("one that left the LAN's places makes no room there")
	}
	mine[0]()
	if _, ok := s.enter(lan(201)); ok {
		t.Error("the LAN takes a place that is kept")
	}
	if _, ok := s.enter(here); !ok {
		t.Error("a place that was left is not had again")
	}
	for _, leave := range others[1:] {
		leave()
	}
	if n := len(fill(func(int) netip.Addr { return here })); n != maxWatchersOfOne-keptForLoopback {
		t.Errorf("%d more watch through ssh where there is room", n)
	}
}
