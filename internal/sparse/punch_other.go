//go:build !linux && !darwin && !windows

package sparse

import (
	"fmt"
	"os"
)

func punchHole(f *os.File, _, _ int64) error {
	return fmt.Errorf("cannot punch a hole into %s: %w", f.Name(), ErrUnsupported)
}
