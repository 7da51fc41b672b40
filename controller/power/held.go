package power

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/filelock"
	"hatchery/internal/progress"
)

// held is the file of the slots that somebody switched off by hand. The service
// and, where none runs, the command line write it.
type held struct{ path, lock string }

// heldName and runName are the files' names, of StateDir and RunDir.
const (
	heldName = "power.json"
	runName  = "power.json"
)

// largest is more than a file of 252 slots has, in bytes.
const largest = 64 << 10

// list gives the slots, in order. A file that is damaged is an error, and none.
func (h held) list() ([]int, error) {
	text, err := readFile(h.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slots, err := parseHeld(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (what was switched off by hand is forgotten; switch it off again)", h.path, err)
	}
	return slots, nil
}

func parseHeld(text []byte) ([]int, error) {
	var file struct {
		Off []string `json:"off"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	var slots []int
	for _, name := range file.Off {
		n, err := clusterctrl.ParseSlot(name)
		if err != nil {
			return nil, fmt.Errorf("it is damaged: %w", err)
		}
		slots = append(slots, n)
	}
	slices.Sort(slots)
	return slices.Compact(slots), nil
}

// set has a slot in the file, or not, and says whether it was.
func (h held) set(ctx context.Context, slot int, off bool) (was bool, err error) {
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{{filepath.Dir(h.path), 0o700}, {filepath.Dir(h.lock), 0o755}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return false, fmt.Errorf("cannot keep what is switched off: %w", err)
		}
	}
	unlock, err := filelock.Lock(ctx, h.lock, "waiting for who else switches slots", progress.Discard)
	if err != nil {
		return false, err
	}
	defer unlock()
	slots, err := h.list()
	damaged := err != nil && slots == nil
	was = slices.Contains(slots, slot)
	if was == off && !damaged {
		return was, nil
	}
	slots = slices.DeleteFunc(slots, func(n int) bool { return n == slot })
	if off {
		slots = append(slots, slot)
		slices.Sort(slots)
	}
	names := []string{}
	for _, n := range slots {
		names = append(names, clusterctrl.SlotName(n))
	}
	text, err := json.Marshal(map[string][]string{"off": names})
	if err != nil {
		return was, err
	}
	if err := atomicfile.WriteBytes(h.path, append(text, '\n'), 0o600); err != nil {
		return was, fmt.Errorf("cannot keep what is switched off: %w", err)
	}
	return was, nil
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if len(text) > largest {
		return nil, fmt.Errorf("%s has more than %d bytes: it is none of this program's", path, largest)
	}
	return text, nil
}

// A mark is what was done since the controller booted; it goes with the power.
type mark struct {
	// Sequenced are the slots that were looked at when the controller had booted.
	Sequenced []int `json:"sequenced,omitempty"`
	// Owed are off for a moment, and are to be switched on again.
	Owed  []int          `json:"owed,omitempty"`
	Slots map[int]marked `json:"slots,omitempty"`
}

type marked struct {
	WasReady bool `json:"was_ready,omitempty"`
	Cycles   int  `json:"cycles,omitempty"`
	GivenUp  bool `json:"given_up,omitempty"`
}

// readMark gives an empty mark where there is none yet.
func readMark(path string) (mark, error) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, err
	}
	return parseMark(text)
}

func parseMark(text []byte) (mark, error) {
	var m mark
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&m); err != nil {
		return mark{}, fmt.Errorf("what was done since the boot is forgotten: %w", err)
	}
	return m, nil
}

func (m mark) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot take down what was switched: %w", err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(path, text, 0o600); err != nil {
		return fmt.Errorf("cannot take down what was switched: %w", err)
	}
	return nil
}
