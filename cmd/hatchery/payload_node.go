//go:build node

package main

import "errors"

// nodePrograms refuses: the controller's own hatchery carries no programs for
// images, which are made on a workstation.
func nodePrograms() func(name, architecture string) ([]byte, error) {
	return func(string, string) ([]byte, error) {
		return nil, errors.New("the controller's hatchery makes no images: build them on a workstation")
	}
}
