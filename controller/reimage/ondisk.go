package reimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Folder is the service's folder, of the controller's state: [Options.Dir].
const Folder = "cards"

// OnDisk gives which cards were being written when the service was there last, for who
// has none to ask. dir is [Options.Dir]. It changes nothing; where the records cannot be
// read, nobody knows.
func OnDisk(dir string) (map[int]*View, error) {
	place := filepath.Join(dir, recordsFile)
	views := map[int]*View{}
	info, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return views, nil
	}
	if err == nil && info.Size() > largestFile {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(place)
	}
	var records map[int]*record
	if err == nil {
		records, err = decodeRecords(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s does not say which cards are being written: %w", place, err)
	}
	for slot, r := range records {
		views[slot] = &View{Operation: r.Operation, Phase: r.Phase, Root: r.Root, Undo: r.Undo, Since: r.Since, Revived: r.Revived}
	}
	return views, nil
}
