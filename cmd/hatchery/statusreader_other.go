//go:build !unix

package main

import (
	"context"
	"os"
)

// readerGone is never closed: a reader that is gone is noticed when something is
// written.
func readerGone(context.Context, *os.File) <-chan struct{} { return nil }
