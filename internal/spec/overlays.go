package spec

import (
	"os"
	"strings"

	"hatchery/internal/clusterctrl"
)

// overlayTrees are the folders of an overlay that are known by name, besides
// those of single targets: p1, controller2. Whether the cluster has these, the build
// sees.
var overlayTrees = []string{"common", "controller", "node"}

func (d *decoder) overlays(items []item) []string {
	var folders []string
	for _, it := range items {
		path, err := d.resolvePath(it.text)
		if err != nil {
			d.problem(it, "%s", err)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			info, statErr := os.Stat(path)
			switch {
			case os.IsNotExist(err):
				d.problem(it, "the folder %s does not exist%s", quote(it.text), d.relativeTo(it.text))
			case statErr == nil && !info.IsDir():
				d.problem(it, "%s is %s, not a folder", quote(it.text), fileKind(info.Mode()))
			default:
				d.problem(it, "the folder %s cannot be read: %s", quote(it.text), reason(err))
			}
			continue
		}
		d.checkOverlay(it, entries)
		folders = append(folders, path)
	}
	return folders
}

// checkOverlay finds folders that would be passed over in silence, above all
// an etc/ that was meant to lie in common/.
func (d *decoder) checkOverlay(it item, entries []os.DirEntry) {
	trees := 0
	for _, e := range entries {
		name := e.Name()
		_, err := clusterctrl.ParseSlot(name)
		_, controller := ParseController(name)
		switch {
		case strings.HasPrefix(name, ".") || !e.IsDir() && e.Type()&os.ModeSymlink == 0:
		case err == nil || controller || contains(overlayTrees, name):
			trees++
		default:
			d.problem(it, "the folder %s in it would go to no node: files for all nodes lie in common/, for some in controller/, node/ or p1/ …%s",
				quote(name), didYouMean(name, overlayTrees))
			trees++
		}
	}
	if trees == 0 {
		d.problem(it, "the folder %s holds none of common/, controller/, node/ and p1/ …, so nothing of it would go to a node", quote(it.text))
	}
}
