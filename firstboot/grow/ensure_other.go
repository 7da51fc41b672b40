//go:build !linux

package grow

import (
	"context"
	"errors"
	"fmt"
)

// Ensure grows nothing here: nodes run Linux.
func Ensure(context.Context, Options) (Status, error) {
	return Status{}, fmt.Errorf("cannot grow a file system in use: %w", errors.ErrUnsupported)
}
