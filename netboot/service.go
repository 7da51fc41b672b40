package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"hatchery/internal/nodefile"
	"hatchery/netboot/bootfiles"
	"hatchery/netboot/nbd"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
	"hatchery/netboot/usbhost"
)

// A Service boots the slots of a controller that have no card.
type Service struct {
	o      Options
	board  *slots.Board
	server *nbd.Server
	slots  map[int]*slot
	cache  bootfiles.Cache

	mu       sync.Mutex
	devices  []usbhost.Device
	wiring   *usbhost.Wiring
	problems map[string]string // what a person should know, by subject
	tries    map[string]int    // how often boards were told apart by their power, by their places

	apart sync.Mutex // held while boards are told apart by their power

	wanted chan struct{} // gets a word when a slot was enabled
}

// New makes a service. Slots that cluster.yaml has without a card are enabled,
// if nobody said otherwise yet.
func New(ctx context.Context, o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	s := &Service{o: o, slots: map[int]*slot{}, problems: map[string]string{}, tries: map[string]int{}, wanted: make(chan struct{}, 1)}
	var numbers []int
	for _, t := range o.Node.Targets {
		if t.Slot == 0 {
			continue
		}
		numbers = append(numbers, t.Slot)
		s.slots[t.Slot] = &slot{number: t.Slot, target: t}
	}
	slices.Sort(numbers)
	options := slots.Options{Slots: numbers, Limits: o.Limits, Keeps: s.keeps, Log: o.Log}
	if o.Power != nil {
		options.Power = switching{o.Power, s}
	}
	s.board = slots.New(options)
	s.server = &nbd.Server{Exports: exports{s}, TLS: o.TLS, Log: o.Log, Told: s.toldOfRoot}
	for _, n := range numbers {
		if err := s.setUp(ctx, s.slots[n]); err != nil {
			// The others boot all the same.
			s.slots[n].broken = err.Error()
			s.board.Enable(n, false)
			s.problem(s.slots[n].name(), err.Error())
		}
	}
	return s, nil
}

// setUp takes over how a slot boots: what was chosen by hand, else what
// cluster.yaml says.
func (s *Service) setUp(ctx context.Context, sl *slot) error {
	state, err := s.o.Store.State(sl.number)
	if err != nil {
		return fmt.Errorf("cannot tell how %s boots: %w", sl.name(), err)
	}
	mode := state.Mode
	if !state.Chosen && mode == store.Off && sl.target.Root != "" && sl.target.Root != nodefile.RootCard {
		mode = store.Mode(sl.target.Root)
		if err := s.configure(ctx, sl.number, mode, false); err != nil {
			return err
		}
	}
	s.board.Enable(sl.number, mode == store.Netboot || mode == store.Ephemeral)
	return nil
}

// configure has the store keep how a slot boots.
func (s *Service) configure(ctx context.Context, n int, mode store.Mode, chosen bool) error {
	err := s.o.Store.Configure(ctx, n, func(settings *store.Settings) {
		settings.Mode, settings.Chosen = mode, chosen
		if own := s.o.Node.Netboot; own != nil && settings.Size == 0 && settings.Quota == 0 {
			settings.Size, settings.Quota = own.Disk, own.Quota
		}
	})
	if err != nil {
		return fmt.Errorf("cannot set how %s boots: %w", s.slots[n].name(), err)
	}
	return nil
}

// lookEvery is how often it is looked whether a push has enabled a slot.
const lookEvery = 30 * time.Second

// awaitSlots waits until a slot boots without a card: a controller whose nodes
// all have cards does nothing here, and makes no bridge. With begun it returns for a
// slot whose card is half written, too.
func (s *Service) awaitSlots(ctx context.Context, begun bool) {
	ticker, often := time.NewTicker(lookEvery), (<-chan time.Time)(nil)
	defer ticker.Stop()
	if begun && s.o.Unfinished != nil {
		t := time.NewTicker(glanceEvery)
		defer t.Stop()
		often = t.C
	}
	for {
		found := false
		for n, sl := range s.slots {
			state, err := s.o.Store.State(n)
			if err != nil || sl.broken != "" {
				continue
			}
			on := state.Mode == store.Netboot || state.Mode == store.Ephemeral
			s.board.Enable(n, on)
			found = found || on
		}
		if found {
			return
		}
		for looked := false; !looked; {
			if begun && s.anyBegun() {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-s.wanted:
				looked = true
			case <-ticker.C:
				looked = true
			case <-often:
			}
		}
	}
}

// Run serves until ctx ends, which is no error. Nodes that run then wait for
// the next service.
func (s *Service) Run(ctx context.Context) error {
	if s.awaitSlots(ctx, true); ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beside sync.WaitGroup
	part := func(what string, run func(context.Context) error) {
		beside.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	beside.Go(func() { s.pay(ctx) })
	beside.Go(func() { s.glance(ctx) })
	// A node that goes on writing its card has no root over the link.
	rooted := make(chan struct{})
	beside.Go(func() {
		defer close(rooted)
		s.awaitSlots(ctx, false)
	})
	if s.o.Network != nil {
		beside.Go(func() {
			if <-rooted; ctx.Err() != nil {
				return
			}
			s.o.Network(ctx, func(err error) {
				if err != nil {
					s.problem("network", "the roots' network: "+err.Error())
				} else {
					s.problem("network", "")
				}
			})
		})
	}
	part("the slots' roots", func(ctx context.Context) error {
		if <-rooted; ctx.Err() != nil {
			return ctx.Err()
		}
		return s.serveRoots(ctx)
	})
	part("the slots' power", s.board.Run)
	part("USB", func(ctx context.Context) error {
		s.o.Bus.Attend(ctx, s.seen, s.serveBoard)
		return ctx.Err()
	})
	part("links", func(ctx context.Context) error {
		s.followLinks(ctx)
		return ctx.Err()
	})
	if s.o.Told != nil {
		part("events", func(ctx context.Context) error {
			for status := range s.board.Watch(ctx) {
				s.o.Told(status)
			}
			return ctx.Err()
		})
	}
	<-ctx.Done()
	beside.Wait()
	for _, sl := range s.slots {
		if err := sl.close(); err != nil {
			s.o.Log.Error("a slot's disk was not closed well", "slot", sl.name(), "error", err)
		}
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// serveRoots serves the slots' roots. The address may come much later, with
// brint.
func (s *Service) serveRoots(ctx context.Context) error {
	l := s.o.Listener
	for first := true; l == nil; first = false {
		var err error
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", s.o.Listen); err == nil {
			s.problem("roots", "")
			break
		}
		if !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		if first {
			s.o.Log.Info("waiting for the address that roots are had at", "address", s.o.Listen, "error", err)
		}
		s.problem("roots", fmt.Sprintf("cannot listen on %s yet: %v", s.o.Listen, err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	return s.server.Serve(ctx, l)
}

// problem keeps what a person should know of a subject, "" for nothing.
func (s *Service) problem(subject, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.problems, subject)
		return
	}
	if s.problems[subject] != text {
		s.o.Log.Warn("netboot", "about", subject, "problem", text)
	}
	s.problems[subject] = text
}

// slot gives one of the cluster's slots.
func (s *Service) slot(n int) (*slot, error) {
	sl, ok := s.slots[n]
	if !ok {
		return nil, &NoSlotError{n}
	}
	return sl, nil
}
