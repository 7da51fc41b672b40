package preserve

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// What Save and others fail with, as far as a caller does something about it.
var (
	// ErrBusy: something is saved or given back of this slot right now.
	ErrBusy = errors.New("what is kept of this slot is being fetched or given back right now")
	// ErrUnreachable: the node does not answer.
	ErrUnreachable = errors.New("the node cannot be asked")
	// ErrInUse: containers may write to it. SaveForce saves nevertheless.
	ErrInUse = errors.New("containers use what is to be kept")
	// ErrTooBig: it is more than the quota, or than there is room for.
	ErrTooBig = errors.New("what is to be kept is too big")
	// ErrDamaged: what is known of the slot's archive cannot be read.
	ErrDamaged = errors.New("what is known of what was kept cannot be read")
)

// A Keeper keeps archives. Run lets go of them in time; the other methods may be
// called at any time.
type Keeper struct {
	o Options

	mu      sync.Mutex
	slots   map[int]*record // what there is
	damaged map[int]error   // whose record cannot be read: nobody knows what there is
	busy    map[int]bool
	owed    map[int]owed // what could not be let go of
}

// A record is what is known of a slot's archive. It lies beside it as pN.json.
type record struct {
	kept.Offer
	Stored int64       `json:"stored"` // bytes on the card
	Left   []kept.Left `json:"left,omitempty"`
	// Restored says that the node has it back, NotRestored what it did not put into
	// place, Ready that the node was Ready after that, and Held for how long since.
	Restored    bool          `json:"restored,omitempty"`
	NotRestored []kept.Left   `json:"not_restored,omitempty"`
	Ready       bool          `json:"ready,omitempty"`
	Held        time.Duration `json:"held_ns,omitempty"`
	// Operation is at work on the slot: until it lets go, a node that is Ready is taken for
	// the one before. Withheld says that the root which it makes is to be without.
	Operation string `json:"operation,omitempty"`
	Withheld  bool   `json:"withheld,omitempty"`
	// Aside says that the slot's node went on in a root that never was without it: no root
	// gets it any more, and it is there for people for a while.
	Aside bool `json:"aside,omitempty"`
	// Former is the digest of the archive whose place it has taken: that one may be there
	// still, of a service that was killed.
	Former string `json:"former,omitempty"`
}

// waits says whether the slot's next root gets it.
func (r *record) waits() bool { return r != nil && !r.Restored && !r.Withheld && !r.Aside }

// New makes a keeper, whose folder is made if it is not there. What a killed process
// has left half-written is removed.
func New(o Options) (*Keeper, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	k := &Keeper{o: o, slots: make(map[int]*record), damaged: make(map[int]error), busy: make(map[int]bool), owed: make(map[int]owed)}
	if err := k.open(); err != nil {
		return nil, fmt.Errorf("cannot keep what outlives new roots in %s: %w", o.Dir, err)
	}
	return k, nil
}

const recordSuffix = ".json"

// steady is the step of an agent that has nothing left to do.
const steady = "steady"

