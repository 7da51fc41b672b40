package netboot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hatchery/netboot/bootfiles"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
	"hatchery/netboot/usbhost"
)

// A slot whose card is half written may have nothing to boot from: then its board asks
// for boot files over USB, as one without a card does. It gets the kernel of what it is
// to have, with the program that goes on writing the card. Nothing else of netboot is
// for it: no disk, and no root over the link.

// begun says whether a slot's card is half written, and its node can be started over
// USB to go on. A slot that boots over its link has no card that counts.
func (s *Service) begun(n int) bool {
	if s.o.Unfinished == nil || s.o.Writer == nil || !s.o.Unfinished(n) {
		return false
	}
	state, err := s.o.Store.State(n)
	return err == nil && state.Mode == store.Off
}

// keeps says whether a slot's power is not to be cut by itself, because its node may be at
// the part of its card without which it starts nothing any more.
func (s *Service) keeps(n int) bool {
	sl := s.slots[n]
	return s.o.Keeps != nil && sl != nil && !sl.asks.Load() && s.o.Keeps(n)
}

// anyBegun says whether a slot's card is.
func (s *Service) anyBegun() bool {
	for n := range s.slots {
		if s.begun(n) {
			return true
		}
	}
	return false
}

// glanceEvery is how often it is looked whose card is half written, and whose root
// before is held on to: both are known without waiting.
const glanceEvery = time.Second

