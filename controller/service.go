package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/filelock"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// A service is the running service.
type service struct {
	Options
	log     *slog.Logger
	feed    feed
	keeper  *keeper
	swarm   *fresh[*standing]
	cluster *fresh[swarm.Cluster]

	// token is held by whoever rotates the token, and shared by those who hand
	// it out: nobody gets the one that is being rotated away.
	token sync.RWMutex

	revokes sync.Mutex // held by the revocation that is at work

	settle chan struct{} // has the list of nodes looked through
	write  chan struct{} // has the registry written before long

	slots     map[int]*slot // never changes; what it points to is guarded
	byName    map[string]*slot
	byAddress map[netip.Addr]*slot
	self      *slot // the controller's own entry; nil if node.json has no such target

	mu            sync.Mutex       // guards what follows
	byNode        map[string]*slot // who came with a node ID, present and past
	registry      *registry
	version       uint64    // of the registry
	handed        time.Time // when a token was last handed out, or a join ended
	handedManager time.Time // when the manager token was
}

// Serve runs the service until ctx ends, which is no error. It waits for the
// address that it listens on, and for everything that comes up later: the
// swarm, a trusted clock.
//
// A node that joined comes as `pause`, so that no task is given to it. When
// its first report names its node ID, its entry gets the inventory's labels
// and those that an operator gave to the slot's former entry; the slot's other
// entries are removed; then it is made active, or what the operator had set.
// Each of these is done again until it is so, which holds over restarts of the
// service at any point between.
func Serve(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the service's folder: %w", err)
	}
	lock := filelock.New(filepath.Join(o.StateDir, ".lock"))
	if ok, err := lock.TryLock(); err != nil {
		return fmt.Errorf("cannot lock %s: %w", o.StateDir, err)
	} else if !ok {
		return fmt.Errorf("another `hatchery serve` is at work in %s: end it (systemctl stop hatchery)", o.StateDir)
	}
	defer lock.Close()
	if err := atomicfile.RemoveLeftovers(o.StateDir); err != nil {
		return fmt.Errorf("cannot tidy the service's folder: %w", err)
	}

	s, err := newService(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	local, err := s.serveLocal(ctx, &wg, failed)
	if err != nil {
		return err
	}
	for _, loop := range []func(context.Context){s.writing, s.settling, s.watching, s.rotating, s.agreeing} {
		wg.Go(func() { loop(ctx) })
	}
	wg.Go(func() { s.relay(ctx) })
	nodes, err := s.serveNodes(ctx, &wg, failed)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		case err = <-s.keeper.replaced:
		}
	}
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	nodes()
	local()
	wg.Wait()
	if last := s.save(context.WithoutCancel(ctx)); err == nil {
		err = last
	}
	return err
}

func newService(o Options) (*service, error) {
	s := &service{
		Options: o, log: o.Log,
		swarm:         newFresh(fetchStanding(o.Engine)),
		cluster:       newFresh(o.Engine.Cluster),
		settle:        make(chan struct{}, 1),
		write:         make(chan struct{}, 1),
		slots:         map[int]*slot{},
		byName:        map[string]*slot{},
		byAddress:     map[netip.Addr]*slot{},
		byNode:        map[string]*slot{},
		version:       1,
		handed:        time.Now(),
		handedManager: time.Now(),
	}
	s.keeper = newKeeper(o.StateDir, s.marshal) // before the registry is read: it sees whether that is replaced
	reg, complaint, err := readRegistry(o.StateDir, o.Node.Cluster)
	if err != nil {
		return nil, err
	}
	s.registry = reg
	now := time.Now()
	for _, t := range o.Node.Targets {
		if t.Slot == 0 {
			if reg.Controller == nil {
				reg.Controller = &record{}
			}
			s.self = newSlot(t, reg.Controller, now)
			continue
		}
		s.addSlot(clusterctrl.SlotName(t.Slot), t, now)
	}
	s.addForeign(now)
	if complaint != "" {
		s.mu.Lock()
		s.alarm(nil, Damaged, complaint)
		s.mu.Unlock()
	}
	return s, nil
}

// addSlot has a slot known, with what was written down of it.
func (s *service) addSlot(name string, t nodefile.Target, now time.Time) *slot {
	rec := s.registry.Slots[name]
	if rec == nil {
		rec = &record{}
		s.registry.Slots[name] = rec
	}
	slot := newSlot(t, rec, now)
	s.slots[t.Slot], s.byName[t.Name], s.byAddress[t.Address] = slot, slot, slot
	for _, id := range append(rec.PastNodes, rec.NodeID) {
		s.byNode[id] = slot
	}
	return slot
}

