//go:build !linux

package imageregistry

import "errors"

func capacity(string) (total, left int64, err error) {
	return 0, 0, errors.New("the registry runs on controllers, which run Linux")
}
