package identity

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Preview opens an identity folder as [Open] does, but writes nothing, neither
// now nor by the store's methods: what they would make and keep lives as long
// as the store, and another preview makes something else. The folder need not
// exist. What is in it is used as it is, and rights that others have are left
// alone.
func Preview(dir, cluster string) (*Store, error) {
	if err := checkCluster(cluster); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, cluster: cluster, unwritten: map[string][]byte{}}
	if err := s.refuseForeign(); err != nil {
		return nil, err
	}
	return s, s.locked(s.open)
}

// Unwritten says whether the store, a preview, has made keys or the cluster's
// secret that are not in the folder: whoever makes them in earnest will make
// others. A certificate that is merely issued anew is not meant, since the next
// one is the same to the byte.
func (s *Store) Unwritten() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.unwritten {
		base := path.Base(name)
		if name == rootFile || strings.HasSuffix(base, ".key") || strings.HasPrefix(base, "ssh_host_") {
			return true
		}
	}
	return false
}

// list gives the names in the folder, or in a target's. In a preview there may
// be no such folder; what it made itself is not among the names, since nothing
// asks for them after that.
func (s *Store) list(name string) ([]string, error) {
	entries, err := os.ReadDir(s.path(name))
	if s.unwritten != nil && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
