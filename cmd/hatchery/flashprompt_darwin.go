package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// flushInput throws away what was typed at a terminal and not read: FREAD of
// sys/fcntl.h.
func flushInput(f *os.File) { _ = unix.IoctlSetPointerInt(int(f.Fd()), unix.TIOCFLUSH, 1) }
