// Package dockerlayer makes the layer that lies between a base image and the
// layers of its targets: Debian packages, unpacked as dpkg does, and container
// images, laid down for the first boot to load.
//
//	base ── Docker layer ──┬── controller's layer
//	                       ├── p1's layer
//	                       └── …
//
// All targets of one base and one kind of processor share it. It is made once,
// sealed, and kept in the cache under the digest of everything that went into
// it, so a build with the same inputs unpacks nothing.
package dockerlayer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/layer"
)

// Inputs are all that a Docker layer is made of.
type Inputs struct {
	Base       layer.Parent     // what it lies on
	Packages   []Package        // in the order in which they are unpacked
	Containers []preload.Pinned // loaded by the node, in this order
	Upgrade    bool             // packages may take the place of older versions in the base
	Epoch      time.Time        // what the layer itself adds is of this time
}

// A Package is one that goes in.
type Package struct {
	apt.Deb
	Automatic bool // because another one needs it
}

// Empty says that there is nothing to put into a layer.
func (in Inputs) Empty() bool { return len(in.Packages) == 0 && len(in.Containers) == 0 }

// keyFormat changes with whatever makes equal inputs give another layer.
const keyFormat = 2

// Key names the layer that the inputs lead to: 64 hexadecimal digits.
func (in Inputs) Key() string {
	// What a package is listed as counts, though the digest says it all: a lock
	// that is wrong about it must not find the layer of one that is right, nor
	// leave a record for that.
	type pkg struct {
		SHA256, Name, Version, Architecture string
		Automatic                           bool
	}
	type container struct {
		Names  []string
		Digest string
	}
	of := struct {
		Format     int
		Base       string
		BaseSize   int64
		Packages   []pkg
		Containers []container
		Upgrade    bool
		Epoch      int64
	}{Format: keyFormat, Base: in.Base.Digest().String(), BaseSize: in.Base.Size(), Upgrade: in.Upgrade, Epoch: in.Epoch.Unix()}
	for _, p := range in.Packages {
		of.Packages = append(of.Packages, pkg{p.SHA256, p.Name, p.Version, p.Architecture, p.Automatic})
	}
	for _, c := range in.Containers {
		of.Containers = append(of.Containers, container{c.Names, c.Digest})
	}
	text, err := json.Marshal(of)
	if err != nil {
		panic(err) // of strings and numbers, it cannot fail
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
