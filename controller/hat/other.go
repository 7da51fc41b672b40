//go:build !linux

package hat

import "errors"

func openBus(string) (Bus, error)           { return nil, errors.ErrUnsupported }
func openLines(string, bool) (Lines, error) { return nil, errors.ErrUnsupported }
func transient(error) bool                  { return false }
