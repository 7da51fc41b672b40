package operation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
)

// File is the name of the file, in the service's folder, where operations are
// written down.
const File = "operations.json"

// version is the file's; one of a later version is not read.
const version = 1

// maxFile bounds what is read of it, in bytes; remembered is how many operations that
// are over it has.
const (
	maxFile    = 8 << 20
	remembered = 50
)

// maxNotes bounds the notes of a slot, maxText a text that others said, in bytes.
const (
	maxNotes = 16
	maxText  = 512
)

// A record is what outlives the service.
type record struct {
	Version    int          `json:"version"`
	Last       int          `json:"last"`       // the number of the last operation
	Operations []*Operation `json:"operations"` // the oldest first
}

// parseRecord reads the file.
func parseRecord(data []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	if r.Version != version {
		return nil, fmt.Errorf("it has version %d, this program knows version %d", r.Version, version)
	}
	seen := map[string]bool{}
	for _, o := range r.Operations {
		if o == nil || o.ID == "" || seen[o.ID] {
			return nil, errors.New("it has an operation without a name of its own")
		}
		seen[o.ID] = true
		switch o.Request.Kind {
		case Rebuild, Upgrade, Undo:
		default:
			return nil, fmt.Errorf("the operation %.40q is a %.40q, which this program does not know", o.ID, o.Request.Kind)
		}
		switch o.State {
		case Running, Cancelling, Done, Failed, Cancelled:
		default:
			return nil, fmt.Errorf("the operation %.40q is in state %.40q, which this program does not know", o.ID, o.State)
		}
		for i := range o.Slots {
			if !knownStep(o.Slots[i].Step) {
				return nil, fmt.Errorf("the operation %.40q is at a step %.40q, which this program does not know", o.ID, o.Slots[i].Step)
			}
		}
	}
	return r, nil
}

func knownStep(step string) bool {
	return slices.Contains([]string{StepQueued, StepCheck, StepDrain, StepKeep, StepRenew, StepUndo, StepBoot, StepReturn,
		StepHealth, StepWithdraw, StepDone, StepFailed, StepCancelled}, step)
}

// readRecord reads the file of a folder; without one nothing was ever done.
func readRecord(dir string) (*record, error) {
	place := filepath.Join(dir, File)
	f, err := os.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return &record{Version: version}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was being done with the slots: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	var r *record
	if err == nil {
		r, err = parseRecord(data)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was being done with the slots: %s: %w (look with `docker node ls` whether a node is drained that should not be, remove the file, and `sudo systemctl restart hatchery` on the controller)", place, err)
	}
	return r, nil
}

// OnDisk gives what was being done with slots when the service was there last, by slot, for
// who has none to ask. dir is [Options.StateDir]. It changes nothing.
func OnDisk(dir string) (map[int]*enrol.OperationView, error) {
	r, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	views := map[int]*enrol.OperationView{}
	for _, op := range r.Operations {
		for i := range op.Slots {
			if sl := &op.Slots[i]; !op.Over() && !sl.over() {
				views[sl.Slot] = sl.view(op)
			}
		}
	}
	return views, nil
}

// trim forgets the oldest operations that are over.
func (r *record) trim() {
	over := 0
	for _, o := range r.Operations {
		if o.Over() {
			over++
		}
	}
	r.Operations = slices.DeleteFunc(r.Operations, func(o *Operation) bool {
		if !o.Over() || over <= remembered {
			return false
		}
		over--
		return true
	})
}

// find is an operation by its ID, nil if there is none.
func (r *record) find(id string) *Operation {
	for _, o := range r.Operations {
		if o.ID == id {
			return o
		}
	}
	return nil
}

// write changes the record and has that on the disk before it returns; the
// change is made whatever comes of the disk.
func (s *Service) write(change func()) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	change()
	s.record.trim()
	data, err := json.Marshal(s.record)
	s.news()
	s.mu.Unlock()
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(s.o.StateDir, File), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("what is done with the slots cannot be written down: %w (is the controller's card full, or read-only?)", err)
	}
	return nil
}

// news wakes who follows. The caller holds the lock.
func (s *Service) news() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// clone is a copy of an operation, for others than the service.
func (o *Operation) clone() *Operation {
	c := *o
	c.Slots = slices.Clone(o.Slots)
	for i := range c.Slots {
		c.Slots[i].Notes = slices.Clone(c.Slots[i].Notes)
	}
	return &c
}
