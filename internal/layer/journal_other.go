//go:build !linux

package layer

import (
	"errors"
	"fmt"
)

func newJournal(path string, _ int64) (*journal, func() error, error) {
	return nil, nil, fmt.Errorf("%s: a journal: %w on this system", path, errors.ErrUnsupported)
}

func openJournal(path string, _ func([]byte) bool) (*journal, error) {
	return nil, fmt.Errorf("%s: a journal: %w on this system", path, errors.ErrUnsupported)
}
