package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
)

// File is the name, in nodefile.RunDir, of what the controller's agent found of its
// own machine: an [enrol.Health] as JSON. The controller reports to nobody, so its
// service reads it there.
const File = "health.json"

// LookEvery is how often it is written, changed or not.
const LookEvery = time.Minute

// maxFile is the most that is read of it, in bytes.
const maxFile = 64 << 10

// Write puts it where a service reads it, whole.
func Write(path string, h *enrol.Health) error {
	data, err := json.Marshal(h)
	if err == nil {
		err = atomicfile.WriteBytes(path, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot tell the service what was found of this machine: %w", err)
	}
	return nil
}

// Read gives what the agent found, and when that was. fs.ErrNotExist says that it has
// not looked since the machine was switched on.
func Read(path string) (h *enrol.Health, looked time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err == nil && h == nil {
		err = errors.New("it says nothing")
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot read what the agent found of this machine, in %s: %w", path, err)
	}
	return h, info.ModTime(), nil
}
