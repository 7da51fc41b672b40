package netboot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbhost"
)

// seen hears of all devices on the bus.
func (s *Service) seen(devices []usbhost.Device) {
	wiring, err := s.o.Bus.FindWiring(s.search(), devices)
	s.mu.Lock()
	s.devices = devices
	if err == nil {
		s.wiring = &wiring
	}
	known := s.wiring != nil
	s.mu.Unlock()
	if err != nil && !known {
		s.problem("wiring", err.Error())
	} else {
		s.problem("wiring", "")
	}
}

// slotOf tells the slot of a device.
func (s *Service) slotOf(d usbhost.Device) (*slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.elsewhere(d); ok {
		sl, ok := s.slots[n]
		return sl, ok
	}
	if s.wiring == nil {
		return nil, false
	}
	n, ok := s.wiring.Slot(d.Path)
	if !ok {
		return nil, false
	}
	sl, ok := s.slots[n]
	return sl, ok
}

// elsewhere tells the slot of a board that hangs where cluster.yaml says, mostly on no
// HAT.
func (s *Service) elsewhere(d usbhost.Device) (int, bool) {
	if s.o.Node.Netboot == nil {
		return 0, false
	}
	for n, path := range s.o.Node.Netboot.Ports {
		if path == d.Path {
			return n, true
		}
	}
	return 0, false
}

// learn tells the slot of a board while the HAT's wiring is unknown: of the one
// board on the bus, while one slot has power. So the wiring is known from then on.
func (s *Service) learn(d usbhost.Device) (*slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wiring != nil {
		return nil, false
	}
	boards := 0
	for _, other := range s.devices {
		if _, known := s.elsewhere(other); other.Bootable() && !known {
			boards++
		}
	}
	powered := 0
	for _, status := range s.board.All() {
		if status.Power == slots.SupplyOn {
			if powered != 0 {
				return nil, false
			}
			if n, err := clusterctrl.ParseSlot(status.Slot); err == nil {
				powered = n
			}
		}
	}
	if boards != 1 || powered == 0 {
		return nil, false
	}
	if !s.learnOf(powered, d) {
		return nil, false
	}
	sl, ok := s.slots[powered]
	return sl, ok
}

// learnOf takes the HAT's wiring from where the board of a slot is. The lock is held.
func (s *Service) learnOf(n int, d usbhost.Device) bool {
	wiring, err := s.search().Learn(n, d.Path)
	if err != nil {
		s.o.Log.Warn("cannot learn the HAT's wiring", "error", err)
		return false
	}
	s.wiring = &wiring
	delete(s.problems, "wiring")
	delete(s.problems, "rescue")
	s.o.Log.Info("learned the HAT's wiring", "wiring", wiring.String())
	if err := s.search().Keep(wiring); err != nil {
		s.o.Log.Warn("the HAT's wiring cannot be kept", "error", err)
	}
	return true
}

// search is what is known of the HAT before the bus is looked at.
func (s *Service) search() usbhost.Search {
	search := usbhost.Search{Cache: s.o.Wiring}
	if hat := s.o.Node.HAT; hat != nil {
		search.Version, search.Hub, search.First = hat.Version, hat.Hub, hat.First
	}
	if s.o.Node.Netboot != nil {
		for _, n := range slices.Sorted(maps.Keys(s.o.Node.Netboot.Ports)) {
			if !search.OnHAT(n) {
				search.Elsewhere = append(search.Elsewhere, s.o.Node.Netboot.Ports[n])
			}
		}
	}
	return search
}

