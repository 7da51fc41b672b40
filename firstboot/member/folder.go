package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hatchery/internal/atomicfile"
	"hatchery/internal/swarm"
)

// Docker's own files in its folder swarm (moby daemon/cluster/utils.go,
// swarmkit node/node.go): how it joined, and which managers it knows.
const (
	dockerState  = "docker-state.json"
	remotesState = "state.json"
)

// Broken ends the name of a file that Unblock set aside.
const Broken = ".broken"

// maxStateFile is more than such a file takes, in bytes.
const maxStateFile = 1 << 20

// Unblock sets aside what a power cut may leave of two files in Docker's
// folder: an engine that cannot read them does not start at all (20.10:
// "Error creating cluster component"). It is for a node of either role, for an
// engine that does not run, and gives the names of what it set aside. The
// engine then starts without them: a worker as part of no swarm, so that it
// joins, and stays the node that its certificate says; a manager's state is left for package founding.
func Unblock(dockerRoot string) (aside []string, err error) {
	dir := filepath.Join(dockerRoot, "swarm")
	var torn []string
	for name, into := range map[string]any{dockerState: &map[string]json.RawMessage{}, remotesState: &[]map[string]json.RawMessage{}} {
		bad, err := unreadable(filepath.Join(dir, name), into)
		if err != nil {
			return nil, fmt.Errorf("cannot see what keeps Docker from starting: %w", err)
		}
		if bad {
			torn = append(torn, name)
		}
	}
	if len(torn) == 0 {
		return nil, nil
	}
	if _, _, role, _, _, err := swarm.CertificateOf(dockerRoot); err == nil && role == swarm.RoleWorker {
		// Without the one, the other is of no use to a worker.
		torn = []string{dockerState, remotesState}
	}
	for _, name := range torn {
		place := filepath.Join(dir, name)
		switch err := os.Rename(place, place+Broken); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return aside, fmt.Errorf("cannot set aside what keeps Docker from starting: %w", err)
		default:
			aside = append(aside, place+Broken)
		}
	}
	return aside, atomicfile.SyncDir(dir)
}

// unreadable says that a file is there, and is not of the form of into.
func unreadable(path string, into any) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, nil
	}
	if info.Size() > maxStateFile {
		return true, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	return json.Unmarshal(data, into) != nil, nil
}
