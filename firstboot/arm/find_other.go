//go:build !linux

package arm

import "hatchery/internal/atomicfile"

// Find finds no card: nodes run Linux.
func Find() (Place, error) { return Place{}, ErrNoCard }

func syncFS(dir string) error { return atomicfile.SyncDir(dir) }
