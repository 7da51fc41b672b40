//go:build !linux

// Command firstboot is the agent on every node; nodes run Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "firstboot: runs on nodes, which run Linux")
	os.Exit(1)
}
