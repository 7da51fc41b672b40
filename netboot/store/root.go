package store

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
)

// MaxLayers is how many layers a root may have.
const MaxLayers = 32

// maxText is how long a word of a label may be, in bytes.
const maxText = 256

// A Root is a version of what a slot boots: a base and the sealed layers over
// it, bottom to top.
type Root struct {
	Base   digest.Digest   `json:"base"`
	Layers []digest.Digest `json:"layers,omitempty"`
	Slot   int             `json:"slot"`
	When   time.Time       `json:"when"` // it was assigned
	By     string          `json:"by,omitempty"`
	Label  Label           `json:"label,omitzero"`
	// Build is what the image says that it is (nodefile.BuildFile); "" where it says
	// nothing.
	Build string `json:"build,omitempty"`
}

// A Label says for people where a root came from.
type Label struct {
	File    string    `json:"file,omitempty"`    // cluster.yaml's, or the image's
	Cluster string    `json:"cluster,omitempty"` // its name
	Epoch   time.Time `json:"epoch,omitzero"`    // every timestamp in the image
}

// Digest names the root's content: the uppermost layer's digest, or the base's.
func (r *Root) Digest() digest.Digest {
	if len(r.Layers) == 0 {
		return r.Base
	}
	return r.Layers[len(r.Layers)-1]
}

// Same says whether two roots have the same content.
func (r *Root) Same(other *Root) bool {
	return r.Base == other.Base && slices.Equal(r.Layers, other.Layers)
}

// objects gives the digests of all that the root needs.
func (r *Root) objects() []digest.Digest { return append([]digest.Digest{r.Base}, r.Layers...) }

func (r *Root) check() error {
	if r.Slot < clusterctrl.MinSlot || r.Slot > clusterctrl.MaxSlot {
		return fmt.Errorf("there is no slot %d", r.Slot)
	}
	if len(r.Layers) > MaxLayers {
		return fmt.Errorf("%d layers are more than %d", len(r.Layers), MaxLayers)
	}
	seen := map[digest.Digest]bool{}
	for _, d := range r.objects() {
		if err := checkDigest(d); err != nil {
			return err
		}
		if seen[d] {
			return fmt.Errorf("%s is in the chain twice", d)
		}
		seen[d] = true
	}
	if err := checkBuild(r.Build); err != nil {
		return err
	}
	for _, text := range []string{r.By, r.Label.File, r.Label.Cluster} {
		if len(text) > maxText {
			return fmt.Errorf("a label of %d bytes is longer than %d", len(text), maxText)
		}
	}
	return nil
}

func checkBuild(build string) error {
	if build == "" {
		return nil
	}
	return nodefile.CheckBuild(build)
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%.80q: %w", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%s is not a SHA-256", d)
	}
	return nil
}

// Mode is how a slot boots.
type Mode string

const (
	Off       Mode = "off"       // not from here
	Netboot   Mode = "netboot"   // what it changes is kept here, in the top layer
	Ephemeral Mode = "ephemeral" // what it changes lives in its memory
)

// Settings are what a user chooses for a slot. Mode and Size count from the
// next boot, and Size for tops that are made afterwards; Quota from when the
// disk is opened next.
type Settings struct {
	Mode Mode `json:"mode"`
	// Chosen says that the mode is somebody's choice on the controller, in place of
	// what its image says.
	Chosen bool `json:"chosen,omitempty"`
	// Size is the length of the slot's disk in bytes, a multiple of 512; 0, and
	// whatever is less than the root's, stands for the root's.
	Size int64 `json:"size,omitempty"`
	// Quota limits how many bytes the top stores; 0: as many as fit.
	Quota int64 `json:"quota,omitempty"`
}

func (s *Settings) check() error {
	switch {
	case s.Mode != Off && s.Mode != Netboot && s.Mode != Ephemeral:
		return fmt.Errorf("unknown mode %.40q: off, netboot or ephemeral", string(s.Mode))
	case s.Size < 0 || s.Size > layer.MaxSize || s.Size%512 != 0:
		return fmt.Errorf("impossible size of a disk: %d bytes", s.Size)
	case s.Quota < 0:
		return errors.New("the quota is negative")
	}
	return nil
}
