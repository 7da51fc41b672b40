package cachefile_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/cachefile"
)

const most = 1000

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	for _, content := range []string{"", "x", strings.Repeat("content", 100)} {
		if err := cachefile.Write(path, "kind 1", "key", []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := cachefile.Read(path, "kind 1", "key", most)
		if err != nil || string(got) != content {
			t.Fatalf("%q, %v", got, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
	}
}

func TestNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	if err := cachefile.Write(path, "kind 1", "key", []byte("content")); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// resummed puts the checksum right after a change.
	resummed := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		sum := sha256.Sum256(b[40:])
		copy(b[8:], sum[:])
		return b
	}
	for _, c := range []struct {
		summary, kind, key string
		most               int
		content            []byte
	}{
		{"of another kind", "kind 2", "key", most, good},
		{"of a shorter kind", "kind", "key", most, good},
		{"of another key", "kind 1", "yek", most, good},
		{"kind and key split elsewhere", "kind 1k", "ey", most, good},
		{"longer than wanted", "kind 1", "key", 6, good},
		{"nothing", "kind 1", "key", most, nil},
		{"only the head", "kind 1", "key", most, good[:44]},
		{"cut short", "kind 1", "key", most, good[:len(good)-1]},
		{"one byte more", "kind 1", "key", most, append(bytes.Clone(good), 0)},
		{"a bit of the content", "kind 1", "key", most, append(bytes.Clone(good[:len(good)-1]), 'T')},
		{"another magic", "kind 1", "key", most, append([]byte("X"), good[1:]...)},
		{"lengths past the end", "kind 1", "key", most, resummed(func(b []byte) {
			binary.LittleEndian.PutUint16(b[40:], 60000)
			binary.LittleEndian.PutUint16(b[42:], 60000)
		})},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := cachefile.Read(path, c.kind, c.key, c.most); !errors.Is(err, cachefile.ErrNone) {
				t.Fatalf("%q, %v", got, err)
			}
		})
	}
	for _, place := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if _, err := cachefile.Read(place, "kind 1", "key", most); !errors.Is(err, cachefile.ErrNone) {
			t.Errorf("%s: %v", place, err)
		}
	}
}

func TestWriteFails(t *testing.T) {
	err := cachefile.Write(filepath.Join(t.TempDir(), "gone", "memory"), "kind", "key", nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := cachefile.Write(filepath.Join(t.TempDir(), "memory"), strings.Repeat("k", 1<<16), "key", nil); err == nil {
		t.Error("a kind that does not fit was written")
	}
}

// Nothing that stands there is taken for what was asked for, or makes Read fail.
func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	if err := cachefile.Write(path, "kind", "key", []byte("content")); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed[40:], true)
	f.Add(seed, false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			sum := sha256.Sum256(b)
			b = append(append([]byte("hatchmem"), sum[:]...), b...)
		}
		path := filepath.Join(t.TempDir(), "memory")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := cachefile.Read(path, "kind", "key", most)
		switch {
		case errors.Is(err, cachefile.ErrNone):
		case err != nil:
			t.Fatal(err)
		case !bytes.HasSuffix(b, append([]byte("kindkey"), got...)):
			t.Fatalf("%q from %q", got, b)
		}
	})
}
