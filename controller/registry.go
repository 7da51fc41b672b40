package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// The registry's file, and the one before it.
const (
	registryFile = "registry.json"
	previousFile = "registry.previous.json"
)

// registryVersion is the file's. A file of a later version is not read: it may
// know of revocations in a way that this program does not.
const registryVersion = 1

// maxRegistry is more than 252 slots take, in bytes.
const maxRegistry = 16 << 20

// How much is remembered of a slot's past, and how many alarms.
const (
	pastBoots = 8
	pastNodes = 16
	maxAlarms = 64
)

// A registry is what outlives the service.
type registry struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	// TokenOut says that the worker token was handed out since it was last
	// rotated; RotateNow that whoever has it must not join with it: his slot
	// was revoked.
	TokenOut  bool `json:"token_out,omitempty"`
	RotateNow bool `json:"rotate_now,omitempty"`
	// ManagerTokenOut says the same of the manager token, and Controllers are the
	// least generations that are accepted of other controllers.
	ManagerTokenOut bool           `json:"manager_token_out,omitempty"`
	Controllers     map[string]int `json:"controllers,omitempty"`
	// Controller is what is known of its own entry.
	Controller *record            `json:"controller,omitempty"`
	Slots      map[string]*record `json:"slots"` // "p1" …
	Alarms     []enrol.AlarmEntry `json:"alarms,omitempty"`
}

// A record is what outlives the service of a slot.
type record struct {
	// Generation is of the certificate that the slot last came with, and
	// MinGeneration the least that is accepted. Below RevokedBelow it was a
	// person who said so.
	Generation    int `json:"generation,omitempty"`
	MinGeneration int `json:"min_generation,omitempty"`
	RevokedBelow  int `json:"revoked_below,omitempty"`
	// Barred says that the slot was revoked and nobody let in since: whatever
	// entry it has, goes.
	Barred bool `json:"barred,omitempty"`

	// BootID is the boot that speaks for the slot; PastBoots did before, and
	// never come back.
	BootID    string   `json:"boot_id,omitempty"`
	PastBoots []string `json:"past_boots,omitempty"`

	// NodeID is the slot's entry in the list of nodes, PastNodes earlier ones.
	// Settled is the last one that got its labels and was made active.
	NodeID    string   `json:"node_id,omitempty"`
	PastNodes []string `json:"past_nodes,omitempty"`
	Settled   string   `json:"settled,omitempty"`

	// What the settled entry had beside what the inventory says, for the next
	// entry: labels and availability are an operator's.
	Labels       map[string]string `json:"labels,omitempty"`
	Availability string            `json:"availability,omitempty"`
	// Applied are the inventory's labels that the settled entry got, so that
	// one that is gone from the inventory is not taken for an operator's.
	Applied map[string]string `json:"applied,omitempty"`
}

// adoptBoot has another boot speak for the slot.
func (r *record) adoptBoot(boot string) {
	if r.BootID != "" {
		r.PastBoots = remember(r.PastBoots, r.BootID, pastBoots)
	}
	r.BootID = boot
}

// adoptNode makes a node the slot's.
func (r *record) adoptNode(id string) {
	if r.NodeID != "" {
		r.PastNodes = remember(r.PastNodes, r.NodeID, pastNodes)
	}
	r.PastNodes = slices.DeleteFunc(r.PastNodes, func(past string) bool { return past == id })
	r.NodeID = id
}

// forgetNode makes the slot's node one of its past.
func (r *record) forgetNode() {
	if r.NodeID != "" {
		r.PastNodes = remember(r.PastNodes, r.NodeID, pastNodes)
		r.NodeID = ""
	}
}

func remember(list []string, s string, most int) []string {
	list = append(slices.DeleteFunc(list, func(have string) bool { return have == s }), s)
	return slices.Clip(list[max(0, len(list)-most):])
}

