package serving

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	keyOf := func(id *enrol.Identity, dir string) []byte {
		t.Helper()
		key, err := versionKey(id, dir)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	none := t.TempDir()
	own := keyOf(all[0], none)
	if !bytes.Equal(own, keyOf(all[0], none)) || bytes.Equal(own, keyOf(all[1], none)) || len(own) != 32 {
		t.Errorf("the key is %x", own)
	}
	// Where there are several controllers all of them have the builder's.
	common := t.TempDir()
	file := filepath.Join(common, versionsFile)
	for _, c := range []struct{ summary, content, refused string }{
		{"as it is laid", fmt.Sprintf("%x\n", ids.VersionsKey()), ""},
		{"cut off", fmt.Sprintf("%x", ids.VersionsKey()[:16]), "build the controller's image again"},
		{"empty", "", "build the controller's image again"},
		{"no digits", strings.Repeat("x", 64), "build the controller's image again"},
	} {
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.refused == "" {
			if !bytes.Equal(keyOf(all[0], common), ids.VersionsKey()) || !bytes.Equal(keyOf(all[1], common), ids.VersionsKey()) {
				t.Errorf("%s: it is not the common one", c.summary)
			}
		} else if key, err := versionKey(all[0], common); err == nil || !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %x, %v", c.summary, key, err)
		}
	}
}
