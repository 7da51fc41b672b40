//go:build !linux

package power

import "errors"

func kernelLinks() (map[int]bool, error) { return nil, errors.ErrUnsupported }
