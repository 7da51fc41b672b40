package member_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/member"
	"hatchery/internal/swarm"
)

// TestMoved: where the LAN gives a node its address, one that the swarm knows by another
// address joins anew; one that cannot tell stays.
func TestMoved(t *testing.T) {
	const was, is = "192.168.42.20", "192.168.42.21"
	anew := "ask active node1 c1 | leave force=true | ask inactive | join 192.168.42.11:2377 T1 as " + is + ", pause"
	kept := "ask active node1 c1"
	known := swarm.Info{State: swarm.Active, NodeID: "node1", NodeAddr: netip.MustParseAddr(was), Remotes: []string{"192.168.42.11:2377", "192.168.42.12:2377"}}
	for _, test := range []struct {
		summary string
		edit    func(i *swarm.Info)
		to      string // the node's address now, "" where it has none
		alone   bool   // there is one controller: the address is the slot's
		moved   bool
		want    string
	}{
		{summary: "another address", to: is, moved: true, want: anew},
		{summary: "the same address", to: was, want: kept},
		{summary: "no address for the moment", want: kept},
		{summary: "one controller", to: is, alone: true, want: kept},
		{summary: "no manager is known", edit: func(i *swarm.Info) { i.Remotes = nil }, to: is, want: kept},
		{summary: "a manager's address that is none", edit: func(i *swarm.Info) { i.Remotes[0] = "hammond:2377" }, to: is, want: kept},
		{summary: "the engine does not say which address it has", edit: func(i *swarm.Info) { i.NodeAddr = netip.Addr{} }, to: is, want: kept},
	} {
		t.Run(test.summary, func(t *testing.T) {
			f := &fake{t: t, root: t.TempDir(), cluster: "c1"}
			f.member()
			info := known
			info.Remotes = append([]string(nil), known.Remotes...)
			if test.edit != nil {
				test.edit(&info)
			}
			f.set(info)
			again := join("T1", "c1")
			again.RemoteAddrs = []string{"192.168.42.11:2377"}
			f.answers = []any{stay("c1"), again}
			m := f.newMember()
			if !test.alone {
				m.Towards = func(manager netip.Addr) (netip.Addr, error) {
					if manager != netip.MustParseAddr("192.168.42.11") {
						t.Errorf("the way to %s is asked for", manager)
					}
					if test.to == "" {
						return netip.Addr{}, errors.New("there is no way")
					}
					return netip.MustParseAddr(test.to), nil
				}
			}
			if moved := m.Moved(t.Context()); moved != test.moved {
				t.Errorf("moved is %v", moved)
			}
			if _, err := m.Reconcile(t.Context()); err != nil {
				t.Error(err)
			}
			if did := strings.Join(trimmed(f.log), " | "); did != test.want {
				t.Errorf("did\n  %s\nwant\n  %s", did, test.want)
			}
		})
	}
}

// TestMovedIsOfMembers: an engine that is no member, or does not answer, has not moved.
func TestMovedIsOfMembers(t *testing.T) {
	f := &fake{t: t, root: t.TempDir()}
	m := f.newMember()
	m.Towards = func(netip.Addr) (netip.Addr, error) { return netip.MustParseAddr("192.168.42.21"), nil }
	for _, state := range []swarm.State{swarm.Inactive, swarm.Pending, swarm.Failed, swarm.Locked} {
		f.set(swarm.Info{State: state, NodeAddr: netip.MustParseAddr("192.168.42.20"), Remotes: []string{"192.168.42.11:2377"}})
		if m.Moved(t.Context()) {
			t.Errorf("an engine that is %s has moved", state)
		}
	}
	f.info.State, f.silent = swarm.Active, 1
	if m.Moved(t.Context()) {
		t.Error("an engine that does not answer has moved")
	}
}

// TestMovesAreBounded: a node whose address changes without end does not end its tasks
// every few seconds.
func TestMovesAreBounded(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), cluster: "c1", answers: []any{stay("c1")}}
	m := f.newMember()
	m.Waits.Calm = time.Hour
	n := byte(20)
	m.Towards = func(netip.Addr) (netip.Addr, error) { n++; return netip.AddrFrom4([4]byte{192, 168, 42, n}), nil }
	var wait *member.Wait
	for range 10 {
		f.member()
		f.set(swarm.Info{State: swarm.Active, NodeID: "node1", NodeAddr: netip.MustParseAddr("192.168.42.20"), Remotes: []string{"192.168.42.11:2377"}})
		_, err := m.Reconcile(t.Context())
		errors.As(err, &wait)
	}
	if leaves := strings.Count(strings.Join(f.log, "\n"), "leave"); leaves != 4 || wait == nil || wait.After < 50*time.Minute {
		t.Errorf("it left %d times, and waits %+v", leaves, wait)
	}
}

// TestTheAddressOnTheLAN: a node joins by the address that the LAN gave it, whatever the
// controller says, and waits while it has none.
func TestTheAddressOnTheLAN(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), cluster: "c1", info: swarm.Info{State: swarm.Inactive}}
	answer := join("T1", "c1")
	answer.RemoteAddrs = []string{"192.168.42.12:2377", "192.168.42.11:2377"}
	answer.AdvertiseAddr = "172.19.181.3"
	f.answers = []any{answer}
	m := f.newMember()
	m.Towards = func(netip.Addr) (netip.Addr, error) { return netip.Addr{}, errors.New("no lease yet") }
	var wait *member.Wait
	if _, err := m.Reconcile(t.Context()); !errors.As(err, &wait) || !strings.Contains(err.Error(), "no lease yet") {
		t.Errorf("without an address: %v", err)
	}
	m.Towards = func(manager netip.Addr) (netip.Addr, error) {
		if manager != netip.MustParseAddr("192.168.42.12") {
			t.Errorf("the way to %s is asked for", manager)
		}
		return netip.MustParseAddr("192.168.42.23"), nil
	}
	if _, err := m.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if did, want := strings.Join(trimmed(f.log), " | "), "ask inactive | ask inactive | join 192.168.42.12:2377 T1 as 192.168.42.23, pause"; did != want {
		t.Errorf("did %s, want %s", did, want)
	}
}