func (k *Keeper) open() error {
	if err := os.MkdirAll(k.o.Dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.RemoveLeftovers(k.o.Dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(k.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		slot, err := clusterctrl.ParseSlot(name)
		if !ok || err != nil {
			continue
		}
		r := new(record)
		data, err := os.ReadFile(filepath.Join(k.o.Dir, e.Name()))
		if err == nil {
			err = json.Unmarshal(data, r)
		}
		if err == nil {
			err = r.Check()
		}
		if err == nil && (r.Digest == "" || r.Former != "" && !kept.IsDigest(r.Former)) {
			err = errors.New("it names no archive")
		}
		if err != nil {
			// The archive stays: a person may get at it with tar and zstd.
			k.damaged[slot] = fmt.Errorf("%s: %w", k.record(slot), err)
			k.o.Log.Error("what is known of an archive cannot be read; it is left where it is", "slot", name, "error", k.damage(slot))
			continue
		}
		k.slots[slot] = r
	}
	for slot, r := range k.slots {
		if err := k.settle(slot, r); err != nil {
			return err
		}
	}
	return k.strangers()
}

// settle ends what a killed service was at with a slot's archive, of which the record knows.
func (k *Keeper) settle(slot int, r *record) error {
	place := k.archive(slot, r.Digest)
	_, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		// It was noted, and not at its place yet.
		if info, part := os.Stat(k.part(slot)); part == nil && info.Size() == r.Stored {
			err = errors.Join(os.Rename(k.part(slot), place), atomicfile.SyncDir(k.o.Dir))
		}
	}
	if err != nil {
		k.o.Log.Warn("an archive is not there any more", "slot", clusterctrl.SlotName(slot), "error", err)
		r.Former = "" // if it is there, it is the last
		return k.forget(slot)
	}
	if r.Former != "" && k.archive(slot, r.Former) != place {
		if err := os.Remove(k.archive(slot, r.Former)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// strangers removes what was on its way to be an archive, and leaves archives that no record
// knows of: somebody may have put them there, and what a damaged record had is among them.
func (k *Keeper) strangers() error {
	entries, err := os.ReadDir(k.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), archiveSuffix)
		if !ok {
			continue
		}
		slotName, part, _ := strings.Cut(name, "-")
		slotName, onItsWay := strings.CutSuffix(slotName, recordSuffix)
		slot, err := clusterctrl.ParseSlot(slotName)
		if err == nil && onItsWay && part == "" && k.damaged[slot] == nil {
			if err := os.Remove(k.part(slot)); err != nil {
				return err
			}
			continue
		}
		if r := k.slots[slot]; err == nil && r != nil && filepath.Join(k.o.Dir, e.Name()) == k.archive(slot, r.Digest) {
			continue
		}
		k.o.Log.Warn("an archive that nothing is known of is left where it is: if nobody needs it, remove it", "file", filepath.Join(k.o.Dir, e.Name()))
	}
	return nil
}

// damage says why nobody knows what is kept of a slot, and what to do; nil where that is
// known. The caller holds the lock, or nobody else knows of k.
func (k *Keeper) damage(slot int) error {
	why := k.damaged[slot]
	if why == nil {
		return nil
	}
	archives := "there is no archive beside it"
	if all := k.archives(slot); len(all) > 0 {
		archives = fmt.Sprintf("`zstd -dc FILE | tar -x` on the controller unpacks its archive, %s", strings.Join(all, ", "))
	}
	return fmt.Errorf("%w: %w; %s, and `hatchery rebuild --kept %s --drop` throws both away: without them, a new root gets nothing back",
		ErrDamaged, why, archives, clusterctrl.SlotName(slot))
}

// archives are what looks like a slot's archives.
func (k *Keeper) archives(slot int) []string {
	all, _ := filepath.Glob(filepath.Join(k.o.Dir, clusterctrl.SlotName(slot)+"-*"+archiveSuffix)) // the pattern is one
	if _, err := os.Lstat(k.part(slot)); err == nil {
		all = append(all, k.part(slot))
	}
	return all
}

const archiveSuffix = ".tar.zst"

// archive is where an archive lies.
func (k *Keeper) archive(slot int, digest string) string {
	return filepath.Join(k.o.Dir, clusterctrl.SlotName(slot)+"-"+digest[:12]+archiveSuffix)
}

// part is where an archive lies that is whole, until it is noted.
func (k *Keeper) part(slot int) string { return k.record(slot) + archiveSuffix }

func (k *Keeper) record(slot int) string {
	return filepath.Join(k.o.Dir, clusterctrl.SlotName(slot)+recordSuffix)
}

// forget removes a slot's archive. The caller holds the lock, or nobody else knows
// of k.
func (k *Keeper) forget(slot int) error {
	r := k.slots[slot]
	if r == nil {
		return nil
	}
	if r.Former != "" && r.Former != r.Digest {
		if err := os.Remove(k.archive(slot, r.Former)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove what is kept of %s: %w", clusterctrl.SlotName(slot), err)
		}
	}
	// The record last: without it nobody would remove the archive.
	if err := os.Remove(k.archive(slot, r.Digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove what is kept of %s: %w", clusterctrl.SlotName(slot), err)
	}
	if err := os.Remove(k.record(slot)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove what is kept of %s: %w", clusterctrl.SlotName(slot), err)
	}
	delete(k.slots, slot)
	return nil
}

// write puts a slot's record onto the card. The caller holds the lock.
func (k *Keeper) write(slot int, r *record) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.WriteBytes(k.record(slot), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot note what is kept of %s: %w", clusterctrl.SlotName(slot), err)
	}
	k.slots[slot] = r
	return nil
}

// take takes a slot for as long as something is done with its archive: ErrBusy, or
// what gives it back.
func (k *Keeper) take(slot int) (release func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[slot] {
		return nil, fmt.Errorf("%s: %w", clusterctrl.SlotName(slot), ErrBusy)
	}
	k.busy[slot] = true
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.busy, slot)
	}, nil
}

