package netboot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hatchery/internal/clusterctrl"
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
// half written: it has to be the only one of those whose node is not at work already, and
// the board the only one on the bus.
func (s *Service) begunAt(usbhost.Device) (*slot, bool) {
	s.mu.Lock()
	known, boards := s.wiring != nil, 0
	for _, d := range s.devices {
		if d.Bootable() {
			boards++
		}
	}
	s.mu.Unlock()
	if known || boards != 1 {
		return nil, false
	}
	var found *slot
	for n, sl := range s.slots {
		sl.mu.Lock()
		atWork := sl.cardUp
		sl.mu.Unlock()
		status, _ := s.board.Status(n)
		if atWork || status.Power == slots.SupplyOff || !s.begun(n) {
			continue
		}
		if found != nil {
			s.problem("rescue", fmt.Sprintf("the cards of %s and %s are half written, and which of them asks for boot files is unknown: set `hat: {version: …}` in cluster.yaml to what is printed on the board, or leave one of them without power", clusterctrl.SlotName(min(n, found.number)), clusterctrl.SlotName(max(n, found.number))))
			return nil, false
		}
		found = sl
	}
	if found != nil {
		s.problem("rescue", "")
	}
	return found, found != nil
}
