//go:build !linux

package firstboot

import "errors"

func writeConsole(string, []byte) error { return errors.ErrUnsupported }
