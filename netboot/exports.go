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

// peer tells which slot's node is at the other end: by its address and the port
// that it is behind. One with a certificate has to have that slot's, too.
func (s *Service) peer(ctx context.Context, p nbd.Peer) (*slot, error) {
	a := p.Addr.Addr().Unmap()
	n, ok := slotAt(a)
	if !ok {
		return nil, fmt.Errorf("%w: %s is no slot's address", nbd.ErrForbidden, a)
	}
	sl, err := s.slot(n)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
	}
	if s.o.PortOf != nil {
		behind, known, err := s.o.PortOf(ctx, a)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
		case !known:
			return nil, fmt.Errorf("%w: it has the address of %s, and it is not known behind which port it is", nbd.ErrForbidden, sl.name())
		case behind != n:
			return nil, fmt.Errorf("%w: it has the address of %s, and is behind another port", nbd.ErrForbidden, sl.name())
		}
	}
	if p.Certificate != nil && s.o.SlotOf != nil {
		named, err := s.o.SlotOf(p.Certificate)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", nbd.ErrForbidden, err)
		}
		if named != n {
			return nil, fmt.Errorf("%w: it has the address of %s, and another's certificate", nbd.ErrForbidden, sl.name())
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
		return
	}
	if n, err := clusterctrl.ParseSlot(e.Export); err == nil {
		s.board.Tell(n, event)
	}
}
