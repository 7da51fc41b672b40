//go:build !linux

package ext4_test

import (
	"testing"

	"hatchery/internal/testtool"
)

func kernelXattrs(t testing.TB, _ string) map[string][]byte {
	testtool.Missing(t, "Linux")
	return nil
}

func setKernelXattr(t testing.TB, _, _ string, _ []byte) { testtool.Missing(t, "Linux") }
