//go:build !linux

// Command registry is the controller's registry of container images; controllers run
// Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "registry: runs on controllers, which run Linux")
	os.Exit(1)
}