// marshal is the registry as it is now.
func (s *service) marshal() ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := json.MarshalIndent(s.registry, "", " ")
	return append(data, '\n'), s.version, err
}

// changed says that the registry is to be written before long. The caller
// holds the lock.
func (s *service) changed() {
	s.version++
	poke(s.write)
}

// save returns when the registry is on the disk as it is now.
func (s *service) save(ctx context.Context) error {
	s.mu.Lock()
	version := s.version
	s.mu.Unlock()
	return s.keeper.save(ctx, version)
}

// writing writes the registry some time after it was changed, for changes that
// nobody waits for.
func (s *service) writing(ctx context.Context) {
	const quiet, again = time.Second, 10 * time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.write:
		}
		pause(ctx, quiet)
		if err := s.save(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("the service's state cannot be written", "error", err)
			pause(ctx, again)
			poke(s.write)
		}
	}
}

// event tells what happened. The caller may hold the lock.
func (s *service) event(slot *slot, kind, detail string) {
	e := Event{Time: time.Now().UTC(), Kind: kind, Detail: detail}
	who := "controller"
	if slot != nil {
		e.Slot, who = slot.target.Slot, slot.target.Name
	}
	level := slog.LevelInfo
	switch kind {
	case EventRefused, EventRevoked:
		level = slog.LevelWarn
	case EventAlarm:
		level = slog.LevelError
	case EventStep:
		level = slog.LevelDebug // the node's own journal has it
	}
	s.log.Log(context.Background(), level, detail, "slot", who, "event", kind)
	s.feed.publish(e)
}

// alarm tells what a person should look at. The same alarm again is the old
// one, brought up to date. The caller holds the lock.
func (s *service) alarm(slot *slot, code enrol.Code, detail string) {
	entry := enrol.AlarmEntry{Time: time.Now().UTC().Truncate(time.Second), Code: code, Detail: detail}
	if slot != nil {
		entry.Slot = slot.target.Slot
	}
	alarms := s.registry.Alarms
	at := slices.IndexFunc(alarms, func(a enrol.AlarmEntry) bool {
		return a.Slot == entry.Slot && a.Code == code && a.Detail == detail
	})
	if at >= 0 {
		old := alarms[at]
		alarms = slices.Delete(alarms, at, at+1)
		// A node that calls every few seconds does not fill the journal, nor
		// wear the card.
		if entry.Time.Sub(old.Time).Abs() < alarmAgain {
			s.registry.Alarms = append(alarms, old)
			return
		}
	}
	// Nor does one whose alarms are never the same (somebody with a slot's
	// certificate, who calls from one address after the other) push out those
	// of others.
	var kind []int
	for i, a := range alarms {
		if a.Slot == entry.Slot && a.Code == code {
			kind = append(kind, i)
		}
	}
	if n := len(kind); n >= alarmsOfAKind {
		if at < 0 && entry.Time.Sub(alarms[kind[n-1]].Time).Abs() < alarmAgain {
			return
		}
		alarms = slices.Delete(alarms, kind[0], kind[0]+1)
	}
	alarms = append(alarms, entry)
	s.registry.Alarms = slices.Clip(alarms[max(0, len(alarms)-maxAlarms):])
	s.changed()
	s.event(slot, EventAlarm, detail)
}

// alarmAgain is how often the same alarm is told, and alarmsOfAKind how many of
// a slot and a code there are.
const (
	alarmAgain    = 10 * time.Minute
	alarmsOfAKind = 4
)

// watching has the list of nodes looked through whenever the swarm changes.
func (s *service) watching(ctx context.Context) {
	const again = 2 * time.Second
	for ctx.Err() == nil {
		changes, err := s.Engine.Events(ctx)
		if err != nil {
			pause(ctx, again)
			continue
		}
		poke(s.settle)
		for range changes {
			poke(s.settle)
			// A task that starts on every node makes many events.
			pause(ctx, 200*time.Millisecond)
		}
		pause(ctx, again)
	}
}

// listen listens, and tries until it works: at boot the address comes later.
func (s *service) listen(ctx context.Context, address string) (net.Listener, error) {
	told := false
	for {
		var c net.ListenConfig
		l, err := c.Listen(ctx, "tcp", address)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !told {
			s.log.Warn("waiting for the address to listen on (br0 gets it)", "address", address, "error", err)
			told = true
		}
		pause(ctx, time.Second)
	}
}

// poke wakes whoever waits on a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
