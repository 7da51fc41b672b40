package serving

import (
	"context"
	"errors"
	"fmt"

	"hatchery/controller/operation"
	"hatchery/controller/preserve"
	"hatchery/controller/reimage"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/kept"
	"hatchery/netboot"
	"hatchery/netboot/store"
)

// cardRenewer has a node write its own card.
type cardRenewer struct {
	cards
	store *store.Store
	kind  operation.Kind
}

// cards are those that are written in place; *reimage.Service has them.
type cards interface {
	Check(ctx context.Context, slot int) error
	Plan(ctx context.Context, slot int) (*reimage.Plan, error)
	Reimage(ctx context.Context, slot int, tell func(step, detail string)) error
	UndoTo(ctx context.Context, slot int, to string, tell func(step, detail string)) error
	Cancel(ctx context.Context, slot int) error
	Forget(slot int) error
}

// Check is the card's; who goes back does not care for what was pushed.
func (r cardRenewer) Check(ctx context.Context, slot int) error {
	err := r.cards.Check(ctx, slot)
	if r.kind == operation.Undo && errors.Is(err, reimage.ErrOld) {
		return nil
	}
	return err
}

func (cardRenewer) Kind() string { return "card" }

func (r cardRenewer) Plan(ctx context.Context, slot int) (operation.Plan, error) {
	p, err := r.cards.Plan(ctx, slot)
	if err != nil {
		return operation.Plan{}, err
	}
	plan := operation.Plan{
		Slot: slot, Name: clusterctrl.SlotName(slot), Kind: r.Kind(), Next: p.Root.Digest().String(),
		Bytes: p.Bytes, Generation: p.Generation, PreviousGeneration: p.PreviousGeneration,
		Discards: []string{"everything on its card that is not as its image has it"},
	}
	if p.Current != nil {
		plan.Current = p.Current.Digest().String()
	}
	state, err := r.store.State(slot)
	if err != nil {
		return operation.Plan{}, err
	}
	if state.Previous != nil && !state.Stranger() {
		plan.Previous = state.Previous.Root.Digest().String()
	}
	if plan.NoWayBack = p.NoWayBack; p.NoWayBack != "" && r.kind != operation.Undo {
		plan.Discards = append(plan.Discards, "the way back: "+p.NoWayBack)
	}
	return plan, nil
}

func (r cardRenewer) Renew(ctx context.Context, slot int, tell operation.Tell) error {
	return r.Reimage(ctx, slot, tell)
}

// Undo has a node write its card as it was.
func (r cardRenewer) Undo(ctx context.Context, slot int, to string, tell operation.Tell) error {
	err := r.UndoTo(ctx, slot, to, tell)
	if errors.Is(err, reimage.ErrNothingWritten) {
		return fmt.Errorf("%s: %w", clusterctrl.SlotName(slot), operation.ErrNothingWritten)
	}
	return err
}

// netbootRenewer gives a slot without a card a fresh layer, or the next root.
type netbootRenewer struct {
	boots boots
	store *store.Store
	kind  operation.Kind
	// generation is of the certificate in a root; nil where nobody can tell.
	generation func(store.Root) int
}

// boots are slots without cards; *netboot.Service has them.
type boots interface {
	Switches() bool
	Cycle(ctx context.Context, slot int) error
	Rebuild(ctx context.Context, slot int) error
	UndoTo(ctx context.Context, slot int, to string) error
}

func (*netbootRenewer) Kind() string { return "netboot" }

func (r *netbootRenewer) Check(_ context.Context, slot int) error {
	state, err := r.store.State(slot)
	switch {
	case err != nil:
		return err
	case state.Current == nil && state.Next == nil:
		return fmt.Errorf("there is no image for %[1]s on this controller: `hatchery push %[1]s` from the workstation", clusterctrl.SlotName(slot))
	case !r.boots.Switches():
		return fmt.Errorf("nobody can switch %s from here, so that its root cannot be renewed: see `hatchery power`", clusterctrl.SlotName(slot))
	}
	return nil
}

func (r *netbootRenewer) Plan(_ context.Context, slot int) (operation.Plan, error) {
	state, err := r.store.State(slot)
	if err != nil {
		return operation.Plan{}, err
	}
	plan := operation.Plan{
		Slot: slot, Name: clusterctrl.SlotName(slot), Kind: r.Kind(),
		Discards: []string{"everything that the node wrote to its root"},
	}
	next := state.Next
	if state.Current != nil {
		plan.Current = state.Current.Root.Digest().String()
		if next == nil {
			next = &state.Current.Root
		}
	}
	if next != nil {
		plan.Next, plan.Generation = next.Digest().String(), r.generationOf(next)
	}
	if state.Previous != nil {
		plan.Previous = state.Previous.Root.Digest().String()
		plan.PreviousGeneration = r.generationOf(&state.Previous.Root)
		// It was set aside as it was.
		plan.Intact = state.Previous.Top != 0
	}
	return plan, nil
}

func (r *netbootRenewer) generationOf(root *store.Root) int {
	if r.generation == nil {
		return 0
	}
	return r.generation(*root)
}

// Renew resets the slot, or has it boot what was pushed for it.
func (r *netbootRenewer) Renew(ctx context.Context, slot int, tell operation.Tell) error {
	state, err := r.store.State(slot)
	if err != nil {
		return err
	}
	if r.kind == operation.Upgrade && state.Next != nil || state.Current == nil {
		tell("switch", "its power is cut, and it boots what was pushed")
		return r.boots.Cycle(ctx, slot)
	}
	if r.kind == operation.Upgrade {
		// It was begun before the service was started again.
		tell("switch", "it boots what was pushed")
		return nil
	}
	tell("reset", "its power is cut, and it boots a fresh root")
	return r.boots.Rebuild(ctx, slot)
}

// Undo has the slot boot the root that it had, with what it wrote to it.
func (r *netbootRenewer) Undo(ctx context.Context, slot int, to string, tell operation.Tell) error {
	tell("undo", "its power is cut, and it boots what it had before")
	err := r.boots.UndoTo(ctx, slot, to)
	if errors.Is(err, netboot.ErrNothingToUndo) {
		return fmt.Errorf("%s: %w", clusterctrl.SlotName(slot), operation.ErrNothingWritten)
	}
	return err
}

// renewer gives who renews a slot's root.
func (s *operating) renewer(kind operation.Kind, slot int) (operation.Renewer, error) {
	switch {
	case s.boots.service != nil && s.boots.service.Drives(slot):
		r := &netbootRenewer{boots: s.boots.service, store: s.boots.store, kind: kind}
		if s.cards != nil {
			r.generation = s.cards.GenerationOf
		}
		return r, nil
	case s.cards != nil:
		return cardRenewer{s.cards, s.boots.store, kind}, nil
	}
	return nil, errors.New("this controller's image is of before rebuilding in place: build it again, and flash it")
}

// keeper is who keeps what outlives a root, as operations know it.
type keeper struct{ *preserve.Keeper }

func (k keeper) Save(ctx context.Context, slot int, by string, tell operation.Tell) error {
	return gone(k.Keeper.Save(ctx, slot, by, tell))
}

func (k keeper) Plan(ctx context.Context, slot int) (*kept.Plan, error) {
	plan, err := k.Keeper.Plan(ctx, slot)
	return plan, gone(err)
}

// gone says in operations' words that a node cannot be asked.
func gone(err error) error {
	if errors.Is(err, preserve.ErrUnreachable) {
		return fmt.Errorf("%w: %w", operation.ErrGone, err)
	}
	return err
}
