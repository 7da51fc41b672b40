package preserve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
)

// Plan says what would be kept of this node. It counts all of it.
func (k *Keeper) Plan(ctx context.Context) (*kept.Plan, error) {
	m, err := k.mark()
	if err != nil {
		return nil, err
	}
	p := &kept.Plan{Roots: []kept.Root{}, Fresh: m == nil || m.Digest != "" && !m.Told}
	device, err := deviceOf(k.o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot see which file system the root is: %w", err)
	}
	leave := func(name, why string) {
		if len(p.Left) < kept.MaxLeft {
			p.Left = append(p.Left, kept.Left{Name: name, Why: why})
		}
	}
	roots, err := k.candidates(leave)
	if err != nil {
		return nil, err
	}
	for _, r := range roots {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		why, err := k.unfit(r, device)
		if err != nil {
			return nil, fmt.Errorf("cannot look at %s: %w", r, err)
		}
		if why == missing {
			continue
		}
		if why != "" {
			leave(r.String(), why)
			continue
		}
		c := &packer{ctx: ctx, left: leave}
		if err := c.root(r, k.place(r)); err != nil {
			return nil, fmt.Errorf("cannot look through %s: %w", r, err)
		}
		r.Bytes, r.Files = c.bytes, c.files
		if len(p.Roots) == kept.MaxRoots {
			return nil, fmt.Errorf("there are more than %d volumes and paths: remove those that nobody needs (docker volume prune)", kept.MaxRoots)
		}
		p.Roots = append(p.Roots, r)
		p.Bytes += r.Bytes
		p.Files += r.Files
	}
	if len(p.Roots) > 0 {
		p.Users, p.Unknown = k.users(ctx, p.Roots)
	}
	return p, nil
}

// candidates are what node.json has kept, volumes by volume.
func (k *Keeper) candidates(leave func(name, why string)) ([]kept.Root, error) {
	var all []kept.Root
	for _, name := range slices.Sorted(slices.Values(k.o.Node.Keep)) {
		if name == nodefile.KeepVolumes {
			volumes, err := k.named(leave)
			if err != nil {
				return nil, err
			}
			for _, volume := range volumes {
				all = append(all, kept.Root{Kind: kept.Volume, Name: volume})
			}
			continue
		}
		r := kept.Root{Kind: kept.File, Name: name}
		why := k.guarded(name)
		if err := r.Check(); err != nil {
			why = "it is no absolute path"
		}
		for _, other := range k.o.Node.Keep {
			if other != name && other != nodefile.KeepVolumes && within(name, other) && k.guarded(other) == "" {
				why = "it is kept with " + other
			}
		}
		if why != "" {
			leave(name, why)
			continue
		}
		all = append(all, r)
	}
	if !slices.Contains(k.o.Node.Keep, nodefile.KeepVolumes) {
		volumes, err := k.named(leave)
		if err != nil {
			return nil, err
		}
		for _, volume := range volumes {
			leave("volume "+volume, "`keep:` in cluster.yaml does not name `volumes`")
		}
	}
	return all, nil
}

// named are the volumes that have names of their own. Those of a folder that cannot be read
// are not none: they would be gone with the root.
func (k *Keeper) named(leave func(name, why string)) (names []string, err error) {
	entries, err := os.ReadDir(k.volumes())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot look at Docker's volumes: %w", err)
	}
	for _, e := range entries {
		switch {
		case !e.IsDir(): // metadata.db, backingFsBlockDev
		case !kept.IsVolume(e.Name()):
			leave("volume "+e.Name(), "no volume has such a name")
		case kept.IsAnonymous(e.Name()):
			leave("volume "+e.Name(), "it has no name of its own")
		default:
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// missing is what unfit says of what is not there.
const missing = "it is not there"

// unfit says why a root cannot be kept, "" where it can.
func (k *Keeper) unfit(r kept.Root, device uint64) (string, error) {
	place := k.place(r)
	at := filepath.Dir(place)
	if r.Kind == kept.Volume {
		// moby volume/local: a volume with options has them in a file.
		switch _, err := os.Lstat(filepath.Join(place, "opts.json")); {
		case err == nil:
			return "it has options of the driver: what it holds is mounted from elsewhere, or has a quota", nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		at = filepath.Join(place, "_data")
	} else if info, err := os.Lstat(place); err == nil && info.IsDir() {
		at = place
	}
	if _, err := os.Lstat(place); errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return missing, nil
	}
	own, err := deviceOf(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it has no _data", nil
	case err != nil:
		return "", err
	case own != device:
		return "it is on another file system than the root, which stays as it is", nil
	}
	return "", nil
}

// deviceOf is the file system of a folder.
func deviceOf(path string) (uint64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint64(s.Dev), nil
}

// users are the containers that may write to roots; or why nobody knows.
func (k *Keeper) users(ctx context.Context, roots []kept.Root) ([]kept.User, string) {
	if k.o.Uses == nil {
		return nil, ""
	}
	uses, err := k.o.Uses(ctx)
	if err != nil {
		return nil, "whether containers use it is not known: " + err.Error()
	}
	var users []kept.User
	for _, u := range uses {
		user := kept.User{Container: u.Container}
		for _, r := range roots {
			place := k.place(r)
			used := r.Kind == kept.Volume && slices.Contains(u.Volumes, r.Name)
			for _, p := range u.Paths {
				used = used || within(p, place) || within(place, p)
			}
			if used {
				user.Roots = append(user.Roots, r.String())
			}
		}
		if len(user.Roots) > 0 && len(users) < kept.MaxLeft {
			users = append(users, user)
		}
	}
	return users, ""
}
