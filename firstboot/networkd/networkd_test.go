package networkd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/firstboot/networkd"
)

func TestAwait(t *testing.T) {
	dir := t.TempDir()
	links := filepath.Join(dir, "links")
	if err := networkd.Await(t.Context(), dir, time.Hour); err != nil {
		t.Errorf("without the service: %v", err)
	}
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := networkd.Await(t.Context(), dir, time.Millisecond); err != nil {
		t.Errorf("a service that does not come: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := networkd.Await(ended, dir, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("an agent that ends: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- networkd.Await(t.Context(), dir, time.Hour) }()
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.WriteFile(filepath.Join(links, "1"), []byte("ADMIN_STATE=unmanaged\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the service has come: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it still waits, and the service has come")
	}
}

func TestAwaitNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "links/2")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for state, waits := range map[string]bool{"": false, "ADMIN_STATE=pending\n": true, "X=1\nADMIN_STATE=initialized\n": true, "ADMIN_STATE=configuring\n": false, "ADMIN_STATE=unmanaged\n": false} {
		if state != "" {
			if err := os.WriteFile(file, []byte("# This is private data.\n"+state), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := networkd.AwaitNamed(ended, dir, 2, time.Hour); (err != nil) != waits {
			t.Errorf("%q: %v, want it to wait: %v", state, err, waits)
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
	}
}
