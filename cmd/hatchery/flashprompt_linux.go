package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// flushInput throws away what was typed at a terminal and not read.
func flushInput(f *os.File) { _ = unix.IoctlSetInt(int(f.Fd()), unix.TCFLSH, unix.TCIFLUSH) }
