package api_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"hatchery/firstboot/preserve"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// keptCalls are a node's of what outlives its root.
func keptCalls(t *testing.T) map[string]http.Handler {
	dir := t.TempDir()
	for _, name := range []string{"state", "docker"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return preserve.New(preserve.Options{
		Node:     &nodefile.Node{Cluster: "homelab", Name: "p1", Slot: 1, Keep: []string{filepath.Join(dir, "srv")}},
		StateDir: filepath.Join(dir, "state"), DockerRoot: filepath.Join(dir, "docker"),
		Uses: func(context.Context) ([]swarm.Use, error) { return nil, nil },
		Log:  slog.New(slog.DiscardHandler),
	}).Calls()
}
