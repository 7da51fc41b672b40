package serving

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"hatchery/controller/workload"
	"hatchery/internal/declared"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// TestWorkloads: what an image declares waits for a swarm, and is in the cluster's
// view; a controller without Docker has none.
func TestWorkloads(t *testing.T) {
	s := bare(t)
	ids, err := identity.Open(t.TempDir(), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	var all []*enrol.Identity
	for slot, name := range []string{"controller", "p1"} {
		files, err := ids.Target(name, slot, name)
		if err != nil {
			t.Fatal(err)
		}
		id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	engine, err := swarm.Open("unix:///nowhere")
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	s.node.Docker = false
	if w, err := s.openWorkloads(all[0], engine); w != nil || err != nil || s.workloadsView() != nil {
		t.Errorf("without Docker there is %v, %v", w, err)
	}
	s.node.Docker = true
	s.o.ConfigDir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(s.o.StateDir, nodefile.ServiceDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if s.workloads, err = s.openWorkloads(all[0], engine); err != nil || s.workloadsView() != nil {
		t.Fatalf("nothing is declared, and it is %+v, %v", s.workloadsView(), err)
	}
	w := declared.New(declared.WaitForAll, declared.GuardOff)
	w.Networks = []declared.Network{{Name: "proxy"}}
	data, err := w.Marshal()
	if err == nil {
		err = os.WriteFile(filepath.Join(s.o.ConfigDir, "workloads.json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.workloads, err = s.openWorkloads(all[0], engine); err != nil || s.workloadsView() == nil || s.workloadsView().State != workload.StateWaiting {
		t.Errorf("it is %+v, %v", s.workloadsView(), err)
	}
	if s.local()[workload.Prefix] == nil {
		t.Error("nobody answers its calls")
	}
	keys := make([][]byte, 0, 3)
	for _, id := range []*enrol.Identity{all[0], all[0], all[1]} {
		key, err := versionKey(id)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if !bytes.Equal(keys[0], keys[1]) || bytes.Equal(keys[0], keys[2]) || len(keys[0]) != 32 {
		t.Errorf("the keys are %x", keys)
	}
}
