package ext4_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelXattrs gives the attributes of a mounted file.
func kernelXattrs(t testing.TB, path string) map[string][]byte {
	t.Helper()
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, list)
	succeed(t, err)
	all := map[string][]byte{}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		succeed(t, err)
		all[name] = value[:n]
	}
	return all
}

func setKernelXattr(t testing.TB, path, name string, value []byte) {
	t.Helper()
	succeed(t, unix.Lsetxattr(path, name, value, 0))
}
