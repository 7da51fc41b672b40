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
	Epoch int64 `yaml:"epoch"`
}

// buildEpoch is the one moment that every timestamp in the images shows:
// SOURCE_DATE_EPOCH where it is set, else what cluster.lock in dir says, else now, which is then locked.
func buildEpoch(dir string, now time.Time) (time.Time, error) {
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		seconds, err := strconv.ParseInt(s, 10, 64)
		if err != nil || seconds < 0 {
			return time.Time{}, &InputError{fmt.Errorf("SOURCE_DATE_EPOCH is %q: it must be a number of seconds since 1970", s)}
		}
		return time.Unix(seconds, 0).UTC(), nil
	}
	place := filepath.Join(dir, lockName)
	data, err := os.ReadFile(place)
	if errors.Is(err, fs.ErrNotExist) {
		lock := clusterLock{Epoch: now.Unix()}
		text := fmt.Sprintf("%sepoch: %d\n", lockHeading, lock.Epoch)
		if err := atomicfile.WriteBytes(place, []byte(text), 0o644); err != nil {
			return time.Time{}, fmt.Errorf("cannot record the build's epoch: %w", err)
		}
		return time.Unix(lock.Epoch, 0).UTC(), nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read %s: %w", lockName, err)
	}
	var lock clusterLock
	if err := yaml.UnmarshalWithOptions(data, &lock, yaml.Strict()); err != nil {
		return time.Time{}, &InputError{fmt.Errorf("%s: %w\nRestore it from your version control, or remove it to lock anew", place, err)}
	}
	if lock.Epoch <= 0 {
		return time.Time{}, &InputError{fmt.Errorf("%s: no epoch in it; restore it from your version control, or remove it to lock anew", place)}
	}
	return time.Unix(lock.Epoch, 0).UTC(), nil
}
