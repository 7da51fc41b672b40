package dockerlayer

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
)

// A Record says what is in a layer. It lies beside the layer in the cache.
type Record struct {
	Format     int           `json:"format"` // 1
	Key        string        `json:"key"`    // of the inputs
	Digest     digest.Digest `json:"digest"` // of the layer
	Packages   []Content     `json:"packages"`
	Containers []Container   `json:"containers,omitempty"`
	// Scripts is how many maintainer scripts the node runs before it configures
	// the packages.
	Scripts int `json:"scripts"`
	// Checked names the processors, each with the exceptions that counted, for
	// which every program in the layer was judged and fits.
	Checked []string `json:"checked,omitempty"`
}

// A Content is a package in the layer.
type Content struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Automatic    bool   `json:"automatic,omitempty"`
	URL          string `json:"url"`
	SHA256       string `json:"sha256"` // of the .deb
	Size         int64  `json:"size"`   // of the .deb, bytes
	// Files are the regular files that it laid.
	Files []string `json:"files"`
}

// A Container is a container image in the layer.
type Container struct {
	Image    string   `json:"image"` // as the cluster file has it
	Names    []string `json:"names"` // what the node's engine calls it
	Platform string   `json:"platform"`
	Digest   string   `json:"digest"` // of the platform's manifest
}

const recordFormat = 1

// readRecord reads a record; nil where there is none that fits the key.
func readRecord(place, key string) *Record {
	data, err := os.ReadFile(place)
	if err != nil {
		return nil
	}
	var r Record
	if json.Unmarshal(data, &r) != nil || r.Format != recordFormat || r.Key != key || r.Digest.Validate() != nil {
		return nil // not known: the layer is made anew, which is always right
	}
	return &r
}

func (r *Record) write(place string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(place, data, 0o600); err != nil {
		return fmt.Errorf("cannot record what is in the layer: %w", err)
	}
	return nil
}

// judged says whether the layer's programs were found to fit what id names.
func (r *Record) judged(id string) bool { return slices.Contains(r.Checked, id) }