// Drop throws away what is kept of a slot, if there is something, for good: a node that
// has not got it yet will not.
func (k *Keeper) Drop(slot int) error {
	release, err := k.take(slot)
	if err != nil {
		return err
	}
	defer release()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.damaged[slot] != nil {
		// The record last, as ever.
		for _, name := range append(k.archives(slot), k.record(slot)) {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot remove what is kept of %s: %w", clusterctrl.SlotName(slot), err)
			}
		}
		delete(k.damaged, slot)
	}
	return k.forget(slot)
}

// Heard takes what a node reports, as controller.Options.Heard gets it: member says
// that it is the member of the swarm that the controller takes it for.
func (k *Keeper) Heard(slot int, report enrol.StatusReport, member bool) {
	k.pay(slot)
	// Without Docker, a node that has nothing left to do is all that there can be.
	if !member && (k.o.Node.Docker || report.Step != steady) || report.State != enrol.StateDone {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.slots[slot]
	if r == nil || r.Ready {
		return
	}
	now := *r
	now.Ready = true
	if !r.Restored {
		// A root that is new has it before it is Ready. So this one was there before, and
		// what it has is newer; unless an operation is about to renew it.
		if r.Operation != "" {
			return
		}
		now.Aside, now.Withheld = true, false
	}
	if err := k.write(slot, &now); err != nil {
		k.o.Log.Warn("a node is Ready, but that cannot be noted", "slot", clusterctrl.SlotName(slot), "error", err)
	}
}

// Run lets go of what was given back to nodes that were Ready for long enough, until
// the context ends. That is counted while it runs: a controller's clock may jump.
func (k *Keeper) Run(ctx context.Context) error {
	pause := max(k.o.Hold/24, time.Millisecond)
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			k.age(time.Since(last))
			last = time.Now()
		}
	}
}

// age lets time pass.
func (k *Keeper) age(by time.Duration) {
	k.mu.Lock()
	late := slices.Collect(maps.Keys(k.owed))
	k.mu.Unlock()
	for _, slot := range late {
		k.pay(slot)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for slot, r := range k.slots {
		if !r.Ready || k.busy[slot] {
			continue
		}
		now := *r
		now.Held += by
		var err error
		if now.Held >= k.o.Hold {
			if err = k.forget(slot); err == nil {
				k.o.Log.Info("what was kept of a slot is let go: its node was Ready long enough without it", "slot", clusterctrl.SlotName(slot))
			}
		} else {
			err = k.write(slot, &now)
		}
		if err != nil {
			k.o.Log.Warn("what is kept cannot be looked after", "slot", clusterctrl.SlotName(slot), "error", err)
		}
	}
}

// A View is what is kept of a slot.
type View struct {
	Slot     int         `json:"slot"`
	Name     string      `json:"name"` // p2
	Saved    time.Time   `json:"saved"`
	Bytes    int64       `json:"bytes"`  // of the archive
	Stored   int64       `json:"stored"` // on the controller's card
	File     string      `json:"file"`   // for tar and zstd
	Roots    []kept.Root `json:"roots"`
	Left     []kept.Left `json:"left,omitempty"`         // not kept
	Restored bool        `json:"restored"`               // its node has it back
	Waits    bool        `json:"waits,omitempty"`        // the slot's next root gets it
	NotBack  []kept.Left `json:"not_restored,omitempty"` // but for these
	// Damaged says why nobody knows what is kept, and what to do; "" where that is known.
	Damaged string `json:"damaged,omitempty"`
}

// View is what is kept, by slots.
func (k *Keeper) View() []View {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := []View{}
	for slot, r := range k.slots {
		all = append(all, View{Slot: slot, Name: clusterctrl.SlotName(slot), Saved: r.Saved, Bytes: r.Bytes, Stored: r.Stored,
			File: k.archive(slot, r.Digest), Roots: r.Roots, Left: r.Left, Restored: r.Restored, Waits: r.waits(), NotBack: r.NotRestored})
	}
	for slot := range k.damaged {
		v := View{Slot: slot, Name: clusterctrl.SlotName(slot), File: k.record(slot), Roots: []kept.Root{}, Damaged: k.damage(slot).Error()}
		for _, name := range k.archives(slot) {
			if info, err := os.Stat(name); err == nil {
				v.File, v.Stored = name, info.Size()
			}
		}
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b View) int { return cmp.Compare(a.Slot, b.Slot) })
	return all
}
