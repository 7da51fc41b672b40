package overlays

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"hatchery/internal/clusterctrl"
)

// UserTrees are the trees of the user's own folders for a target, in the
// order in which they are laid: of each folder those subfolders that are
// there, common, then the role's (controller or node), then the target's own
// (p2, or controller2 where there are several controllers: controller is all of
// theirs). name is the target's name, "controller" or "p2", and targets are the
// names of all of the cluster's. A folder that does not exist is an error, and so
// is whatever in it would go to none of the targets: it is a typing mistake.
// READMEs and hidden files (.git) may lie beside the subfolders.
func UserTrees(folders []string, name string, targets []string) ([]Tree, error) {
	role := "node"
	if _, err := clusterctrl.ParseSlot(name); err != nil {
		role = "controller" // whichever
	}
	wanted := []string{"common", role}
	if name != role {
		wanted = append(wanted, name)
	}
	var trees []Tree
	var errs []error
	for _, folder := range folders {
		if err := checkUserFolder(folder, targets); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, sub := range wanted {
			dir := filepath.Join(folder, sub)
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				errs = append(errs, fmt.Errorf("cannot read overlay folder: %w", err))
				continue
			}
			trees = append(trees, Tree{Name: filepath.ToSlash(dir), FS: os.DirFS(dir), private: runtime.GOOS != "windows"})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return trees, nil
}

// checkUserFolder refuses what lies beside the subfolders of the targets: it
// would go nowhere, silently.
func checkUserFolder(folder string, targets []string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("cannot read overlay folder: %w", err)
	}
	known := append([]string{"common", "node"}, targets...)
	if !slices.Contains(known, "controller") {
		known = append(known, "controller")
	}
	slices.SortFunc(known, byName)
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("overlay folder %s: "+format, append([]any{folder}, args...)...))
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		info, err := os.Stat(filepath.Join(folder, name))
		switch {
		case err != nil && e.Type()&fs.ModeSymlink != 0:
			fail("%s is a link that leads nowhere: %w", name, err)
		case err != nil:
			fail("%w", err)
		case info.IsDir() && !slices.Contains(known, name):
			fail("%s is none of %s", name, strings.Join(known, ", "))
		case !info.IsDir() && slices.Contains(known, name):
			fail("%s is no folder", name)
		case !info.IsDir() && !strings.HasPrefix(name, "README"):
			fail("%s lies in none of the subfolders %s, so it would go into no image", name, strings.Join(known, ", "))
		}
	}
	return errors.Join(errs...)
}

// byName puts the slots after the rest, by number.
func byName(a, b string) int {
	m, _ := clusterctrl.ParseSlot(a) // 0 for what is none
	n, _ := clusterctrl.ParseSlot(b)
	return cmp.Or(cmp.Compare(m, n), cmp.Compare(a, b))
}
