//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "reimage runs on Linux only: nodeinit starts it in a node's memory")
	os.Exit(2)
}
