//go:build !linux

package disk

import "errors"

func free(string) (int64, error) { return 0, errors.ErrUnsupported }

func syncFolder(string) error { return nil }