// parseRegistry reads the file.
func parseRegistry(data []byte) (*registry, error) {
	r := new(registry)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	if r.Version != registryVersion {
		return nil, fmt.Errorf("has version %d: this program knows version %d", r.Version, registryVersion)
	}
	if r.Cluster == "" {
		return nil, errors.New("names no cluster")
	}
	for name, rec := range r.Slots {
		if _, err := clusterctrl.ParseSlot(name); err != nil || rec == nil {
			return nil, fmt.Errorf("has a slot %.20q", name)
		}
		if rec.MinGeneration < 0 || rec.RevokedBelow < 0 || rec.Generation < 0 {
			return nil, fmt.Errorf("has a generation below 0 for %s", name)
		}
	}
	return r, nil
}

// readRegistry reads the registry of a folder. Without any file it is a new
// one. One that cannot be read is told in complaint if the file before it can:
// a registry that were begun anew would have forgotten who was revoked.
func readRegistry(dir, cluster string) (r *registry, complaint string, err error) {
	fresh := &registry{Version: registryVersion, Cluster: cluster, Slots: map[string]*record{}}
	r, err = readRegistryFile(filepath.Join(dir, registryFile))
	if err != nil {
		previous, perr := readRegistryFile(filepath.Join(dir, previousFile))
		switch {
		case errors.Is(err, fs.ErrNotExist) && errors.Is(perr, fs.ErrNotExist):
			return fresh, "", nil
		case perr != nil:
			return nil, "", fmt.Errorf("cannot read what was revoked and who is who: %w "+
				"(restore the folder from a backup; or remove it, and revoke again what was revoked)", err)
		}
		complaint = fmt.Sprintf("the registry was damaged, and the one before it is used: %v; check with `hatchery status` that what you revoked is still revoked", err)
		r = previous
	}
	if r.Cluster != cluster {
		return nil, "", fmt.Errorf("%s is of the cluster %q, not of %q: remove it, and the service begins a new one", filepath.Join(dir, registryFile), r.Cluster, cluster)
	}
	if r.Slots == nil {
		r.Slots = fresh.Slots
	}
	return r, complaint, nil
}

func readRegistryFile(path string) (*registry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRegistry+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxRegistry {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxRegistry)
	}
	r, err := parseRegistry(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// A keeper writes the registry. What several callers changed at the same time
// costs one write: a card takes its time for each.
type keeper struct {
	dir      string
	marshal  func() (data []byte, version uint64, err error)
	replaced chan error // gets errReplaced
	turn     chan struct{}
	saved    uint64
	file     fs.FileInfo // the registry's, as it was read or written; nil for none
}

// errReplaced ends the service: it would write what it knows over a registry
// that is better, one from a backup. The next service reads that one.
var errReplaced = errors.New("the registry was replaced, as by a restored backup: the service has to be started again")

func newKeeper(dir string, marshal func() ([]byte, uint64, error)) *keeper {
	k := &keeper{dir: dir, marshal: marshal, replaced: make(chan error, 1), turn: make(chan struct{}, 1)}
	k.file, _ = os.Stat(filepath.Join(dir, registryFile))
	return k
}

// isReplaced says whether the registry is another file than it was.
func (k *keeper) isReplaced() bool {
	now, err := os.Stat(filepath.Join(k.dir, registryFile))
	return err == nil && (k.file == nil || !os.SameFile(now, k.file))
}

// save returns when what was changed up to a version is on the disk.
func (k *keeper) save(ctx context.Context, version uint64) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if k.saved >= version {
		return nil
	}
	if k.isReplaced() {
		select {
		case k.replaced <- errReplaced:
		default:
		}
		return errReplaced
	}
	data, version, err := k.marshal()
	if err != nil {
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	place, previous := filepath.Join(k.dir, registryFile), filepath.Join(k.dir, previousFile)
	// The name of the one before is a second name of the file that is about to
	// lose its own.
	whole := k.saved > 0
	if !whole {
		_, err := readRegistryFile(place)
		whole = err == nil
	}
	if whole {
		if err := os.Remove(previous); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot write the registry: %w", err)
		}
		if err := os.Link(place, previous); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot write the registry: %w", err)
		}
	}
	if err := atomicfile.Write(place, bytes.NewReader(data), 0o600); err != nil {
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	if k.file, err = os.Stat(place); err != nil {
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	k.saved = version
	return nil
}
