package firstboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
)

// StateFile is the name of the file in Options.StateDir.
const StateFile = "state.json"

// Steady is the name that stands for a node whose steps are all done.
const Steady = "steady"

// stateFormat is the format that this agent writes.
const stateFormat = 1

// maxState is more than the state of an agent takes, in bytes.
const maxState = 1 << 20

// maxDetail is how much of a detail is kept, in bytes.
const maxDetail = 1000

// A State is what state.json says: where the node stands, and what was done
// when. Times are by the node's clock as it goes when the file is written, so
// those of this boot are right once the clock is.
type State struct {
	Format       int    `json:"format"`
	Cluster      string `json:"cluster,omitempty"`
	Name         string `json:"name,omitempty"` // controller, p1
	BootID       string `json:"boot_id"`
	AgentVersion string `json:"agent_version"`
	// Step is the one that a person should look at: the first that failed,
	// or else runs, or else waits; Steady when all are done.
	Step    string      `json:"step"`
	State   string      `json:"state"` // enrol.StateRunning and so on
	Detail  string      `json:"detail,omitempty"`
	Since   time.Time   `json:"since"`
	Updated time.Time   `json:"updated"`
	Steps   []StepState `json:"steps"`
}

// A StepState is where a step stands.
type StepState struct {
	Name   string     `json:"name"`
	State  string     `json:"state"`
	Detail string     `json:"detail,omitempty"` // an error's words, where it failed
	Since  time.Time  `json:"since"`
	Tries  int        `json:"tries,omitempty"` // that failed in a row
	Next   *time.Time `json:"next,omitempty"`  // when it is tried again
	// DoneAfter is how long the machine was up when the step was first done
	// in this boot, in seconds. No clock that is set changes it.
	DoneAfter float64 `json:"done_after_s,omitempty"`
	// FirstDone and LastDone are over all boots.
	FirstDone *time.Time `json:"first_done,omitempty"`
	LastDone  *time.Time `json:"last_done,omitempty"`
}

// Of gives the state of a step.
func (s *State) Of(name string) (StepState, bool) {
	for _, step := range s.Steps {
		if step.Name == name {
			return step, true
		}
	}
	return StepState{}, false
}

// done is how many steps are.
func (s *State) done() int {
	n := 0
	for _, step := range s.Steps {
		if step.State == enrol.StateDone {
			n++
		}
	}
	return n
}

// headline sets what stands for the whole.
func (s *State) headline() {
	rank := map[string]int{enrol.StateFailed: 3, enrol.StateRunning: 2, enrol.StateWaiting: 1}
	best := 0
	s.Step, s.State, s.Detail = Steady, enrol.StateDone, ""
	s.Since = time.Time{}
	for _, step := range s.Steps {
		if r := rank[step.State]; r > best {
			best = r
			s.Step, s.State, s.Detail, s.Since = step.Name, step.State, step.Detail, step.Since
		}
		if best == 0 && step.Since.After(s.Since) {
			// The last step that was done says how the node stands.
			s.Since, s.Detail = step.Since, step.Detail
		}
	}
}

// Line is the state in a line, for people.
func (s *State) Line() string {
	line := s.Step + ": " + s.State
	if s.Step == Steady {
		line = Steady
	}
	if s.Detail != "" {
		line += ": " + firstLine(s.Detail)
	}
	return line
}

// ErrState is the error of a state.json that is none.
var ErrState = errors.New("is no state of this agent's")

// ReadState reads the state.json of a folder.
func ReadState(dir string) (*State, error) {
	f, err := os.Open(filepath.Join(dir, StateFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read where the agent stands: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s: %w: it is a folder", f.Name(), ErrState)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read where the agent stands: %w", err)
	}
	s, err := ParseState(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

// ParseState reads the content of a state.json. The error is ErrState.
func ParseState(data []byte) (*State, error) {
	s := new(State)
	if len(data) > maxState {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrState, maxState)
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if s.Format < 1 {
		return nil, fmt.Errorf("%w: no format", ErrState)
	}
	return s, nil
}

// Marshal is the file's content.
func (s *State) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(s)
	return b.Bytes(), err
}

// recall reads what an earlier run left. A file that cannot be read is set
// aside, where a person finds it; the error says so, and the agent starts
// with nothing, since all that it does it checks first.
func recall(dir string) (*State, error) {
	s, err := ReadState(dir)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, fs.ErrNotExist):
		return &State{}, nil
	case !errors.Is(err, ErrState):
		return &State{}, err
	}
	place := filepath.Join(dir, StateFile)
	aside := place + ".broken"
	// A folder gives way to no file, and a file to no folder: what was set
	// aside before is older.
	rerr := os.RemoveAll(aside)
	if rerr == nil {
		rerr = os.Rename(place, aside)
	}
	if rerr != nil {
		return &State{}, fmt.Errorf("%w; cannot set it aside: %w", err, rerr)
	}
	return &State{}, fmt.Errorf("%w; set aside as %s", err, aside)
}

// store writes the newest state it was given; older ones that it did not come
// to are dropped. It ends when states is closed, with the last one written.
func store(dir string, states <-chan *State, failed func(error)) {
	told := ""
	for s := range states {
		data, err := s.Marshal()
		if err == nil {
			// Anyone on the node may look where it stands.
			err = atomicfile.WriteBytes(filepath.Join(dir, StateFile), data, 0o644)
		}
		switch {
		case err == nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			failed(err)
		}
	}
}

// offer puts a state in a channel with room for one, in place of the one that
// nobody took yet. Only one goroutine offers.
func offer(c chan *State, s *State) {
	select {
	case <-c:
	default:
	}
	c <- s
}

// tidy makes what somebody said fit for state.json and a journal.
func tidy(said string) string { return hearsay.Text(said, maxDetail) }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// gist is a text without its digits.
func gist(text string) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, text)
}
