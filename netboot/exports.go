package netboot

import (
	"context"
	"fmt"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/nbd"
	"hatchery/netboot/slots"
)

// exports are the slots' disks, as their nodes may have them: a slot opens only
// its own.
type exports struct{ s *Service }

// List is nbd.Exports: a peer's one export.
func (e exports) List(ctx context.Context, p nbd.Peer) ([]string, error) {
	sl, err := e.s.peer(ctx, p)
	if err != nil {
		return nil, err
	}
	return []string{sl.name()}, nil
}

// Open is nbd.Exports.
func (e exports) Open(ctx context.Context, p nbd.Peer, name string) (*nbd.Export, error) {
	sl, err := e.s.peer(ctx, p)
	if err != nil {
		return nil, err
	}
	if name != "" && name != sl.name() {
		if _, err := clusterctrl.ParseSlot(name); err != nil {
			return nil, fmt.Errorf("%w: %q", nbd.ErrUnknownExport, name)
		}
		return nil, fmt.Errorf("%w: %s asks for %s", nbd.ErrForbidden, sl.name(), name)
	}
	disk, err := e.s.opened(ctx, sl)
	if err != nil {
		return nil, err
	}
	return &nbd.Export{
		Name: sl.name(), Description: "the root of " + sl.target.Hostname,
		Device: disk, ReadOnly: disk.Sealed(),
	}, nil
}

// peer tells which slot's node is at the other end: by its certificate, where
// it has one, and else by its address and the port that it is behind.
func (s *Service) peer(ctx context.Context, p nbd.Peer) (*slot, error) {
	if p.Certificate != nil && s.o.SlotOf != nil {
		n, err := s.o.SlotOf(p.Certificate)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
		}
		sl, err := s.slot(n)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
		}
		return sl, nil
	}
	n, ok := slotAt(p.Addr.Addr())
	if !ok {
		return nil, fmt.Errorf("%w: %s is no slot's address", nbd.ErrForbidden, p.Addr.Addr())
	}
	sl, err := s.slot(n)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
	}
	if s.o.PortOf != nil {
		behind, known, err := s.o.PortOf(ctx, p.Addr.Addr().Unmap())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
		}
		if known && behind != n {
			return nil, fmt.Errorf("%w: it has the address of %s, and is behind another port", nbd.ErrForbidden, sl.name())
		}
	}
	return sl, nil
}

// toldOfRoot hands on who has which disk.
func (s *Service) toldOfRoot(e nbd.Event) {
	reason := ""
	if e.Reason != nil {
		reason = e.Reason.Error()
	}
	event := slots.Event{Conn: e.Peer.Addr.String(), Reason: reason}
	switch e.Kind {
	case nbd.Connected:
		event.Kind = slots.RootAttached
	case nbd.Disconnected:
		event.Kind = slots.RootDetached
	case nbd.Refused:
		event.Kind = slots.RootRefused
		if n, ok := slotAt(e.Peer.Addr.Addr()); ok {
			s.board.Tell(n, event)
		}
		s.o.Log.Warn("a root was refused", "peer", e.Peer.Addr.String(), "asked", e.Export, "reason", reason)
		return
	}
	if n, err := clusterctrl.ParseSlot(e.Export); err == nil {
		s.board.Tell(n, event)
	}
}
