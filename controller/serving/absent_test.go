package serving

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/controller/operation"
	"hatchery/controller/preserve"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// opened is what operates a cluster with two slots, of which nothing is known but their
// numbers, out of a state folder.
func opened(t *testing.T, state string) (*operating, *netbooting) {
	t.Helper()
	s := bare(t)
	ids, err := identity.Open(t.TempDir(), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	files, err := ids.Target("controller", 0, "hammond")
	if err != nil {
		t.Fatal(err)
	}
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := swarm.Open("unix:///nowhere")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	if err := os.MkdirAll(filepath.Join(state, nodefile.ServiceDir), 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(s.o.RunDir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	// What the controller knows of its slots.
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, &enrol.ClusterView{Slots: []enrol.SlotView{{Slot: 1}, {Slot: 2}}})
	})}
	go server.Serve(listener) //nolint:errcheck // until the test ends
	t.Cleanup(func() { server.Close() })
	s.node.Cluster, s.node.Name, s.node.Hostname = "homelab", "controller", "hammond"
	o := Options{ConfigDir: t.TempDir(), StateDir: state, RunDir: s.o.RunDir, Socket: socket, Log: slog.New(slog.DiscardHandler)}
	boots := &netbooting{}
	return openOperating(o, s.node, id, engine, &members{engine: engine, node: s.node}, boots), boots
}

// refusal is what a call of the socket is refused with.
func refusal(t *testing.T, s *operating, prefix, method string) string {
	t.Helper()
	h := s.local()[prefix]
	if h == nil {
		t.Fatalf("nobody answers %s", prefix)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, prefix, nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("%s is answered with %d: %s", prefix, w.Code, w.Body)
	}
	return w.Body.String()
}

// TestDamagedOperations: where what was done cannot be read, whoever asks is told which file that
// is and what to do, and no root is let go of that a slot could go back to.
func TestDamagedOperations(t *testing.T) {
	state := t.TempDir()
	s, boots := opened(t, state)
	if s.operations == nil || asked(&boots.holds)(2) {
		t.Fatal("without a file there are no operations, or they hold roots")
	}
	file := filepath.Join(state, nodefile.ServiceDir, operation.File)
	if err := os.WriteFile(file, []byte(`{"version":1,"operations":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, boots = opened(t, state)
	if s.operations != nil {
		t.Fatal("half a file was read")
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		said := refusal(t, s, operation.Prefix, method)
		for _, part := range []string{"nothing can be rebuilt or upgraded", file, "remove the file", "systemctl restart hatchery"} {
			if !strings.Contains(said, part) {
				t.Errorf("%s is refused without %q: %s", method, part, said)
			}
		}
	}
	if !asked(&boots.holds)(2) {
		t.Error("roots are let go of, though nobody knows what was done")
	}
}

// TestNothingCanBeKept: where the folder of what outlives roots cannot be made, an operation
// that is to keep it is refused with the reason, one that is not goes on, and who asks what
// is kept is told why nobody knows.
func TestNothingCanBeKept(t *testing.T) {
	state := t.TempDir()
	folder := filepath.Join(state, filepath.Base(preserve.Dir))
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := opened(t, state)
	if s.kept != nil || s.operations == nil {
		t.Fatal("a file is a folder, or there are no operations without it")
	}
	for _, keep := range []bool{true, false} {
		plans, err := s.operations.Plans(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{2}, Wait: true, Keep: keep})
		if err != nil || len(plans) != 1 {
			t.Fatal(plans, err)
		}
		said := plans[0].Refused
		if keep != (strings.Contains(said, "cannot be kept") && strings.Contains(said, folder)) || !keep && said != "" {
			t.Errorf("with keep %t it is refused with %q", keep, said)
		}
	}
	asked := 0
	if said := refusal(t, s, preserve.Prefix, http.MethodGet); !strings.Contains(said, folder) {
		t.Errorf("what is kept is refused with %s", said)
	}
	// A node with a new root that heard of nothing would never ask again.
	for pattern, call := range s.nodeCalls() {
		method, path, _ := strings.Cut(pattern, " ")
		if path != kept.Path && !strings.HasPrefix(path, kept.Path+"/") {
			continue
		}
		asked++
		w := httptest.NewRecorder()
		call(w, httptest.NewRequest(method, path, nil), 2)
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), folder) {
			t.Errorf("a node that asks %s is told %d, %s", pattern, w.Code, w.Body)
		}
	}
	if asked != 3 {
		t.Errorf("nodes have %d calls for what was kept", asked)
	}
}
