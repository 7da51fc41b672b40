package preserve

import (
	"context"

	"hatchery/internal/clusterctrl"
)

// What is kept of a slot belongs to an operation, by its name, from when it is saved until
// that lets go of it: meanwhile the node that is Ready is the one before, and says
// nothing of the next root.

// Waits says whether the slot's next root would get something.
func (k *Keeper) Waits(slot int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.slots[slot].waits()
}

// Lacks names what of its archive a slot's root did not put into place, and why.
func (k *Keeper) Lacks(slot int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.slots[slot]; r != nil && r.Restored && !r.Aside {
		return missed(r.NotRestored)
	}
	return ""
}

// Withhold has the root that an operation is about to make be without what was saved
// before, which is there until the operation lets go of it.
func (k *Keeper) Withhold(slot int, operation string) error {
	if err := k.known(slot); err != nil {
		return err // its next root would wait until somebody has decided
	}
	return k.change(slot, func(r *record) bool {
		was := *r
		r.Operation, r.Withheld = operation, true
		return was.Operation != operation || !was.Withheld
	})
}

// Again has the slot's next root get what is there, although the one that is given up has
// it. It says whether there is something.
func (k *Keeper) Again(slot int, operation string) (there bool, err error) {
	if err := k.known(slot); err != nil {
		return false, err
	}
	err = k.change(slot, func(r *record) bool {
		there = true
		r.Operation, r.Withheld, r.Aside = operation, false, false
		r.Restored, r.NotRestored, r.Ready, r.Held = false, nil, false, 0
		return true
	})
	return there, err
}

// An owed is an operation that could not let go of what is kept of a slot.
type owed struct {
	operation string
	renewed   bool
}

// Release lets go of what is kept of a slot, where it is this operation's. Where the
// slot's root was renewed, what was withheld is no root's any more, and goes when its time has
// come; else it waits for the next root, as before. Where that cannot be written down it is tried again, when the slot's node
// is heard and every now and then; after a restart whoever knows that the operation is
// over says it again.
func (k *Keeper) Release(slot int, operation string, renewed bool) error {
	err := k.release(slot, operation, renewed)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err != nil:
		k.owed[slot] = owed{operation, renewed}
	case k.owed[slot].operation == operation:
		delete(k.owed, slot)
	}
	return err
}

// pay lets go of what could not be let go of before.
func (k *Keeper) pay(slot int) {
	k.mu.Lock()
	o, is := k.owed[slot]
	k.mu.Unlock()
	if !is {
		return
	}
	if err := k.Release(slot, o.operation, o.renewed); err != nil {
		k.o.Log.Warn("what is kept of a slot is not let go of still", "slot", clusterctrl.SlotName(slot), "operation", o.operation, "error", err)
	}
}

func (k *Keeper) release(slot int, operation string, renewed bool) error {
	return k.change(slot, func(r *record) bool {
		if operation == "" || r.Operation != operation {
			return false
		}
		if r.Withheld && renewed {
			// Who renewed the root may not have known of it: from when that is Ready, it is
			// there for people for a while.
			r.Aside, r.Ready, r.Held = true, false, 0
		}
		r.Operation, r.Withheld = "", false
		return true
	})
}

// known says why nobody knows what is kept of a slot, and what to do; nil where that is
// known.
func (k *Keeper) known(slot int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.damage(slot)
}

// change changes what is known of a slot's archive, if there is one.
func (k *Keeper) change(slot int, do func(r *record) (changed bool)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	had := k.slots[slot]
	if had == nil {
		return nil
	}
	now := *had
	if !do(&now) {
		return nil
	}
	return k.write(slot, &now)
}

// Save fetches from a slot's node what outlives its root, for an operation that is about to
// renew it, and keeps it until the node has it back. What is there from before stays until
// the new one is whole; and it stays for good where it waits for the slot's next root, and
// the present one has not got it or does not answer, because then that is what is to be
// kept. ErrInUse where containers may write to it; ErrTooBig; ErrUnreachable.
func (k *Keeper) Save(ctx context.Context, slot int, operation string, tell Tell) error {
	return k.save(ctx, slot, operation, tell, false)
}

// SaveForce is Save for nobody, whatever containers do meanwhile.
func (k *Keeper) SaveForce(ctx context.Context, slot int, tell Tell) error {
	return k.save(ctx, slot, "", tell, true)
}

// stays has what waits for the slot's next root be the operation's.
func (k *Keeper) stays(slot int, operation string, tell Tell, why string) error {
	tell(step, why+": that stays")
	k.o.Log.Info("what was kept before stays", "slot", clusterctrl.SlotName(slot), "reason", why)
	return k.change(slot, func(r *record) bool {
		changed := r.Operation != operation || r.Withheld
		r.Operation, r.Withheld = operation, false
		return changed
	})
}
