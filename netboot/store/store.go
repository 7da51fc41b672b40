package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/filelock"
	"hatchery/internal/progress"
	"hatchery/netboot/disk"
)

const (
	// Dir is where the controller has its store.
	Dir = "/var/lib/hatchery/netboot"
	// RunDir is where it keeps what goes with the power.
	RunDir = "/run/hatchery/netboot"
	// DefaultReserve is how much of the file system stays free, in bytes: Docker
	// and the logs of the controller live there too.
	DefaultReserve = 256 << 20
)

// Options are what a store may be told; the zero value is that of the
// controller.
type Options struct {
	// Run is a folder that goes with the power (tmpfs); RunDir where empty.
	Run string
	// Reserve is how many bytes of the file system whatever is added leaves
	// free: 0 stands for DefaultReserve, less than 0 for nothing.
	Reserve int64
	// Disk is what the slots' disks are kept with; the quotas are the slots' own.
	Disk disk.Options
	// Now gives the wall clock, for what is shown to people.
	Now func() time.Time
	Log *slog.Logger
}

// A Store is the folder that netbooting slots boot from. All methods may be
// called from several goroutines, and several processes may have one open.
type Store struct {
	dir     string
	o       Options
	removal sync.WaitGroup // tops that are removed in the background

	mu    sync.Mutex
	parts map[digest.Digest]*part // that are open
	slots map[int]*sync.Mutex
	disks map[int]*Disk // that are open

	// hook is told each step of what must survive a kill; tests set it.
	hook func(step string)
}

// Open opens the store in dir, which is made where it is missing, and removes
// what killed processes left behind.
func Open(dir string, o Options) (*Store, error) {
	if o.Run == "" {
		o.Run = RunDir
	}
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, o: o, parts: map[digest.Digest]*part{}, slots: map[int]*sync.Mutex{}, disks: map[int]*Disk{}}
	for _, d := range []string{o.Run, dir, s.path("bases"), s.path("layers"), s.path("slots"), s.path("incoming")} {
		// 0700: layers hold private keys.
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the netboot store: %w", err)
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return nil, fmt.Errorf("cannot close the netboot store to others: %w", err)
		}
	}
	if err := s.clean(); err != nil {
		return nil, fmt.Errorf("cannot clean the netboot store: %w", err)
	}
	return s, nil
}

// Close waits for what is being removed in the background. Disks that are open
// stay open.
func (s *Store) Close() error {
	s.removal.Wait()
	return nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}
func (s *Store) basePath(d digest.Digest) string  { return s.path("bases", d.Encoded()+".img") }
func (s *Store) layerPath(d digest.Digest) string { return s.path("layers", d.Encoded()+".layer") }
func (s *Store) slotPath(slot int) string         { return s.path("slots", clusterctrl.SlotName(slot)) }
func (s *Store) statePath(slot int) string        { return filepath.Join(s.slotPath(slot), "state.json") }
func (s *Store) openPath(slot int) string         { return filepath.Join(s.slotPath(slot), "open") }
func (s *Store) runningPath(slot int) string {
	return filepath.Join(s.o.Run, clusterctrl.SlotName(slot)+".running")
}
func (s *Store) topPath(slot int, top uint64) string {
	return filepath.Join(s.slotPath(slot), strconv.FormatUint(top, 10)+topSuffix)
}
func (s *Store) journalPath(slot int, top uint64) string {
	return filepath.Join(s.o.Run, fmt.Sprintf("%s-%d%s", clusterctrl.SlotName(slot), top, journalSuffix))
}

const (
	topSuffix     = ".top"
	journalSuffix = ".journal"
)

func (s *Store) step(name string) {
	if s.hook != nil {
		s.hook(name)
	}
}

