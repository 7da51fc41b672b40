package founding_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"hatchery/firstboot/founding"
)

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	files := map[string][]byte{
		"empty":                   nil,
		"docker-state.json":       []byte("{}"),
		"raft/wal":                append(bytes.Repeat([]byte{7}, 100<<10), make([]byte, 300<<10)...), // ends in zeros
		"raft/middle":             append(append([]byte{1}, make([]byte, 200<<10)...), 2),
		"raft/zeros":              make([]byte, 130<<10),
		"certificates/swarm.key":  []byte("secret"),
		"certificates/deep/er/in": []byte("x"),
	}
	for name, data := range files {
		place := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// What lives while the engine runs is left out.
	socket, err := net.Listen("unix", filepath.Join(from, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := founding.CopyTree(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		place := filepath.Join(to, name)
		got, err := os.ReadFile(place)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
		}
		if info, err := os.Stat(place); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "control.sock")); err == nil {
		t.Error("the socket was copied")
	}
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"stage":"force","tries":1,"copied":true,"bad":["a"],"kept":["/var/lib/docker/swarm.kept-1"]}`))
	f.Add([]byte(`{"stage":"dance"}`))
	f.Add([]byte(`{"stage":""}`))
	f.Add([]byte("\x00\x00"))
	stages := []string{"", "copy", "force", "aside", "restore", "init"}
	f.Fuzz(func(t *testing.T, data []byte) {
		stage, err := founding.ParsePlan(data)
		if err == nil && !slices.Contains(stages, stage) {
			t.Errorf("stage %q", stage)
		}
		if err != nil && stage != "" {
			t.Errorf("stage %q with %v", stage, err)
		}
	})
}

func FuzzRemotes(f *testing.F) {
	f.Add([]byte(`[{"node_id":"a","addr":"172.19.181.254:2377"},{"addr":""}]`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`[{"addr":5}]`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, addr := range founding.ParseRemotes(data) {
			if addr == "" {
				t.Error("an empty address")
			}
		}
	})
}
