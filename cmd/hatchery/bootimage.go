package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/emulator"
	"hatchery/internal/spec"
)

// bootGuests finds what the targets boot from, and says what speaks against its
// being what a build would make now.
func bootGuests(cluster *spec.Cluster, out string, targets []spec.Target) (guests []emulator.Guest, warnings []string, err error) {
	built, err := readBuilt(cluster, out)
	if err != nil {
		return nil, nil, err
	}
	var missing, old []string
	for _, t := range targets {
		g := emulator.Guest{Target: t.Name, Slot: t.Slot, Hostname: t.Hostname, Model: t.Model}
		entry := built.target(t.Name)
		if entry != nil {
			// What is booted is what was built, whatever the file says by now.
			g.Hostname, g.Model = entry.Hostname, entry.Model
		}
		g.Image = built.image(t.Name, entry)
		if g.Image == "" {
			missing = append(missing, t.Name)
			continue
		}
		guests = append(guests, g)
		warnings = append(warnings, built.doubts(t.Name, g.Image, entry)...)
		if built.before(t.Name, g.Image, cluster.File, filepath.Join(cluster.Dir(), lockName)) {
			old = append(old, t.Name)
		}
	}
	if len(missing) > 0 {
		return nil, nil, notBuilt(cluster, out, missing)
	}
	return guests, append(warnings, outOfDate(cluster, out, old)...), nil
}

// notBuilt is the error of targets that there is nothing of.
func notBuilt(cluster *spec.Cluster, out string, missing []string) error {
	what := "is no image of " + missing[0]
	if len(missing) > 1 {
		what = "are no images of " + enumerate(missing)
	}
	return &imagebuilder.InputError{Err: fmt.Errorf("there %s in %s: run `%s` first", what, out, buildCommand(cluster, out, missing))}
}

// outOfDate warns of targets that were built before the cluster file was
// written to.
func outOfDate(cluster *spec.Cluster, out string, old []string) []string {
	if len(old) == 0 {
		return nil
	}
	what := "the image of " + old[0] + " is"
	if len(old) > 1 {
		what = "the images of " + enumerate(old) + " are"
	}
	return []string{fmt.Sprintf("%s older than %s or %s: what they say since is not in it; `%s` brings it up to date", what, cluster.File, lockName, buildCommand(cluster, out, old))}
}

// lockName is the file beside the cluster file that pins what a build takes.
const lockName = "cluster.lock"

// buildCommand is the build that the user is told to run.
func buildCommand(cluster *spec.Cluster, out string, targets []string) string {
	return onTargets("build", cluster, out, targets)
}

// onTargets is a command for targets of a cluster. Very many of them are all
// of them.
func onTargets(verb string, cluster *spec.Cluster, out string, targets []string) string {
	command := "hatchery " + verb
	if many := 8; len(targets) <= many || len(targets) < len(cluster.Targets()) {
		command += " " + strings.Join(targets, " ")
	}
	if cluster.File != "cluster.yaml" {
		command += " -f " + shellWord(cluster.File)
	}
	if out != "out" {
		command += " -o " + shellWord(out)
	}
	return command
}

// A builtFolder is an output folder, with what the last build said of it.
type builtFolder struct {
	path     string
	manifest imagebuilder.Manifest // empty where there is none that this version understands
}

// readBuilt reads what the last build said. Another cluster's folder is an
// [*imagebuilder.InputError].
func readBuilt(cluster *spec.Cluster, out string) (*builtFolder, error) {
	b := &builtFolder{path: out}
	var m imagebuilder.Manifest
	if readJSON(filepath.Join(out, "manifest.json"), &m) && m.Format == 1 {
		b.manifest = m
		if m.Cluster != cluster.Name {
			return nil, &imagebuilder.InputError{Err: fmt.Errorf("%s holds the images of the cluster %s, not of %s: name another folder with -o", out, m.Cluster, cluster.Name)}
		}
	}
	return b, nil
}

// readJSON reads a file that may be missing, or be of another version.
func readJSON(path string, into any) bool {
	data, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(data, into) == nil
}

func (b *builtFolder) target(name string) *imagebuilder.TargetManifest {
	for i := range b.manifest.Targets {
		if b.manifest.Targets[i].Target == name {
			return &b.manifest.Targets[i]
		}
	}
	return nil
}

// image is the file that a target boots from: its image, else its layer; ""
// where there is neither.
func (b *builtFolder) image(target string, entry *imagebuilder.TargetManifest) string {
	if path := b.imageFile(target); path != "" {
		return path
	}
	return b.layer(entry)
}

// imageFile is a target's image; "" where there is none.
func (b *builtFolder) imageFile(target string) string {
	if path := filepath.Join(b.path, target+".img"); isFile(path) {
		return path
	}
	return ""
}

// layer is a target's own layer; "" where there is none.
func (b *builtFolder) layer(entry *imagebuilder.TargetManifest) string {
	if entry != nil && len(entry.Layers) > 0 {
		own := filepath.FromSlash(entry.Layers[len(entry.Layers)-1].File)
		if path := filepath.Join(b.path, own); filepath.IsLocal(own) && isFile(path) {
			return path
		}
	}
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// doubts are what shows that an image is not the one that the last build made.
func (b *builtFolder) doubts(target, image string, entry *imagebuilder.TargetManifest) []string {
	// As the builder keeps it, in layers/.
	var record struct {
		Layers  []string `json:"layers"`
		ModTime int64    `json:"mod_time"`
	}
	if image != filepath.Join(b.path, target+".img") || !readJSON(filepath.Join(b.path, "layers", target+".json"), &record) {
		return nil
	}
	var doubts []string
	if info, err := os.Stat(image); err == nil && record.ModTime != 0 && info.ModTime().UnixNano() != record.ModTime {
		doubts = append(doubts, fmt.Sprintf("%s was written to since it was built; `hatchery build %s` writes it afresh", image, target))
	}
	if entry != nil && len(entry.Layers) > 0 && len(record.Layers) == 1 && record.Layers[0] != string(entry.Layers[len(entry.Layers)-1].Digest) {
		doubts = append(doubts, fmt.Sprintf("%s is older than the last build of %s, which wrote layers only; `hatchery build %s` brings it up to date", image, target, target))
	}
	return doubts
}

// before says whether a target was built before one of the files was written.
// A build that finds nothing to do leaves the image alone, but writes its bill
// of materials each time.
func (b *builtFolder) before(target, image string, files ...string) bool {
	built, ok := written(filepath.Join(b.path, target+".spdx.json"))
	if !ok {
		if built, ok = written(image); !ok {
			return false
		}
	}
	for _, f := range files {
		if at, ok := written(f); ok && at.After(built) {
			return true
		}
	}
	return false
}

func written(path string) (time.Time, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}