// lockSlot keeps everybody else from the slot's state.
func (s *Store) lockSlot(ctx context.Context, slot int) (unlock func(), err error) {
	if slot < clusterctrl.MinSlot || slot > clusterctrl.MaxSlot {
		return nil, fmt.Errorf("there is no slot %d", slot)
	}
	if err := os.MkdirAll(s.slotPath(slot), 0o700); err != nil {
		return nil, err
	}
	s.mu.Lock()
	m := s.slots[slot]
	if m == nil {
		m = new(sync.Mutex)
		s.slots[slot] = m
	}
	s.mu.Unlock()
	m.Lock()
	release, err := filelock.Lock(ctx, filepath.Join(s.slotPath(slot), "lock"), "wait for another change of "+clusterctrl.SlotName(slot), progress.Discard)
	if err != nil {
		m.Unlock()
		return nil, err
	}
	return func() { release(); m.Unlock() }, nil
}

// Hold keeps Collect away: whoever adds objects and assigns them afterwards
// holds on in between.
func (s *Store) Hold(ctx context.Context) (release func(), err error) {
	l, err := filelock.Share(ctx, s.path("objects.lock"))
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
}

// alone gives the lock of the objects to one that removes some; nil where
// somebody holds on.
func (s *Store) alone() (*flock.Flock, error) {
	l := filelock.New(s.path("objects.lock"))
	ok, err := l.TryLock()
	if err != nil || !ok {
		l.Close()
		return nil, err
	}
	return l, nil
}

// clean removes what killed processes left: files on their way to their place,
// and tops that no state refers to.
func (s *Store) clean() error {
	l, err := s.alone()
	if err != nil {
		return err
	}
	if l != nil { // else they may be somebody's who is alive
		defer l.Close()
		for _, dir := range []string{"bases", "layers", "incoming"} {
			if err := atomicfile.RemoveLeftovers(s.path(dir)); err != nil {
				return err
			}
		}
		orphans, err := named(s.path("incoming"), "", progressSuffix)
		if err != nil {
			return err
		}
		for _, path := range orphans {
			if _, err := os.Lstat(strings.TrimSuffix(path, progressSuffix) + partSuffix); errors.Is(err, fs.ErrNotExist) {
				if err := remove(path); err != nil {
					return err
				}
			}
		}
	}
	slots, err := s.Slots()
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if err := s.cleanSlot(slot); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) cleanSlot(slot int) error {
	unlock, err := s.lockSlot(context.Background(), slot)
	if err != nil {
		return err
	}
	defer unlock()
	return s.cleanSlotLocked(slot)
}

func (s *Store) cleanSlotLocked(slot int) error {
	if err := atomicfile.RemoveLeftovers(s.slotPath(slot)); err != nil {
		return err
	}
	st, err := s.readState(slot)
	if err != nil {
		// One that cannot be read is told when the slot is used; until somebody
		// has looked, nothing of it is removed.
		s.o.Log.Error("a slot's state cannot be read", "slot", clusterctrl.SlotName(slot), "error", err)
		return nil
	}
	keep := map[string]bool{}
	for _, top := range st.tops() {
		keep[s.topPath(slot, top)], keep[s.journalPath(slot, top)] = true, true
	}
	tops, err := named(s.slotPath(slot), "", topSuffix)
	if err != nil {
		return err
	}
	journals, err := named(s.o.Run, clusterctrl.SlotName(slot)+"-", journalSuffix)
	if err != nil {
		return err
	}
	runs, err := named(s.o.Run, "."+filepath.Base(s.runningPath(slot))+".", atomicfile.Suffix)
	if err != nil {
		return err
	}
	for _, path := range slices.Concat(tops, journals, runs) {
		if !keep[path] {
			if err := remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// named gives the paths of the files in dir whose names begin and end so.
func named(dir, prefix, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), suffix) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, err
}

// remove removes a file that may be gone already.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Slots gives the slots of which the store knows something, in order.
func (s *Store) Slots() ([]int, error) {
	entries, err := os.ReadDir(s.path("slots"))
	if err != nil {
		return nil, err
	}
	known := map[int]bool{}
	for _, e := range entries {
		if n, err := clusterctrl.ParseSlot(e.Name()); err == nil && e.IsDir() {
			known[n] = true
		}
	}
	var out []int
	for n := clusterctrl.MinSlot; n <= clusterctrl.MaxSlot; n++ {
		if known[n] {
			out = append(out, n)
		}
	}
	return out, nil
}
