package imagebuilder

import (
	"fmt"

	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/overlays"
)

// stamp has an image say what it is: its agent tells the controller, which so knows what
// a card holds that was flashed by hand. It is called last. The digest of the layer cannot
// stand in the layer, but that of all else in it can.
func (b *targetBuild) stamp(l *layer.Layer) error {
	content, err := l.Content()
	if err != nil {
		return err
	}
	b.build = content.Encoded()
	p := b.edits.table.Partition(parttable.Root)
	root, err := ext4.Open(p.Device(l), p.Size)
	if err == nil {
		root.SetTime(b.epoch)
		err = lay(root, stampEntry(b.build), b.epoch)
	}
	if err == nil {
		err = root.Flush()
	}
	if err != nil {
		return fmt.Errorf("cannot write into the image what it is: %w", err)
	}
	return nil
}

// stampEntry is the file that says it.
func stampEntry(build string) overlays.Entry {
	return overlays.Entry{Path: nodefile.BuildFile, Mode: 0o644, Content: []byte(build + "\n"), From: "hatchery's own, of what was built"}
}
