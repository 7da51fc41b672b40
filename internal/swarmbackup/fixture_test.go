package swarmbackup_test

import (
	"path/filepath"
	"testing"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
)

// A cluster gives identities as the builder does.
type cluster struct{ store *identity.Store }

func newCluster(t testing.TB, name string) cluster {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), name)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{store}
}

// slot is the identity of a slot, 0 for the controller.
func (c cluster) slot(t testing.TB, slot int) *enrol.Identity {
	t.Helper()
	name := "controller"
	if slot > 0 {
		name = clusterctrl.SlotName(slot)
	}
	files, err := c.store.Target(name, slot, "host"+name)
	if err != nil {
		t.Fatal(err)
	}
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
