//go:build !linux

package testtool

import "testing"

// Mount is the Linux kernel's; elsewhere the test is skipped.
func Mount(t testing.TB, image, dir string, offset, size int64, options ...string) (unmount func()) {
	t.Helper()
	Missing(t, "the Linux kernel's mount")
	return func() {}
}
