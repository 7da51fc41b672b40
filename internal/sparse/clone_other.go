//go:build !linux && !darwin

package sparse

import (
	"fmt"
	"os"
)

func clone(_, src *os.File) error {
	return fmt.Errorf("cannot clone %s: %w", src.Name(), ErrUnsupported)
}

func clonePath(_ string, src *os.File) error { return clone(nil, src) }
