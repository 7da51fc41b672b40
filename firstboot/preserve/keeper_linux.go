package preserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hatchery/internal/atomicfile"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// Options are what a [Keeper] works with.
type Options struct {
	Node       *nodefile.Node
	ConfigDir  string // nodefile.ConfigDir: none of it is kept
	StateDir   string // nodefile.StateDir; what lies on its file system is on the root
	DockerRoot string // /var/lib/docker
	// Uses are the containers that may write; swarm.Engine.Uses.
	Uses func(ctx context.Context) ([]swarm.Use, error)
	// StopEngine stops Docker, if it runs, before something is put into place.
	StopEngine func(ctx context.Context) error
	// HTTP calls the controller, and URL is the address of a path there: enrol.Client's.
	HTTP func() *http.Client
	URL  func(path string) string
	// Free is how many bytes of a folder's file system are free; nil asks the kernel.
	Free func(dir string) (int64, error)
	Log  *slog.Logger
}

// A Keeper is a node's. Its methods may be called at any time.
type Keeper struct{ o Options }

// New makes a keeper.
func New(o Options) *Keeper {
	if o.Free == nil {
		o.Free = free
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o}
}

func free(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// markName is what a mark is called in the state folder.
const markName = "kept.json"

// staging is where an archive is unpacked: beside the state folder, which systemd mounts
// onto itself for the agent's unit (StateDirectory=), so that nothing can be renamed from
// there to elsewhere.
func (k *Keeper) staging() string { return k.o.StateDir + "-restore" }

// A mark says that this root needs nothing any more. It is there once per root.
type mark struct {
	// Digest is of the archive that is in place, "" where there was none.
	Digest string      `json:"digest,omitempty"`
	Left   []kept.Left `json:"left,omitempty"` // what was not put into place
	// Told says that the controller knows.
	Told bool `json:"told"`
}

// mark reads the mark, nil for none.
func (k *Keeper) mark() (*mark, error) {
	data, err := os.ReadFile(filepath.Join(k.o.StateDir, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m := new(mark)
	if err == nil {
		err = json.Unmarshal(data, m)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read whether this root has got what was kept: %w", err)
	}
	return m, nil
}

func (k *Keeper) setMark(m *mark) error {
	data, err := json.Marshal(m)
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(k.o.StateDir, markName), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot note that this root has got what was kept: %w", err)
	}
	return nil
}

// volumes is Docker's folder of volumes.
func (k *Keeper) volumes() string { return filepath.Join(k.o.DockerRoot, "volumes") }

// place is where a root is on this node.
func (k *Keeper) place(r kept.Root) string {
	if r.Kind == kept.Volume {
		return filepath.Join(k.volumes(), r.Name)
	}
	return filepath.FromSlash(r.Name)
}

// allowed says why a root is none that this node keeps, "" where it is one.
func (k *Keeper) allowed(r kept.Root) string {
	switch {
	case r.Kind == kept.Volume && slices.Contains(k.o.Node.Keep, nodefile.KeepVolumes):
		return ""
	case r.Kind == kept.File && slices.Contains(k.o.Node.Keep, r.Name):
		return k.guarded(r.Name)
	}
	return "`keep:` in cluster.yaml does not name it any more"
}

// guarded says why a path cannot be kept as a whole, "" where it can.
func (k *Keeper) guarded(path string) string {
	for _, own := range []struct{ path, why string }{
		{k.o.StateDir, "the agent's own state is there"}, {k.staging(), "what is put back is unpacked there"}, {k.o.ConfigDir, "the node's identity is there"},
		{k.o.DockerRoot, "Docker's folder is there; `volumes` keeps its volumes"},
		{"/proc", "the kernel's files are there"}, {"/sys", "the kernel's files are there"}, {"/dev", "the kernel's files are there"}, {"/run", "nothing there outlives a boot"},
		{"/var/run", "nothing there outlives a boot"}, {"/var/lock", "nothing there outlives a boot"}, // links into /run
	} {
		if own.path != "" && (within(path, own.path) || within(own.path, path)) {
			return own.why
		}
	}
	// The agent's unit has PrivateTmp: what lies there is not what others see there. An
	// agent whose own state is there has none, as in a test.
	for _, own := range []string{"/tmp", "/var/tmp"} {
		if within(path, own) && !within(k.o.StateDir, own) {
			return "what is there is thrown away, and the agent has a " + own + " of its own"
		}
	}
	return ""
}

// within says whether a path is a folder, or in it.
func within(path, folder string) bool {
	return path == folder || folder == "/" || strings.HasPrefix(path, folder+"/")
}
