package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/spec"
)

// A flashJob is one card to be written.
type flashJob struct {
	name     string // the target's, or the image file's
	hostname string
	cluster  string
	built    *imagebuilder.TargetManifest // nil: an image file
	open     func(ctx context.Context, f *flashing) (*flashSource, error)
}

// label is what a card is called.
func (j *flashJob) label() string {
	if j.hostname == "" || j.hostname == j.name {
		return j.name
	}
	return fmt.Sprintf("%s (%s)", j.name, j.hostname)
}

// A flashSource is what is written, opened.
type flashSource struct {
	flash.Source
	from     string   // for people: out/p1.img, or the layers
	files    []string // which must not be written over
	grow     bool     // an image of hatchery's: its node grows into its partition
	warnings []string
	close    func() error
}

// mapped is how many bytes reach the card.
func (s *flashSource) mapped() int64 {
	m := s.Map()
	var n int64
	for _, r := range m.Ranges {
		_, length := m.Bytes(r)
		n += length
	}
	return n
}

// jobs are the cards that the words on the command line ask for.
func (f *flashing) jobs(context.Context) ([]*flashJob, []string, error) {
	if len(f.targets) == 1 {
		if word := f.targets[0]; looksLikeFile(word) {
			return []*flashJob{fileJob(word)}, nil, nil
		}
	}
	for _, word := range f.targets {
		if looksLikeFile(word) {
			return nil, nil, usageError{fmt.Errorf("%s is an image file, and there is one at a time: targets (controller, p1, …) can be several", word)}
		}
	}
	if f.image.BlockMap != "" || f.image.NoBlockMap {
		return nil, nil, usageError{errors.New("--bmap and --no-bmap are for an image file: targets need none")}
	}
	cluster, err := spec.Load(f.file)
	if err != nil {
		return nil, nil, err
	}
	targets, err := cluster.Select(f.targets)
	if err != nil {
		return nil, nil, err
	}
	if len(f.targets) > 0 { // as they were typed, since somebody changes the cards
		byName := map[string]spec.Target{}
		for _, t := range targets {
			byName[t.Name] = t
		}
		targets = targets[:0]
		for _, name := range f.targets {
			if t, ok := byName[name]; ok {
				targets = append(targets, t)
				delete(byName, name)
			}
		}
	}
	targets, cardless, err := withCards(targets, len(f.targets) > 0)
	if err != nil {
		return nil, nil, err
	}
	built, err := readBuilt(cluster, f.out)
	if err != nil {
		return nil, nil, err
	}
	var jobs []*flashJob
	var missing, old, warnings []string
	for _, t := range targets {
		entry := built.target(t.Name)
		job := &flashJob{name: t.Name, hostname: t.Hostname, cluster: cluster.Name}
		if entry != nil {
			job.hostname = entry.Hostname
		}
		layer, image := built.layer(entry), built.imageFile(t.Name)
		newest := layer
		if newest == "" {
			newest = image
		}
		if newest == "" {
			missing = append(missing, t.Name)
			continue
		}
		if layer != "" && image != "" && len(built.doubts(t.Name, image, nil)) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s was written to since it was built: what was built is flashed, not that (`hatchery flash %s` flashes the file)", image, shellWord(filePath(image))))
		}
		if built.before(t.Name, newest, cluster.File, filepath.Join(cluster.Dir(), lockName)) {
			old = append(old, t.Name)
		}
		job.built = entry
		job.open = targetSource(layer, image)
		jobs = append(jobs, job)
	}
	if len(missing) > 0 {
		return nil, nil, notBuilt(cluster, f.out, missing)
	}
	if len(cardless) > 0 {
		warnings = append(warnings, fmt.Sprintf("left out, to boot from the controller (root: netboot or ephemeral): %s; `%s` brings the images there", enumerate(cardless), onTargets("push", cluster, f.out, cardless)))
	}
	return jobs, append(warnings, outOfDate(cluster, f.out, old)...), nil
}

// withCards are the targets that have cards, and the names of the others. It is a mistake
// to name one of those: a Zero boots from a card that is in it, whatever it was built for.
func withCards(targets []spec.Target, named bool) (with []spec.Target, cardless []string, err error) {
	for _, t := range targets {
		if !t.Cardless() {
			with = append(with, t)
			continue
		}
		if named {
			return nil, nil, usageError{fmt.Errorf("%s has no card: it is to boot from the controller (root: %s), and would boot a card that is in it instead. `hatchery push %[1]s` brings its image there; for a card, take root: %[2]s out of cluster.yaml and build it again", t.Name, t.Root)}
		}
		cardless = append(cardless, t.Name)
	}
	return with, cardless, nil
}

// looksLikeFile tells an image's file from a target's name.
func looksLikeFile(word string) bool {
	if strings.ContainsAny(word, `/\.`) {
		return true
	}
	if _, err := clusterctrl.ParseSlot(word); err == nil {
		return false
	}
	if _, ok := spec.ParseController(word); ok {
		return false
	}
	return isFile(word)
}

// filePath is a file's name that nobody takes for a target's.
func filePath(name string) string {
	if looksLikeFile(name) {
		return name
	}
	return "." + string(filepath.Separator) + name
}

// targetSource opens what was built of a target: base and layers, else the
// image, where the base is not at hand any more.
func targetSource(layer, image string) func(context.Context, *flashing) (*flashSource, error) {
	return func(ctx context.Context, f *flashing) (*flashSource, error) {
		if layer == "" {
			return imageSource(ctx, image, f)
		}
		opened, err := imagebuilder.OpenImage(ctx, layer, f.images)
		if err != nil {
			if image != "" && ctx.Err() == nil {
				s, imageErr := imageSource(ctx, image, f)
				if imageErr == nil {
					s.warnings = append(s.warnings, fmt.Sprintf("%s is flashed, since its layers cannot be: %v", image, err))
					return s, nil
				}
			}
			return nil, err
		}
		source, err := opened.CardSource(ctx, f.images.Progress)
		if err != nil {
			opened.Close()
			return nil, err
		}
		s := &flashSource{Source: source, from: here(layer), grow: true, close: opened.Close}
		parts := opened.Parts()
		s.files = append(s.files, parts.Raw, image)
		for _, l := range parts.Layers.Layers {
			s.files = append(s.files, l.Path())
		}
		return s, nil
	}
}

func fileJob(path string) *flashJob {
	return &flashJob{name: filepath.Base(path), open: func(ctx context.Context, f *flashing) (*flashSource, error) {
		return imageSource(ctx, path, f)
	}}
}

// imageSource opens an image file. One of hatchery's own is grown to its card;
// others grow themselves, or do not want to.
func imageSource(ctx context.Context, path string, f *flashing) (*flashSource, error) {
	image, err := imagefile.Open(ctx, path, f.image)
	if err != nil {
		return nil, err
	}
	return &flashSource{Source: image, from: here(path), files: []string{path}, grow: isOurs(ctx, path, f), warnings: image.Warnings(), close: image.Close}, nil
}

// isOurs says whether an image that can be looked into without unpacking it is
// one that hatchery built.
func isOurs(ctx context.Context, path string, f *flashing) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false
	}
	holding, err := flash.Inspect(ctx, fileCard{file, info.Size()})
	return err == nil && holding.Kind == flash.Hatchery
}
