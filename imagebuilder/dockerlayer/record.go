package dockerlayer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/layer"
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
	// Size and ModTime (nanoseconds since 1970) are the layer's file's: while it
	// has them, its content is believed to be what it was.
	Size    int64 `json:"size"`
	ModTime int64 `json:"mod_time"`
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

// trust sees that a layer is the one that the record is of. One that was written
// to since is read and compared with its digest.
func (r *Record) trust(ctx context.Context, l *layer.Layer, place string) error {
	if l.Digest() != r.Digest {
		return layer.ErrCorrupt
	}
	info, err := os.Stat(place)
	if err != nil {
		return err
	}
	if info.Size() == r.Size && info.ModTime().UnixNano() == r.ModTime {
		return nil
	}
	return l.Verify(ctx)
}

// see notes what the layer's file looks like.
func (r *Record) see(place string) error {
	info, err := os.Stat(place)
	if err != nil {
		return err
	}
	r.Size, r.ModTime = info.Size(), info.ModTime().UnixNano()
	return nil
}

// from has the record say where packages and container images come from now:
// the same ones may have come from elsewhere when the layer was made.
func (r *Record) from(in Inputs) {
	for i := range min(len(r.Packages), len(in.Packages)) {
		r.Packages[i].URL = in.Packages[i].URL
	}
	r.Containers = containersOf(in)
}

// judged says whether the layer's programs were found to fit what id names.
func (r *Record) judged(id string) bool { return slices.Contains(r.Checked, id) }
