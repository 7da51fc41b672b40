package imagebuilder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"hatchery/imagebuilder/dockerlayer"
	"hatchery/imagebuilder/spdx"
	"hatchery/internal/atomicfile"
	"hatchery/internal/deb822"
	"hatchery/internal/osrelease"
	"hatchery/internal/spec"
)

// bill is where a target's bill of materials lies: all packages and container
// images in its image, as SPDX.
func (o *outDir) bill(target string) string { return filepath.Join(o.path, target+".spdx.json") }

// packages are all packages in the foundation: those of the base, of which
// nobody kept the .deb, and those that hatchery put there. A base that keeps no
// record of its packages has none.
func (f *foundation) packages() ([]spdx.Package, error) {
	root, err := rootOf(f)
	if err != nil {
		return nil, err
	}
	status, err := root.ReadFile(deb822.StatusFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	vendor := map[string]string{}
	if text, err := root.ReadFile("/etc/os-release"); err == nil {
		vendor = osrelease.Parse(text)
	}
	type key struct{ name, version, architecture string }
	ours := map[key]dockerlayer.Content{}
	if f.docker != nil {
		for _, p := range f.docker.Record.Packages {
			ours[key{p.Name, p.Version, p.Architecture}] = p
		}
	}
	var all []spdx.Package
	err = deb822.ReadStatus(bytes.NewReader(status), func(p *deb822.Package) error {
		if !p.Present() {
			return nil
		}
		own := ours[key{p.Name, p.Version, p.Architecture}]
		all = append(all, spdx.Package{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, SHA256: own.SHA256, URL: own.URL,
			Vendor: vendor["ID"], Distribution: vendor["VERSION_CODENAME"], Source: p.Paragraph.Get("Source"),
		})
		return nil
	})
	return all, baseError(deb822.StatusFile, err)
}

// writeBill writes a target's bill of materials. The image's digest is in it
// where it was computed.
func (o *outDir) writeBill(c *spec.Cluster, target string, f *foundation, packages []spdx.Package, epoch time.Time) error {
	d := spdx.Document{Name: c.Name + "/" + target, Created: epoch, Tool: "hatchery", Packages: packages}
	if r := o.record(target); r != nil && r.SHA256 != "" {
		d.SHA256 = r.SHA256.Encoded()
	}
	if f.docker != nil {
		for _, image := range f.docker.Record.Containers {
			for _, name := range image.Names {
				d.Containers = append(d.Containers, spdx.Container{Name: name, Digest: image.Digest, Platform: image.Platform, Local: spec.IsLocalImage(image.Image)})
			}
		}
	}
	var text bytes.Buffer
	err := spdx.Write(&text, d)
	if err == nil {
		err = atomicfile.WriteBytes(o.bill(target), text.Bytes(), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", o.bill(target), err)
	}
	return nil
}

// writeBills writes the bills of materials of what was built.
func (o *outDir) writeBills(c *spec.Cluster, g *ground, builds []*targetBuild) error {
	of := map[*foundation][]spdx.Package{}
	for _, f := range g.made {
		packages, err := f.packages()
		if err != nil {
			return err
		}
		of[f] = packages
	}
	for _, b := range builds {
		if err := o.writeBill(c, b.target.Name, b.on, of[b.on], g.epoch); err != nil {
			return err
		}
	}
	return nil
}
