package imagebuilder

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/ext4"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/overlays"
)

// stamp has an image say what it is: its agent tells the controller, which so knows what
// a card holds that was flashed by hand. It is called last. The digest of the layer cannot
// stand in the layer, but that of all else in it can: content gives that.
func (e *edits) stamp(d device, content func() (digest.Digest, error), epoch time.Time) (build string, err error) {
	all, err := content()
	if err != nil {
		return "", err
	}
	build = all.Encoded()
	p := e.table.Partition(parttable.Root)
	root, err := ext4.Open(p.Device(d), p.Size)
	if err == nil {
		root.SetTime(epoch)
		err = lay(root, stampEntry(build), epoch)
	}
	if err == nil {
		err = root.Flush()
	}
	if err != nil {
		return "", fmt.Errorf("cannot write into the image what it is: %w", err)
	}
	return build, nil
}

// stampEntry is the file that says it.
func stampEntry(build string) overlays.Entry {
	return overlays.Entry{Path: nodefile.BuildFile, Mode: 0o644, Content: []byte(build + "\n"), From: "hatchery's own, of what was built"}
}
