package identity_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"hatchery/internal/identity"
)

// snapshot tells everything below a folder, modes and times too.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var sum [32]byte
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = sha256.Sum256(data)
		}
		fmt.Fprintf(&b, "%s %v %v %x\n", path, info.Mode(), info.ModTime().UnixNano(), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPreview(t *testing.T) {
	t.Run("of no folder", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "identity")
		s, err := identity.Preview(dir, "attic")
		if err != nil {
			t.Fatal(err)
		}
		first, err := s.Target("p1", 1, "oneil")
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.Target("p1", 1, "oneil")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Key, again.Key) || first.Generation != 1 || !s.Unwritten() {
			t.Errorf("generation %d, unwritten %v, same key %v", first.Generation, s.Unwritten(), bytes.Equal(first.Key, again.Key))
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the folder is there: %v", err)
		}
	})
	t.Run("of a made one", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "identity")
		made, err := identity.Open(dir, "attic")
		if err != nil {
			t.Fatal(err)
		}
		kept, err := made.Target("p1", 1, "oneil")
		if err != nil {
			t.Fatal(err)
		}
		// What Open would change: rights of others, leftovers.
		if err := os.Chmod(filepath.Join(dir, "ca.crt"), 0o644); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, dir)

		s, err := identity.Preview(dir, "attic")
		if err != nil {
			t.Fatal(err)
		}
		same, err := s.Target("p1", 1, "oneil")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(same.Key, kept.Key) || !bytes.Equal(same.Certificate, kept.Certificate) || !bytes.Equal(same.HostKey, kept.HostKey) {
			t.Error("another identity than the folder's")
		}
		if s.MachineID("p1") != made.MachineID("p1") || s.DiskID("p1") != made.DiskID("p1") || s.Unwritten() {
			t.Errorf("other ids than the folder's, or something unwritten (%v)", s.Unwritten())
		}
		if _, err := s.Target("p1", 1, "tealc"); err != nil || s.Unwritten() {
			t.Errorf("another host name: %v, unwritten %v; the certificate alone is new, and the same each time", err, s.Unwritten())
		}
		renewed, err := s.Renew("p1", 1, "oneil")
		if err != nil {
			t.Fatal(err)
		}
		if renewed.Generation != 2 || bytes.Equal(renewed.Key, kept.Key) || !s.Unwritten() {
			t.Errorf("renewed: generation %d, unwritten %v", renewed.Generation, s.Unwritten())
		}
		if _, err := s.Target("p2", 2, "carter"); err != nil {
			t.Fatal(err)
		}
		if after := snapshot(t, dir); after != before {
			t.Errorf("the folder changed\nbefore:\n%s\nafter:\n%s", before, after)
		}
	})
	t.Run("of another cluster's", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "identity")
		if _, err := identity.Open(dir, "attic"); err != nil {
			t.Fatal(err)
		}
		var other *identity.OtherClusterError
		if _, err := identity.Preview(dir, "cellar"); !errors.As(err, &other) {
			t.Errorf("error %v", err)
		}
	})
}
