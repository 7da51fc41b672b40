//go:build !linux

package layer

import "os"

// syncData makes content and length durable.
func syncData(f *os.File) error { return f.Sync() }
