package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// TestPermission: who may not is told so in a way that can be asked for.
func TestPermission(t *testing.T) {
	_, dir := newStore(t)
	if os.Getuid() == 0 {
		// For this thread alone: without the rights of root over files.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Setfsuid(0) }()
	} else {
		path := filepath.Join(dir, "store")
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".moved"); err == nil {
			t.Fatal("the folder can be written")
		}
		dir = filepath.Join(dir, "none")
	}
	if s, err := open(dir); !errors.Is(err, fs.ErrPermission) {
		if err == nil {
			s.Close()
		}
		t.Errorf("%v", err)
	}
}
