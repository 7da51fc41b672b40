package workload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
)

// Round makes one pass, as Run does.
func (s *Service) Round(ctx context.Context) error { return s.round(ctx) }

// Rewritten reads a record, writes it as passes do, and reads that: what is on the disk
// then, if it says what was read.
func Rewritten(dir string, data []byte) ([]byte, error) {
	r, err := parseRecord(data)
	if err != nil {
		return nil, err
	}
	if err := r.write(dir); err != nil {
		panic(err)
	}
	again, err := readRecord(dir)
	if err != nil {
		panic(err)
	}
	if r.AppliedAt != nil { // which keeps more than it writes: its zone's name
		at := r.AppliedAt.Round(0)
		if again.AppliedAt == nil || !again.AppliedAt.Equal(at) {
			panic(fmt.Sprintf("%v became %v", r.AppliedAt, again.AppliedAt))
		}
		again.AppliedAt = r.AppliedAt
	}
	if !reflect.DeepEqual(r, again) {
		panic(fmt.Sprintf("%+v became %+v", r, again))
	}
	return os.ReadFile(filepath.Join(dir, File))
}

// RegistryOf is the registry of an image.
var RegistryOf = registryOf
