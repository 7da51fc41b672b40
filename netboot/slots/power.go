package slots

import (
	"context"
	"errors"
)

// Power switches the power of slots. Its methods may be called at once from
// several goroutines, and return when it is done. Off is a hard power cut.
type Power interface {
	On(ctx context.Context, slot int) error
	Off(ctx context.Context, slot int) error
	Powered(ctx context.Context, slot int) (bool, error)
}

// Partial is a [Power] that does not switch all slots: boards may hang on the
// controller by a USB hub that is no HAT's.
type Partial interface{ Switches(slot int) bool }

// Switches says whether a slot's power is one of p's.
func Switches(p Power, slot int) bool {
	if partial, ok := p.(Partial); ok {
		return partial.Switches(slot)
	}
	return p != nil
}

// unswitched is an [ErrNoPower] of one slot.
type unswitched struct{}

func (unswitched) Error() string {
	return "its power cannot be switched from here: its board is on no ClusterHAT, whose slots are p1 to p4"
}

func (unswitched) Is(target error) bool { return target == ErrNoPower }

// noPower says why a slot cannot be switched.
func (b *Board) noPower() error {
	if b.power == nil {
		return ErrNoPower
	}
	return unswitched{}
}

// ErrNoPower is that of a board without [Power], and of a slot that it does not switch.
var ErrNoPower = errors.New("the power of the slots cannot be switched from here: no ClusterHAT was found")
