package imagebuilder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/cpucheck"
	"hatchery/imagebuilder/dependency"
	"hatchery/imagebuilder/dockerlayer"
	"hatchery/imagebuilder/dpkg"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/cpu"
	"hatchery/internal/ext4"
	"hatchery/internal/spec"
	"hatchery/overlays"
)

// A judge sees that no program gets into an image that its processor cannot
// run: on a Pi Zero it would end without a word.
type judge struct {
	allow        []spec.CPUException
	architecture string   // of the base
	models       []string // sorted
}

// id names what the judge goes by: what passed once passes again.
func (j *judge) id() string {
	var text strings.Builder
	for _, e := range j.allow {
		fmt.Fprintf(&text, "%q %q\n", e.Package, e.Path)
	}
	return fmt.Sprintf("%s on %s, rules %s, exceptions %.8x", strings.Join(j.models, " "), j.architecture, cpucheck.Rules(), sha256.Sum256([]byte(text.String())))
}

// layer judges all of a Docker layer.
func (j *judge) layer(ctx context.Context, root *ext4.FS, r *dockerlayer.Record, images []*preload.Image) error {
	var packages []cpucheck.Package
	for _, p := range r.Packages {
		packages = append(packages, cpucheck.Package{Name: p.Name, Files: p.Files})
	}
	targets, err := j.targets(root)
	if err != nil {
		return err
	}
	allow := slices.Clone(j.allow)
	for _, image := range images {
		allow = append(allow, exceptionsOf(image, j.allow)...)
	}
	var sets []cpucheck.Set
	files := cpucheck.OfPackages(root, packages) // of all targets: the root is for one goroutine
	for _, target := range targets {
		sets = append(sets, cpucheck.Set{Target: target, Files: files})
		for _, image := range images {
			sets = append(sets, cpucheck.Set{Target: target.Container(), Files: func(ctx context.Context, visit func(cpucheck.File) error) error {
				return image.Files(ctx, func(path string, size int64, content io.ReaderAt) error {
					return visit(cpucheck.File{From: image.Ref, Path: path, Size: size, Content: content})
				})
			}})
		}
	}
	return j.check(ctx, sets, allow)
}

// exceptionsOf gives the exceptions for a container image that name it in
// another way than the cluster file's list of them does: a file by what is in
// it, a name in full or in short.
func exceptionsOf(image *preload.Image, allow []spec.CPUException) []spec.CPUException {
	names := map[string]bool{}
	for _, name := range image.Names {
		names[name] = true
		names[strings.TrimPrefix(name, "docker.io/")] = true
		names[strings.TrimPrefix(name, "docker.io/library/")] = true
	}
	var more []spec.CPUException
	for _, e := range allow {
		if names[e.Package] && e.Package != image.Ref {
			e.Package = image.Ref
			more = append(more, e)
		}
	}
	return more
}

// entries judges what is laid into one target's image.
func (j *judge) entries(ctx context.Context, root cpucheck.Root, entries []overlays.Entry) error {
	targets, err := j.targets(root)
	if err != nil {
		return err
	}
	var sets []cpucheck.Set
	for _, target := range targets {
		for _, e := range entries {
			if e.Mode.IsRegular() {
				sets = append(sets, cpucheck.Set{Target: target, Files: cpucheck.OfData(e.From, e.Path, e.Content)})
			}
		}
	}
	return j.check(ctx, sets, j.allow)
}

// targets are the processors of the models, in an image with this root.
func (j *judge) targets(root cpucheck.Root) ([]cpu.Target, error) {
	var targets []cpu.Target
	for _, model := range j.models {
		t, err := cpucheck.TargetFor(model, j.architecture, root)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func (j *judge) check(ctx context.Context, sets []cpucheck.Set, allow []spec.CPUException) error {
	if len(sets) == 0 {
		return nil
	}
	report, err := cpucheck.Check(ctx, sets, cpucheck.Options{Allow: allow})
	if err != nil {
		return err
	}
	return report.Err()
}

// dockerFault says whether an error is one of those that the user can mend, by
// what the packages for Docker's sake say.
func dockerFault(err error) bool {
	var (
		archive    *apt.InputError
		wanted     *dependency.InputError
		unknown    *dependency.UnknownPackageError
		impossible *dependency.UnsatisfiableError
		upgrade    *dependency.UpgradeError
		unpacked   *dpkg.InputError
		image      *preload.InputError
		wrongModel *cpucheck.RefusedError
	)
	return errors.As(err, &archive) || errors.As(err, &wanted) || errors.As(err, &unknown) || errors.As(err, &impossible) ||
		errors.As(err, &upgrade) || errors.As(err, &unpacked) || errors.As(err, &image) || errors.As(err, &wrongModel)
}
