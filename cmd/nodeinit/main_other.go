//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "nodeinit runs on Linux only: it is /init of a node's initramfs")
	os.Exit(2)
}
