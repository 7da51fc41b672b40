//go:build !linux

package clock

import (
	"errors"
	"time"
)

// SetTime is there on Linux only, which nodes run.
func SetTime(time.Time) error { return errors.ErrUnsupported }

// Synchronized is there on Linux only, which nodes run.
func Synchronized() (bool, error) { return false, errors.ErrUnsupported }
