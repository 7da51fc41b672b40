package preload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types of the OCI Image Format Specification and of Docker's Image
// Manifest V2, schemas 1 and 2.
const (
	mediaOCIIndex       = "application/vnd.oci.image.index.v1+json"
	mediaOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	mediaOCIConfig      = "application/vnd.oci.image.config.v1+json"
	mediaOCILayer       = "application/vnd.oci.image.layer.v1.tar"
	mediaDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaDockerConfig   = "application/vnd.docker.container.image.v1+json"
	mediaDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	mediaSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	mediaSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// What is foreign has limits: those of registries and engines, or far beyond
// what any real image has.
const (
	maxManifest  = 4 << 20  // as registries have it
	maxConfig    = 8 << 20  // as containerd has it
	maxLayerBlob = 16 << 30 // a layer as it is fetched
	maxLayers    = 125      // as Docker has it (layer.MaxLayerDepth)
	maxEntries   = 1000     // of any list
	maxDepth     = 4        // of indexes in indexes
	maxLookups   = 64       // manifests that are looked into to find one
)

// A list is one of JSON's with at most maxEntries. They are counted as they are
// read: a few million bytes can have a million of them, and each takes many
// times its length in memory.
type list[T any] []T

// UnmarshalJSON implements [json.Unmarshaler].
func (l *list[T]) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	switch first, err := decoder.Token(); {
	case err != nil:
		return err
	case first == nil:
		return nil
	case first != json.Delim('['):
		return errors.New("there is something else in the place of a list")
	}
	*l = list[T]{}
	for decoder.More() {
		if len(*l) == maxEntries {
			return fmt.Errorf("a list in it has more than %d entries", maxEntries)
		}
		var entry T
		if err := decoder.Decode(&entry); err != nil {
			return err
		}
		*l = append(*l, entry)
	}
	return nil
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platformJSON     `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platformJSON struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platformJSON) platform() Platform { return Platform(p) }

// A document is an index or a manifest: which of them shows in what it has.
type document struct {
	SchemaVersion int              `json:"schemaVersion"`
	MediaType     string           `json:"mediaType"`
	Manifests     list[descriptor] `json:"manifests"`
	Config        *descriptor      `json:"config"`
	Layers        list[descriptor] `json:"layers"`
	FSLayers      json.RawMessage  `json:"fsLayers"`
}

func (d *document) index() bool { return d.Config == nil }

// parseDocument reads an index or a manifest and sees that all it has makes
// sense: digests, sizes, numbers.
func parseDocument(content []byte) (*document, error) {
	if len(content) > maxManifest {
		return nil, inputErrorf("its manifest has %d bytes, and may have %d", len(content), maxManifest)
	}
	var d document
	if err := json.Unmarshal(content, &d); err != nil {
		return nil, inputErrorf("its manifest is not one: %w", err)
	}
	switch {
	case d.FSLayers != nil || d.SchemaVersion == 1:
		return nil, inputErrorf("its manifest is of schema 1, which Docker gave up in 2017: have whoever publishes it push it anew, or pull and push it with a Docker of today")
	case d.SchemaVersion != 2:
		return nil, inputErrorf("its manifest is of schema %d, which is unknown here", d.SchemaVersion)
	case d.Manifests != nil && (d.Config != nil || d.Layers != nil):
		return nil, inputErrorf("its manifest is an index as well: which of them is meant cannot be told")
	case d.Manifests == nil && d.Config == nil:
		return nil, inputErrorf("its manifest has neither images nor layers")
	}
	for _, m := range d.Manifests {
		if err := m.check(maxManifest); err != nil {
			return nil, inputErrorf("its index: %w", err)
		}
	}
	if d.Config == nil {
		return &d, nil
	}
	if err := d.Config.check(maxConfig); err != nil {
		return nil, inputErrorf("its configuration: %w", err)
	}
	if t := d.Config.MediaType; t != mediaOCIConfig && t != mediaDockerConfig {
		return nil, inputErrorf("it is no container image: its configuration is %q (a chart, a signature, a plug-in?)", oneLine(t))
	}
	if len(d.Layers) == 0 || len(d.Layers) > maxLayers {
		return nil, inputErrorf("it has %d layers: Docker takes 1 to %d", len(d.Layers), maxLayers)
	}
	for i, l := range d.Layers {
		if err := l.check(maxLayerBlob); err != nil {
			return nil, inputErrorf("its layer %d: %w", i+1, err)
		}
		kind, _, _ := strings.Cut(l.MediaType, "+")
		kind = strings.TrimSuffix(kind, ".gzip")
		switch {
		case strings.Contains(l.MediaType, "foreign") || strings.Contains(l.MediaType, "nondistributable"):
			return nil, inputErrorf("its layer %d is not in the registry but elsewhere (%q, as layers of Windows are): it cannot be preloaded", i+1, oneLine(l.MediaType))
		case kind != mediaOCILayer && kind != mediaDockerLayer:
			return nil, inputErrorf("its layer %d is of a kind that Docker does not unpack: %q", i+1, oneLine(l.MediaType))
		}
	}
	return &d, nil
}

func (d *descriptor) check(most int64) error {
	switch {
	case d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256:
		return fmt.Errorf("%q is no sha256", oneLine(string(d.Digest)))
	case d.Size < 1:
		return fmt.Errorf("a size of %d bytes", d.Size)
	case d.Size > most:
		return fmt.Errorf("%d bytes, and it may have %d", d.Size, most)
	}
	return nil
}

// A config is what is read of an image's configuration.
type config struct {
	platformJSON
	RootFS struct {
		Type    string              `json:"type"`
		DiffIDs list[digest.Digest] `json:"diff_ids"`
	} `json:"rootfs"`
}

// parseConfig reads the configuration of an image with that many layers.
func parseConfig(content []byte, layers int) (*config, error) {
	if len(content) > maxConfig {
		return nil, inputErrorf("its configuration has %d bytes, and may have %d", len(content), maxConfig)
	}
	var c config
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, inputErrorf("its configuration is not one: %w", err)
	}
	if c.OS == "" || c.Architecture == "" {
		return nil, inputErrorf("its configuration does not say what it is built for: it is no container image")
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, inputErrorf("its configuration names %d layers, and its manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return nil, inputErrorf("its configuration names a layer %q, which is no sha256", oneLine(string(d)))
		}
	}
	return &c, nil
}

var errTooDeep = errors.New("its indexes lie within one another too deep")

// An archiveList is the manifest.json of what `docker save` writes.
type archiveList = list[struct {
	Config   string
	RepoTags list[string]
	Layers   list[string]
}]
