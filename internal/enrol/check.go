package enrol

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"hatchery/internal/hearsay"
)

// How long fields may be, in bytes.
const (
	maxText  = 1024 // of what is for people
	maxToken = 256
)

// check sees that an answer can be acted on.
func (a *JoinAnswer) check() error {
	a.Reason = tidy(a.Reason)
	switch a.Action {
	case Stay, Wait:
	case Join, LeaveAndJoin:
		if a.JoinToken == "" || len(a.JoinToken) > maxToken || strings.ContainsFunc(string(a.JoinToken), notPrintable) {
			return errors.New("it is to join, and there is no token that could be one")
		}
		if len(a.RemoteAddrs) == 0 {
			return errors.New("it is to join, and there is no address")
		}
	default:
		return fmt.Errorf("the action %.40q is unknown here: build this node's image with the hatchery that the controller has", a.Action)
	}
	for _, remote := range a.RemoteAddrs {
		if _, err := netip.ParseAddrPort(remote); err != nil {
			return fmt.Errorf("remote_addrs: %.100q is not an address with a port", remote)
		}
	}
	for name, address := range map[string]string{"advertise_addr": a.AdvertiseAddr, "data_path_addr": a.DataPathAddr} {
		if _, err := netip.ParseAddr(address); err != nil && address != "" {
			return fmt.Errorf("%s: %.100q is not an address", name, address)
		}
	}
	switch a.Availability {
	case "", "active", "pause", "drain":
	default:
		return fmt.Errorf("the availability %.40q is unknown", a.Availability)
	}
	return id("cluster_id", a.ClusterID)
}

// id sees that an id could be one of swarmkit's (identity/randomid.go: 25
// characters of base 36).
func id(name, s string) error {
	if len(s) > 64 {
		return fmt.Errorf("%s has %d characters", name, len(s))
	}
	for _, r := range s {
		if !('0' <= r && r <= '9' || 'a' <= r && r <= 'z') {
			return fmt.Errorf("%s %q is not an id", name, s)
		}
	}
	return nil
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }

// tidy makes a line of what somebody said.
func tidy(said string) string { return hearsay.Line(said, maxText) }
