package main

import (
	"os"
	"runtime/debug"
)

// buildMemory is how much of Go's memory a build takes before it collects what is done
// with, in bytes. It holds 80 MB at its peak, the nodes' programs among them, and Go
// would let that grow to twice as much; the pages of hatchery itself come on top.
const buildMemory = 112 << 20

// sparingly has memory collected early, until done is called. GOMEMLIMIT has the last
// word.
func sparingly() (done func()) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	before := debug.SetMemoryLimit(buildMemory)
	return func() { debug.SetMemoryLimit(before) }
}
