package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/declared"
)

// Files of the service's folder: what was done, and what was declared after the image
// was built.
const (
	File         = "workloads.json"
	DeclaredFile = "workloads-declared.json"
)

const recordVersion = 1

// maxRecord bounds what is read of the record, in bytes.
const maxRecord = 8 << 20

// A record is what outlives the service. The swarm is asked for all else.
type record struct {
	Version int    `json:"version"`
	Swarm   string `json:"swarm,omitempty"` // the ID of the swarm that it is about
	// Applied is the digest of what was last applied whole, and when.
	Applied   string     `json:"applied,omitempty"`
	AppliedAt *time.Time `json:"applied_at,omitempty"`
	// Begun is what was asked for and is not done yet.
	Begun *Request `json:"begun,omitempty"`
	// Current has the swarm's names of secrets and configs, by kind and name.
	Current map[string]string `json:"current,omitempty"`
	// Services is what the swarm made of the services, by their IDs.
	Services map[string]made `json:"services,omitempty"`
}

// made is what the swarm made of a service that was asked for: it fills in what was
// left open. What it has later and is another was changed by somebody.
type made struct {
	Asked string `json:"asked"` // LabelDigest
	Has   string `json:"has"`   // digest of all of it
}

func (r *record) clone() *record {
	c := *r
	c.Current, c.Services = maps.Clone(r.Current), maps.Clone(r.Services)
	if c.Current == nil {
		c.Current = map[string]string{}
	}
	if c.Services == nil {
		c.Services = map[string]made{}
	}
	return &c
}

func parseRecord(data []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("it has version %d, this program knows version %d", r.Version, recordVersion)
	}
	return r.clone(), nil
}

// readRecord reads the record; without one nothing was ever done.
func readRecord(dir string) (*record, error) {
	place := filepath.Join(dir, File)
	data, err := readFile(place, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return (&record{Version: recordVersion}).clone(), nil
	}
	var r *record
	if err == nil {
		r, err = parseRecord(data)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what runs already: %s: %w (remove the file: the swarm tells most of it)", place, err)
	}
	return r, nil
}

func readFile(place string, most int64) ([]byte, error) {
	f, err := os.Open(place)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return data, err
}

// write has the record on the disk before it returns.
func (r *record) write(dir string) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(dir, File), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("what runs cannot be written down: %w (is the controller's card full, or read-only?)", err)
	}
	return nil
}

// put is what was declared after the image was built. It holds as long as the image
// is the one that it was put over.
type put struct {
	Over     string          `json:"over"` // the digest of the image's file, "" for none
	Declared json.RawMessage `json:"declared"`
}

// readDeclared gives what is declared, nil for nothing, and what the image has of it.
func readDeclared(image, dir string) (w *declared.Workloads, over string, err error) {
	data, err := readFile(image, declared.MaxSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, "", fmt.Errorf("cannot read what is to run: %s: %w", image, err)
	default:
		over = digestOf(data)
	}
	later, err := readFile(filepath.Join(dir, DeclaredFile), 2*declared.MaxSize)
	if err == nil {
		var p put
		if err = json.Unmarshal(later, &p); err == nil && p.Over == over {
			w, err = declared.Parse(p.Declared)
			if err == nil {
				return w, over, nil
			}
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, over, fmt.Errorf("cannot read what is to run: %s: %w (say `hatchery workloads apply` again)", filepath.Join(dir, DeclaredFile), err)
	}
	if over == "" {
		return nil, "", nil
	}
	if w, err = declared.Parse(data); err != nil {
		return nil, over, fmt.Errorf("%s: %w (build the controller's image again, or say `hatchery workloads apply`)", image, err)
	}
	return w, over, nil
}

func writeDeclared(dir, over string, w *declared.Workloads) error {
	text, err := w.Marshal()
	if err == nil {
		text, err = json.Marshal(put{over, text})
	}
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(dir, DeclaredFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("what is to run cannot be kept: %w", err)
	}
	return nil
}
