//go:build !linux

package sparse

import (
	"fmt"
	"os"
)

func reserve(f *os.File, _, _ int64) error {
	return fmt.Errorf("cannot reserve room in %s: %w", f.Name(), ErrUnsupported)
}
