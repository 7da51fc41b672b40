package firstboot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAConsoleThatNobodyReads: what does not fit is lost, and nobody waits.
func TestAConsoleThatNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// Nobody has it open: that is an error at once.
	if err := writeAtOnce(t, path); !errors.Is(err, unix.ENXIO) {
		t.Errorf("with nobody there: %v", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 1 << 10 {
		if err := writeAtOnce(t, path); errors.Is(err, unix.EAGAIN) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("a console that nobody reads takes everything")
}

func writeAtOnce(t *testing.T, path string) error {
	t.Helper()
	written := make(chan error, 1)
	go func() { written <- writeConsole(path, make([]byte, 1<<10)) }()
	select {
	case err := <-written:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("waits for a console")
		return nil
	}
}
