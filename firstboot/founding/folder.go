package founding

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"hatchery/internal/atomicfile"
)

// What lies in the folder swarm of Docker's (moby daemon/cluster/cluster.go
// and utils.go, swarmkit node/node.go and ca/config.go, manager/state/raft/storage).
const (
	dockerState  = "docker-state.json" // Docker's own: without it, the engine starts as part of no swarm
	remotesState = "state.json"        // the managers that the node knows
	workerDir    = "worker"            // the tasks that ran here
	raftDir      = "raft"              // on managers only: log and snapshots, encrypted
)

// holdsSwarm says that a folder has the state of a swarm.
func holdsSwarm(dir string) bool { return holdsFiles(filepath.Join(dir, raftDir)) }

// holdsFiles says that there is any file in a folder.
func holdsFiles(dir string) bool {
	found := errors.New("found")
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			return found
		}
		return err
	})
	return err == found
}

// maxRemotes is more than a list of managers takes, in bytes.
const maxRemotes = 1 << 20

// otherManagers are the addresses of managers that are not this machine, as
// far as the engine has noted them.
func (g *going) otherManagers() []string {
	f, err := os.Open(filepath.Join(g.swarmDir(), remotesState))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRemotes))
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(parseRemotes(data), g.own)
}

// parseRemotes reads the addresses in a node's state.json.
func parseRemotes(data []byte) []string {
	var remotes []struct {
		Addr string `json:"addr"`
	}
	if json.Unmarshal(data, &remotes) != nil {
		return nil
	}
	var addrs []string
	for _, r := range remotes {
		if r.Addr != "" {
			addrs = append(addrs, r.Addr)
		}
	}
	return addrs
}

// unlink removes a file for good. That there is none is no error.
func unlink(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// keepMoved moves a folder aside and gives its new name.
func keepMoved(dir string) (string, error) {
	place, err := freePlace(dir)
	if err != nil {
		return "", err
	}
	if err := os.Rename(dir, place); err != nil {
		return "", err
	}
	return place, atomicfile.SyncDir(filepath.Dir(dir))
}

// keepCopy copies a folder aside and gives the copy's name. The copy appears
// whole or not at all.
func keepCopy(ctx context.Context, dir string) (string, error) {
	part := dir + ".kept" + atomicfile.Suffix
	if err := os.RemoveAll(part); err != nil { // an earlier try's
		return "", err
	}
	if err := copyTree(ctx, dir, part); err != nil {
		return "", errors.Join(err, os.RemoveAll(part))
	}
	place, err := freePlace(dir)
	if err != nil {
		return "", err
	}
	if err := os.Rename(part, place); err != nil {
		return "", err
	}
	return place, atomicfile.SyncDir(filepath.Dir(dir))
}

// freePlace is the first of swarm.kept-1, swarm.kept-2 … that is not taken.
func freePlace(dir string) (string, error) {
	for n := 1; n < 1000; n++ {
		place := fmt.Sprintf("%s.kept-%d", dir, n)
		if _, err := os.Lstat(place); errors.Is(err, fs.ErrNotExist) {
			return place, nil
		}
	}
	return "", fmt.Errorf("there are a thousand folders %s.kept-… already: look what breaks the swarm, and remove them", dir)
}

// copyTree copies folders and regular files, synced. Sockets and other things
// that live while the engine runs are left out.
func copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		place := filepath.Join(to, rel)
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			return os.Mkdir(place, info.Mode().Perm()|0o700)
		case e.Type().IsRegular():
			return copyFile(path, place, info.Mode().Perm())
		}
		return nil
	})
}

// copyFile copies a file, zeros as holes: a swarm's log is 64 MB of them, and
// the disk is a card.
func copyFile(from, to string, perm fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer out.Close()
	buf, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	var size int64
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}
