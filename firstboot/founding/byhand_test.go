package founding_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/founding"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/sealed"
	"hatchery/internal/swarmbackup"
	"hatchery/internal/swarmbackup/backuptest"
)

// controllerOf is the identity of a new cluster's controller.
func controllerOf(t *testing.T, cluster string) *enrol.Identity {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), cluster)
	if err != nil {
		t.Fatal(err)
	}
	files, err := store.Target("controller", 0, "controller")
	if err != nil {
		t.Fatal(err)
	}
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sealedBackup is a backup of a swarm, in a file.
func sealedBackup(t *testing.T, id *enrol.Identity, swarmID string) []byte {
	t.Helper()
	root, place := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	backuptest.New(t, root, swarmID, "controllers-node")
	if _, err := swarmbackup.Take(t.Context(), place, swarmbackup.Source{Identity: id, DockerRoot: root}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestByHand(t *testing.T) {
	id := controllerOf(t, "homelab")
	folder := t.TempDir()
	k := &founding.Keepers{Client: &swarmbackup.Client{Identity: id}, Identity: id, Folder: folder,
		ByHand: filepath.Join(folder, filepath.FromSlash(founding.HandFile))}
	offers, answered, err := k.Offers(t.Context(), nil)
	if len(offers) != 0 || len(answered) != 0 || err != nil {
		t.Errorf("nothing was laid: %v, %v, %v", offers, answered, err)
	}
	lay := func(data []byte) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(k.ByHand), 0o700), os.WriteFile(k.ByHand, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	// What cannot be restored is told, and no swarm made in its place.
	good := sealedBackup(t, id, "swarm1")
	for _, bad := range []struct {
		summary string
		data    []byte
		is      error
	}{
		{"another controller's", sealedBackup(t, controllerOf(t, "homelab"), "swarm1"), sealed.ErrForeign},
		{"cut", good[:len(good)-1], sealed.ErrDamaged},
		{"something else", []byte("not a backup"), sealed.ErrFormat},
		{"empty", nil, nil},
	} {
		lay(bad.data)
		if offers, _, err := k.Offers(t.Context(), nil); err == nil || bad.is != nil && !errors.Is(err, bad.is) || !strings.Contains(err.Error(), k.ByHand) {
			t.Errorf("%s: %v, %v", bad.summary, offers, err)
		}
	}
	lay(good)
	offers, _, err = k.Offers(t.Context(), nil)
	if err != nil || len(offers) != 1 || !strings.Contains(offers[0].String(), k.ByHand) {
		t.Fatalf("%v, %v", offers, err)
	}
	root := t.TempDir()
	if err := offers[0].Restore(t.Context(), root, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "swarm", "docker-state.json")); err != nil {
		t.Error(err)
	}
	// It has served its turn, and is not gone.
	if used, err := os.ReadFile(k.ByHand + founding.Used); err != nil || !bytes.Equal(used, good) {
		t.Errorf("%d bytes, %v", len(used), err)
	}
	if offers, _, err := k.Offers(t.Context(), nil); len(offers) != 0 || err != nil {
		t.Errorf("once more: %v, %v", offers, err)
	}
}

// TestByHandFirst: the swarm of the backup that was laid is wanted, whatever
// others there are, and of that the latest backup.
func TestByHandFirst(t *testing.T) {
	at := func(swarm string, index uint64, taken int64) swarmbackup.Offer {
		return swarmbackup.Offer{ID: swarm, Label: swarmbackup.Label{Swarm: swarm, Index: index, Taken: time.Unix(taken, 0)}}
	}
	offers := []swarmbackup.Offer{at("new", 5, 300), at("new", 4, 250), at("wanted", 9, 200), at("wanted", 8, 100), at("old", 7, 50)}
	founding.SwarmFirst(offers, "wanted")
	var order []string
	for _, o := range offers {
		order = append(order, o.Label.Swarm+" "+o.Label.Taken.UTC().Format("04:05"))
	}
	if have := strings.Join(order, ", "); have != "wanted 03:20, wanted 01:40, new 05:00, new 04:10, old 00:50" {
		t.Error(have)
	}
}
