package imagebuilder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/goccy/go-yaml"

	"hatchery/internal/atomicfile"
)

// lockName is the name of the file beside cluster.yaml that records what the
// cluster's images were made of and when, so that equal inputs give
// byte-equal images on any day and any workstation.
const lockName = "cluster.lock"

const lockHeading = `# Made by hatchery; keep it with cluster.yaml. The epoch (seconds since 1970) is
# every timestamp in the images: with it, equal inputs give byte-equal images.
`

type clusterLock struct {
	Epoch string `yaml:"epoch"`
}

// epochEnd is past the last moment that every file system in an image can
// write down: FAT's dates end with 2107.
const epochEnd = 4354819200

func parseEpoch(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds >= epochEnd {
		return time.Time{}, fmt.Errorf("is %q: it must be a whole number of seconds since 1970, before the year 2108", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// buildEpoch is the one moment that every timestamp in the images shows:
// SOURCE_DATE_EPOCH where it is set, else what cluster.lock in dir says, else
// now, which is then locked.
func buildEpoch(dir string, now time.Time) (time.Time, error) {
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		epoch, err := parseEpoch(s)
		if err != nil {
			return time.Time{}, &InputError{fmt.Errorf("SOURCE_DATE_EPOCH %w", err)}
		}
		return epoch, nil
	}
	place := filepath.Join(dir, lockName)
	epoch, err := readLock(place)
	if !errors.Is(err, fs.ErrNotExist) {
		return epoch, err
	}
	text := fmt.Sprintf("%sepoch: %d\n", lockHeading, now.Unix())
	err = atomicfile.CreateOnce(place, []byte(text), 0o644)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return time.Time{}, fmt.Errorf("cannot record the build's epoch: %w", err)
	}
	// A build beside this one may have been first: its epoch counts.
	return readLock(place)
}

func readLock(place string) (time.Time, error) {
	data, err := os.ReadFile(place)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read %s: %w", lockName, err)
	}
	const remedy = "restore it from your version control, or remove it to lock anew"
	var lock clusterLock
	if err := yaml.UnmarshalWithOptions(data, &lock, yaml.Strict()); err != nil {
		return time.Time{}, &InputError{fmt.Errorf("%s: %w\n%s", place, err, remedy)}
	}
	epoch, err := parseEpoch(lock.Epoch)
	if err != nil {
		return time.Time{}, &InputError{fmt.Errorf("%s: epoch %w; %s", place, err, remedy)}
	}
	return epoch, nil
}
