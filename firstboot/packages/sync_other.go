//go:build !linux

package packages

// syncAll is for nodes, which run Linux.
func syncAll() {}
