//go:build !unix

package sparse_test

import (
	"os"
	"testing"
)

// small cannot be told here.
func small(testing.TB, *os.File) {}
