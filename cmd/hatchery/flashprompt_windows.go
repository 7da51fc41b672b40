package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// flushInput throws away what was typed at a console and not read.
func flushInput(f *os.File) { _ = windows.FlushConsoleInputBuffer(windows.Handle(f.Fd())) }
