package member_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/firstboot/member"
)

func TestUnblock(t *testing.T) {
	const state, remotes = `{"LocalAddr":"172.19.181.1"}`, `[{"node_id":"a","addr":"172.19.181.254:2377"}]`
	for _, tt := range []struct {
		summary        string
		state, remotes string // "-": there is none
		worker         bool
		aside          string
	}{
		{"whole", state, remotes, true, ""},
		{"part of nothing", "-", "-", false, ""},
		{"an empty file", "", remotes, false, "docker-state.json"},
		{"zeros", "\x00\x00\x00", remotes, false, "docker-state.json"},
		{"half of it", state[:9], remotes, false, "docker-state.json"},
		{"of another form", "[]", "{}", false, "docker-state.json state.json"},
		{"a manager without its managers", state, "\x00", false, "state.json"},
		{"a worker without its managers", state, "\x00", true, "docker-state.json state.json"},
		{"far too long", state + strings.Repeat(" ", 1<<20), remotes, false, "docker-state.json"},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "swarm")
			if tt.worker {
				writeCertificate(t, root, "node1", "c1", lastYear, nextYear)
			} else if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{"docker-state.json": tt.state, "state.json": tt.remotes} {
				if content == "-" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			aside, err := member.Unblock(root)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, place := range aside {
				if _, err := os.Stat(place); err != nil {
					t.Error(err)
				}
				names = append(names, strings.TrimSuffix(filepath.Base(place), member.Broken))
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != tt.aside {
				t.Errorf("set aside %q, want %q", got, tt.aside)
			}
			if again, err := member.Unblock(root); err != nil || len(again) > 0 {
				t.Errorf("once more: %v, %v", again, err)
			}
		})
	}
	if aside, err := member.Unblock(t.TempDir()); err != nil || len(aside) > 0 {
		t.Errorf("without a folder: %v, %v", aside, err)
	}
}