// serveBoard gives a board what it asks for, until it leaves.
func (s *Service) serveBoard(ctx context.Context, d usbhost.Device) {
	sl, ok := s.slotOf(d)
	if !ok {
		sl, ok = s.learn(d)
	}
	if !ok {
		sl, ok = s.begunAt(ctx, d)
	}
	if !ok {
		s.o.Log.Info("a board that is in none of this cluster's slots waits for boot files", "device", d.String())
		return
	}
	state, err := s.o.Store.State(sl.number)
	if err != nil {
		s.trouble(sl, err)
		return
	}
	begin := s.begin
	if state.Mode != store.Netboot && state.Mode != store.Ephemeral {
		begin = s.save
	}
	if state.Mode == store.Off && !s.begun(sl.number) {
		s.o.Log.Info("a board has no card, and nothing to boot from here", "slot", sl.name(), "remedy", "hatchery netboot enable "+sl.name())
		return
	}
	s.lookAtCard(sl.number, sl) // before the board hears of what it is about
	sl.asks.Store(true)
	stage := d.Stage()
	seen := slots.Event{Kind: slots.BootROM}
	if stage == usbboot.StageFiles {
		seen.Kind = slots.FileServer
	}
	s.board.Tell(sl.number, seen)
	defer func() {
		if errors.Is(context.Cause(ctx), usbboot.ErrGone) {
			s.board.Tell(sl.number, slots.Event{Kind: slots.USBGone})
		}
	}()
	boot := sl.booting()
	if stage == usbboot.StageROM || boot == nil {
		if boot, err = begin(ctx, sl); err != nil {
			s.trouble(sl, err)
			return
		}
	}
	transport, err := s.o.Bus.Open(d)
	if errors.Is(err, usbboot.ErrGone) {
		return // it left while it was looked at
	}
	if err != nil {
		s.trouble(sl, s.withRivals(err))
		return
	}
	defer transport.Close()
	result, err := sl.port.Serve(ctx, d.USBBoot(transport), boot, usbboot.Options{Told: func(e usbboot.Event) { s.toldOfFile(sl, e) }})
	if rounds := sl.port.Rounds(); err == nil && rounds > 2 && result.Stage == usbboot.StageROM {
		err = fmt.Errorf("the boot ROM took bootcode.bin %d times, and it does not run on this board: pin another one (netboot: {firmware: {bootcode.bin: …}} in cluster.yaml)", rounds)
	}
	switch {
	case err != nil && ctx.Err() == nil:
		s.trouble(sl, err)
	case err == nil && result.Stage == usbboot.StageFiles:
		s.board.Tell(sl.number, slots.Event{Kind: slots.FilesDone})
		s.o.Log.Info("boot files were sent", "slot", sl.name(), "bytes", result.Bytes, "seconds", result.Duration.Seconds())
		sl.asks.Store(false)
		if state.Mode == store.Off && s.o.Rescued != nil {
			s.o.Rescued(sl.number)
		}
		if err := sl.saved(); err != nil {
			s.o.Log.Error("what a card is written with was not closed well", "slot", sl.name(), "error", err)
		}
	}
}

// toldOfFile hands on what a board is given.
func (s *Service) toldOfFile(sl *slot, e usbboot.Event) {
	if e.Stage != usbboot.StageFiles {
		return
	}
	switch e.Kind {
	case usbboot.Sending, usbboot.Sent:
		s.board.Tell(sl.number, slots.Event{Kind: slots.File, At: e.At, Name: e.Name, Bytes: e.Bytes, Total: e.Total, Sum: e.Sum})
	case usbboot.Missing, usbboot.Refused:
		s.board.Tell(sl.number, slots.Event{Kind: slots.FileMissing, At: e.At, Name: e.Name})
	}
}

// trouble is what went wrong with a board; it may be tried again.
func (s *Service) trouble(sl *slot, err error) {
	s.o.Log.Warn("a board cannot be served", "slot", sl.name(), "error", err)
	s.board.Tell(sl.number, slots.Event{Kind: slots.USBTrouble, Reason: err.Error()})
}

// withRivals names rpiboot where it runs: it takes boards away.
func (s *Service) withRivals(err error) error {
	if !errors.Is(err, usbhost.ErrBusy) {
		return err
	}
	rivals, looked := s.o.Bus.Rivals()
	if looked != nil || len(rivals) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s runs: stop it, `systemctl disable --now clusterctrl-rpiboot` where it is a service)", err, rivals[0])
}
