package drive

import "context"

// LinuxList and its like see the tree below root in place of this machine's.
func LinuxList(ctx context.Context, root string) ([]Drive, error) { return linux{root}.list(ctx) }

func LinuxFind(ctx context.Context, root, path string) (Drive, error) {
	return linux{root}.find(ctx, path)
}

func LinuxNumbered(root, path, number string) (Drive, error) {
	t, err := linux{root}.table()
	if err != nil {
		return Drive{}, err
	}
	return t.numbered(path, number)
}

// ParseMounts gives "number place kind source" of each mount.
func ParseMounts(text string) (all [][4]string) {
	for _, m := range parseMountinfo(text) {
		all = append(all, [4]string{m.number, m.place, m.kind, m.source})
	}
	return all
}

// Layers gives the folders of the overlays among mounts, and looks what hides each.
func Layers(text string) (all []string) {
	mounts := parseMountinfo(text)
	for _, m := range mounts {
		over(mounts, m)
		all = append(all, m.layers()...)
	}
	return all
}

var (
	ParseSwaps = parseSwaps
	Quoted     = quoted
)
