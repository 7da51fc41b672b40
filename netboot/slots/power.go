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

// ErrNoPower is that of a board without [Power].
var ErrNoPower = errors.New("the power of the slots cannot be switched from here: no ClusterHAT was found")
