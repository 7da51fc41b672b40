package imagebuilder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/spec"
)

// manifestName is the name of the manifest in the output folder.
const manifestName = "manifest.json"

// A Manifest says what went into the images, with digests, except of secrets.
type Manifest struct {
	Format  int              `json:"format"` // 1
	Cluster string           `json:"cluster"`
	Epoch   time.Time        `json:"epoch"` // every timestamp in the images
	CA      string           `json:"ca"`    // SHA-256 fingerprint of the cluster CA's certificate
	Targets []TargetManifest `json:"targets"`
}

// A TargetManifest says what went into one target's image.
type TargetManifest struct {
	Target     string       `json:"target"` // controller, p1, …
	Hostname   string       `json:"hostname"`
	Model      string       `json:"model"`
	Release    string       `json:"release"` // of the operating system: bookworm
	Image      string       `json:"image,omitempty"`
	Size       int64        `json:"size"` // bytes, of the image
	Base       BaseManifest `json:"base"`
	Layers     []LayerEntry `json:"layers"` // lowest first, above the base
	DiskID     string       `json:"disk_id"`
	Generation int          `json:"generation"` // of the slot's certificate
	Cmdline    string       `json:"cmdline"`
	// Build is what a slot's image says that it is, in nodefile.BuildFile.
	Build string `json:"build,omitempty"`
	// Packages and Containers are what the Docker layer has.
	Packages   []PackageEntry   `json:"packages,omitempty"`
	Containers []ContainerEntry `json:"containers,omitempty"`
	// Slots are those that a controller lets in.
	Slots []int `json:"slots,omitempty"`
	// Workloads are what the controller was told to run.
	Workloads *WorkloadsEntry `json:"workloads,omitempty"`
	Files     []FileEntry     `json:"files"`
	Removed   []string        `json:"removed,omitempty"`
}

// A BaseManifest names the base image and how it came.
type BaseManifest struct {
	Source       string        `json:"source"`
	SourceDigest digest.Digest `json:"source_digest"` // of the file as published
	Digest       digest.Digest `json:"digest"`        // of the image in it
	Size         int64         `json:"size"`
}

// A LayerEntry is one layer: which blocks of what lies below it change.
type LayerEntry struct {
	File   string        `json:"file"` // relative to the manifest
	Digest digest.Digest `json:"digest"`
	Parent digest.Digest `json:"parent"`
	Bytes  int64         `json:"bytes"` // of changed blocks
}

// A PackageEntry is a Debian package that hatchery put into an image, unpacked
// and held.
type PackageEntry struct {
	Name         string        `json:"name"`
	Version      string        `json:"version"`
	Architecture string        `json:"architecture"`
	Automatic    bool          `json:"automatic,omitempty"` // because another one needs it
	Digest       digest.Digest `json:"digest"`              // of the .deb
	Source       string        `json:"source"`              // where the archive has it
}

// A ContainerEntry is a container image that the node loads.
type ContainerEntry struct {
	Image    string        `json:"image"`
	Platform string        `json:"platform"`
	Digest   digest.Digest `json:"digest"` // of the platform's manifest
}

// A FileEntry is a file that hatchery put into an image.
type FileEntry struct {
	Path   string        `json:"path"`
	Mode   string        `json:"mode"` // as ls shows it
	UID    uint32        `json:"uid"`
	GID    uint32        `json:"gid"`
	Size   int64         `json:"size,omitempty"`
	Digest digest.Digest `json:"digest,omitempty"` // of a file's content, unless secret
	Secret bool          `json:"secret,omitempty"`
	Target string        `json:"target,omitempty"` // of a symlink
	From   string        `json:"from,omitempty"`   // where hatchery had it from
}

// readManifest reads an earlier build's manifest: nil where there is none
// that this version understands.
func readManifest(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the last build's manifest: %w", err)
	}
	var m Manifest
	if json.Unmarshal(data, &m) != nil || m.Format != manifestFormat {
		return nil, nil
	}
	return &m, nil
}

const manifestFormat = 1

// merge takes over from an earlier manifest the targets that this build did
// not touch, in the cluster's order.
func (m *Manifest) merge(earlier *Manifest, order []string) {
	byName := map[string]TargetManifest{}
	if earlier != nil && earlier.Cluster == m.Cluster {
		for _, t := range earlier.Targets {
			byName[t.Target] = t
		}
	}
	for _, t := range m.Targets {
		byName[t.Target] = t
	}
	m.Targets = nil
	for _, name := range order {
		if t, ok := byName[name]; ok {
			m.Targets = append(m.Targets, t)
		}
	}
}

// unknown are the slots of a build without the controllers that none which was built
// before knows.
func (m *Manifest) unknown(targets []spec.Target) (names []string) {
	if m == nil || hasController(targets) {
		return nil
	}
	var known []int
	for _, t := range m.Targets {
		known = append(known, t.Slots...)
	}
	for _, t := range targets {
		if len(known) > 0 && !slices.Contains(known, t.Slot) {
			names = append(names, t.Name)
		}
	}
	return names
}

func (m *Manifest) write(dir string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, manifestName), append(data, '\n'), 0o600)
}
