package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
)

// A Generation is a root and the top that a slot writes over it.
type Generation struct {
	Root Root `json:"root"`
	// Top numbers the top layer; 0: none was made yet, the next boot does.
	Top uint64 `json:"top,omitempty"`
	// Ready says that a node was seen Ready with it.
	Ready bool `json:"ready,omitempty"`
}

// A State is what a slot boots, now and next. See the package's comment.
type State struct {
	Slot int `json:"slot"`
	Settings
	Current  *Generation `json:"current,omitempty"`
	Next     *Root       `json:"next,omitempty"`
	Previous *Generation `json:"previous,omitempty"`
	// Card is what the node last said that its card holds, as Root.Build; "" where it
	// said nothing.
	Card string `json:"card,omitempty"`
	// Serial is the number of the last top that was made.
	Serial uint64 `json:"serial,omitempty"`
}

const stateFormat = 1

// maxState bounds state.json and the files of the run folder, in bytes.
const maxState = 256 << 10

// stateFile is state.json.
type stateFile struct {
	Format int `json:"format"`
	State
}

func encodeState(st *State) ([]byte, error) {
	if err := st.check(st.Slot); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(stateFile{stateFormat, *st}, "", "\t")
	return append(data, '\n'), err
}

// decodeState reads the state of a slot. Nothing is guessed: what this version
// does not know is an error.
func decodeState(data []byte, slot int) (*State, error) {
	var probe struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &probe); err != nil {
		return nil, err
	}
	if probe.Format != stateFormat {
		return nil, fmt.Errorf("format %d, but only %d is known here", probe.Format, stateFormat)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var f stateFile
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("something follows the state")
	}
	if err := f.State.check(slot); err != nil {
		return nil, err
	}
	return &f.State, nil
}

func (st *State) check(slot int) error {
	if st.Slot != slot || slot < clusterctrl.MinSlot || slot > clusterctrl.MaxSlot {
		return fmt.Errorf("it is of slot %d, not %d", st.Slot, slot)
	}
	if err := st.Settings.check(); err != nil {
		return err
	}
	if err := checkBuild(st.Card); err != nil {
		return err
	}
	for _, r := range st.roots() {
		if err := r.check(); err != nil {
			return err
		}
		if r.Slot != slot {
			return fmt.Errorf("a root of slot %d", r.Slot)
		}
	}
	if st.Current == nil && st.Previous != nil {
		return errors.New("a previous root, but no current one")
	}
	seen := map[uint64]bool{}
	for _, top := range st.tops() {
		if top > st.Serial || seen[top] {
			return fmt.Errorf("impossible top %d", top)
		}
		seen[top] = true
	}
	return nil
}

// generations gives those that are there.
func (st *State) generations() []*Generation {
	var out []*Generation
	for _, g := range []*Generation{st.Current, st.Previous} {
		if g != nil {
			out = append(out, g)
		}
	}
	return out
}

func (st *State) roots() []*Root {
	var out []*Root
	for _, g := range st.generations() {
		out = append(out, &g.Root)
	}
	if st.Next != nil {
		out = append(out, st.Next)
	}
	return out
}

// tops gives the numbers of the tops that the state refers to.
func (st *State) tops() []uint64 {
	var out []uint64
	for _, g := range st.generations() {
		if g.Top != 0 {
			out = append(out, g.Top)
		}
	}
	return out
}

// replace makes g the current generation. What gives way becomes the previous
// one, unless it was never Ready and there is one that may have been.
func (st *State) replace(g *Generation) {
	if st.Current != nil && (st.Current.Ready || st.Previous == nil) {
		st.Previous = st.Current
	}
	st.Current = g
}

// readState gives the state of a slot; a slot that nothing was done to is off.
func (s *Store) readState(slot int) (*State, error) {
	if slot < clusterctrl.MinSlot || slot > clusterctrl.MaxSlot {
		return nil, fmt.Errorf("there is no slot %d", slot)
	}
	path := s.statePath(slot)
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &State{Slot: slot, Settings: Settings{Mode: Off}}, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := decodeState(data, slot)
	if err != nil {
		return nil, &CorruptError{path, -1, fmt.Sprintf("this is not a slot's state (%v): remove the file to begin the slot anew", err)}
	}
	return st, nil
}

// readSmall reads a file of a bounded length.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil && len(data) > maxState {
		err = &CorruptError{path, maxState, "it is longer than any file of its kind"}
	}
	return data, err
}

// writeState makes st the slot's state: durable when it returns.
func (s *Store) writeState(st *State) error {
	data, err := encodeState(st)
	if err != nil {
		return fmt.Errorf("cannot keep the state of p%d: %w", st.Slot, err)
	}
	f, err := atomicfile.Create(s.statePath(st.Slot), 0o600)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := f.Write(data); err != nil {
		return err
	}
	s.step("state is written beside")
	err = f.Commit()
	s.step("state is in its place")
	return err
}
