//go:build race

package controller_test

// The race detector takes memory of its own.
func init() { memoryLimit = 1 << 40 }
