package overlays

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hatchery/internal/clusterctrl"
)

// UserTrees are the trees of the user's own folders for a target, in the
// order in which they are laid: of each folder those subfolders that are
// there, common, then the role's (controller or node), then the slot's (p2).
// name is the target's name, "controller" or "p2". A folder that does not
// exist, or that has none of a target's subfolders nor any other target's, is
// an error: it is a typing mistake.
func UserTrees(folders []string, name string) ([]Tree, error) {
	role := "node"
	if name == "controller" {
		role = "controller"
	}
	wanted := []string{"common", role}
	if name != role {
		wanted = append(wanted, name)
	}
	var trees []Tree
	var errs []error
	for _, folder := range folders {
		if err := checkUserFolder(folder); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, sub := range wanted {
			dir := filepath.Join(folder, sub)
			if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				errs = append(errs, fmt.Errorf("cannot read overlay folder: %w", err))
				continue
			} else if !info.IsDir() {
				errs = append(errs, fmt.Errorf("overlay folder %s is no folder", dir))
				continue
			}
			trees = append(trees, Tree{Name: filepath.ToSlash(dir), FS: os.DirFS(dir)})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return trees, nil
}

// checkUserFolder refuses what lies beside the subfolders: a tree laid
// straight into the folder would go nowhere, silently.
func checkUserFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("cannot read overlay folder: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && !isTarget(e.Name()) {
			errs = append(errs, fmt.Errorf("overlay folder %s: %s is none of common, controller, node, p1 to p252", folder, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// isTarget says whether a name is that of a subfolder of a user's folder.
func isTarget(name string) bool {
	switch name {
	case "common", "controller", "node":
		return true
	}
	_, err := clusterctrl.ParseSlot(name)
	return err == nil
}
