package imagebuilder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hatchery/internal/atomicfile"
)

// A card that was flashed by hand holds a build that the controller need not have. Which
// one is noted beside the layers, and later builds keep its layers: without them nobody
// could give the slot back what it had (`hatchery push --flashed`).

const flashedSuffix = ".flashed.json"

func flashedPath(out, target string) string {
	return filepath.Join((&outDir{path: out}).layers(), target+flashedSuffix)
}

// NoteFlashed notes in an output folder with what a target's card was flashed, in the
// place of what was noted before.
func NoteFlashed(out string, t *TargetManifest) error {
	note := *t
	note.Files, note.Removed, note.Packages = nil, nil, nil // which nobody asks about
	data, err := json.Marshal(&note)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(flashedPath(out, t.Target), data, 0o600); err != nil {
		return fmt.Errorf("cannot note with what %s's card was flashed: %w", t.Target, err)
	}
	return nil
}

// ReadFlashed gives with what a target's card was last flashed from an output folder. The
// error is fs.ErrNotExist's where it never was, or nobody noted it.
func ReadFlashed(out, target string) (*TargetManifest, error) {
	path := flashedPath(out, target)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var t TargetManifest
	if err := json.Unmarshal(data, &t); err != nil || t.Target != target || len(t.Layers) == 0 {
		return nil, fmt.Errorf("%s is damaged, and says no more with what the card was flashed: %w", path, fs.ErrNotExist)
	}
	return &t, nil
}

// flashed are the files of the layers with which the targets' cards were flashed.
func (o *outDir) flashed() (map[string]bool, error) {
	entries, err := os.ReadDir(o.layers())
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, e := range entries {
		target, is := strings.CutSuffix(e.Name(), flashedSuffix)
		if !is {
			continue
		}
		t, err := ReadFlashed(o.path, target)
		if errors.Is(err, fs.ErrNotExist) {
			continue // damaged: it names nothing
		}
		if err != nil {
			return nil, err
		}
		for _, l := range t.Layers {
			keep[filepath.Join(o.path, filepath.FromSlash(l.File))] = true
		}
	}
	return keep, nil
}