// glance follows both, until ctx ends.
func (s *Service) glance(ctx context.Context) {
	ticker := time.NewTicker(glanceEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		for n, sl := range s.slots {
			s.lookAtCard(n, sl)
			s.letGo(ctx, n, sl)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// lookAtCard tells the board whether a slot's card is half written.
func (s *Service) lookAtCard(n int, sl *slot) {
	is := s.begun(n)
	sl.mu.Lock()
	was := sl.begun
	sl.begun = is
	sl.mu.Unlock()
	switch {
	case is && !was:
		s.board.Tell(n, slots.Event{Kind: slots.CardBegun})
	case was && !is:
		s.board.Tell(n, slots.Event{Kind: slots.CardWhole})
		if err := sl.saved(); err != nil {
			s.o.Log.Error("what a card is written with was not closed well", "slot", sl.name(), "error", err)
		}
	}
}

// save opens what a board goes on writing its card with.
func (s *Service) save(ctx context.Context, sl *slot) (*bootfiles.Boot, error) {
	sl.starting.Lock()
	defer sl.starting.Unlock()
	root, err := s.o.Store.Wanted(sl.number)
	if err != nil {
		return nil, err
	}
	image, err := s.o.Store.Image(*root)
	if err != nil {
		return nil, err
	}
	reading, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	boot, err := bootfiles.OpenCard(reading, bootfiles.Options{
		Slot: sl.number, Model: sl.target.Model, Disk: image, Size: image.Size(),
		Words: s.o.Words, Modules: s.o.Modules, NodeInit: s.o.NodeInit, Writer: s.o.Writer, Firmware: s.o.Firmware, Cache: &s.cache,
	})
	if err != nil {
		return nil, errors.Join(err, image.Close())
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.down {
		return nil, errors.Join(ErrStopping, image.Close())
	}
	err = sl.dropImage()
	sl.image, sl.boot = image, boot
	return boot, err
}

// dropImage lets go of what a board goes on writing its card with. The caller holds
// the lock.
func (sl *slot) dropImage() error {
	if sl.image == nil {
		return nil
	}
	image := sl.image
	sl.image, sl.boot = nil, nil
	return image.Close()
}

// saved lets go of it when the board has it all.
func (sl *slot) saved() error {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.dropImage()
}

// begunAt tells the slot of a board while the HAT's wiring is unknown, by whose card is
// half written: of those whose node is not at work already. Where there are more of them,
// or more boards, they are told apart by their power; where that cannot be, it is looked
// again as long as the board is there.
func (s *Service) begunAt(ctx context.Context, d usbhost.Device) (*slot, bool) {
	for {
		sl, unclear := s.begunNow(ctx, d)
		if !unclear {
			return sl, sl != nil
		}
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(glanceEvery):
		}
		if !s.onBus(ctx, d) {
			return nil, false
		}
		if sl, ok := s.slotOf(d); ok {
			return sl, true
		}
	}
}

// begunNow is begunAt as things stand; unclear says that this may change.
func (s *Service) begunNow(ctx context.Context, d usbhost.Device) (is *slot, unclear bool) {
	s.mu.Lock()
	known, boards := s.wiring != nil, 0
	for _, d := range s.devices {
		if _, elsewhere := s.elsewhere(d); d.Bootable() && !elsewhere {
			boards++
		}
	}
	s.mu.Unlock()
	if known {
		return nil, false
	}
	var found []*slot
	for n, sl := range s.slots {
		if s.o.Node.Netboot != nil && s.o.Node.Netboot.Ports[n] != "" {
			continue // its board is known by its port
		}
		sl.mu.Lock()
		atWork := sl.cardUp
		sl.mu.Unlock()
		status, _ := s.board.Status(n)
		if !atWork && status.Power != slots.SupplyOff && s.begun(n) {
			found = append(found, sl)
		}
	}
	slices.SortFunc(found, func(a, b *slot) int { return a.number - b.number })
	switch {
	case len(found) == 1 && boards == 1:
		s.problem("rescue", "")
		return found[0], false
	case len(found) == 0:
		return nil, false
	}
	sl, told := s.tellApart(ctx, d, found, boards)
	if !told && len(found) > 1 {
		s.problem("rescue", fmt.Sprintf("the cards of %s and %s are half written, and which of them asks for boot files is unknown: set `hat: {version: …}` in cluster.yaml to what is printed on the board, or leave one of them without power", found[0].name(), found[1].name()))
		s.mu.Lock()
		if s.wiring != nil { // learned meanwhile, by another of the boards
			delete(s.problems, "rescue")
		}
		s.mu.Unlock()
	}
	return sl, !told
}

// How boards are told apart by their power: how often that is tried for a place on the
// bus, and for how long a slot is without power.
const (
	apartTries = 3
	apartFor   = 3 * time.Second
)

// tellApart takes the power of slots whose cards are half written, of one at a time and for
// a moment, until a board goes with it: then it is that slot's, the HAT's wiring is known,
// and the board comes again. Who may be at its boot partition keeps its power, unless there
// are boards enough for all: then it is not. Where it is the only one left, the board is
// its.
func (s *Service) tellApart(ctx context.Context, d usbhost.Device, among []*slot, boards int) (is *slot, told bool) {
	if s.o.Power == nil {
		return nil, false
	}
	s.apart.Lock()
	defer s.apart.Unlock()
	s.mu.Lock()
	known := s.wiring != nil // by another board, meanwhile
	tries := s.tries[d.Path]
	s.mu.Unlock()
	if known {
		sl, _ := s.slotOf(d)
		return sl, true
	}
	if tries >= apartTries {
		return nil, false
	}
	learned := func(sl *slot) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.learnOf(sl.number, d)
	}
	var kept []*slot
	first := true
	for _, sl := range among {
		status, _ := s.board.Status(sl.number)
		if status.Power != slots.SupplyOn || boards < len(among) && s.o.Keeps != nil && s.o.Keeps(sl.number) {
			kept = append(kept, sl)
			continue
		}
		if first {
			s.mu.Lock()
			s.tries[d.Path]++
			s.mu.Unlock()
			first = false
		}
		s.o.Log.Info("a slot is without power for a moment, to see whose board asks for boot files", "slot", sl.name(), "device", d.String())
		if s.goesWith(ctx, d, sl) {
			learned(sl)
			return nil, true
		}
	}
	if boards == 1 && len(kept) == 1 && s.onBus(ctx, d) && learned(kept[0]) {
		return kept[0], true
	}
	return nil, false
}

// goesWith says whether a board leaves the bus when a slot is without power.
func (s *Service) goesWith(ctx context.Context, d usbhost.Device, sl *slot) (gone bool) {
	if !s.onBus(ctx, d) {
		return false // it went by itself
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	err := s.withoutPower(context.WithoutCancel(ctx), sl, func() error {
		for end := time.Now().Add(apartFor); !gone && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			gone = !s.onBus(ctx, d)
		}
		return nil
	})
	if err != nil {
		s.o.Log.Warn("boards cannot be told apart by their power", "slot", sl.name(), "error", err)
	}
	return gone
}

// onBus says whether a device is there still.
func (s *Service) onBus(ctx context.Context, d usbhost.Device) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ctx.Err() == nil && slices.ContainsFunc(s.devices, func(other usbhost.Device) bool { return other.Same(d) })
}
