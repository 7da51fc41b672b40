package swarmbackup

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/atomicfile"
)

// Where the parts of the swarm's folder lie (swarmkit's ca and
// manager/state/raft/storage, moby's daemon/cluster).
const (
	walDir   = "raft/wal-v3-encrypted"
	snapDir  = "raft/snap-v3-encrypted"
	nodeCert = "certificates/swarm-node.crt"
	nodeKey  = "certificates/swarm-node.key"
)

// smallFiles are read whole. The key holds the key of raft's files as well.
var smallFiles = []struct {
	name     string
	optional bool
}{
	{"docker-state.json", false},
	{"state.json", true},
	{nodeCert, false},
	{nodeKey, false},
	{"certificates/swarm-root-ca.crt", false},
}

const (
	maxSmall = 1 << 20  // of a small file
	maxState = 16 << 20 // of a file of the service
)

var (
	// ErrNoSwarm is an engine's folder without a manager's state.
	ErrNoSwarm = errors.New("this engine manages no swarm")
	// errMoved is a folder that changed under the reader's hands.
	errMoved = errors.New("the swarm's folder changed while it was read")
)

// A part is a file as it goes into the archive.
type part struct {
	name string // in the archive
	data []byte // of a small file
	path string // of one that is copied
	size int64
	sum  [sha256.Size]byte // of the copied
}

// A view is a consistent view of the folder.
type view struct {
	parts  []part
	label  Label
	tornAt int64 // where the last segment ends in something that is no record; -1: nowhere
}

// look reads the swarm's folder once. Raft's log only grows, so that what is whole
// at one moment stays what it is; look notes its length, and the copy takes
// no more. Every such beginning of the log, with the snapshots from before, is a state that the
// engine could have been stopped in. errMoved and errTorn are worth another look.
func look(root string) (*view, error) {
	v := &view{tornAt: -1}
	names, err := raftNames(root)
	if err != nil {
		return nil, err
	}
	for _, f := range smallFiles {
		data, err := readSmall(filepath.Join(root, filepath.FromSlash(f.name)), maxSmall)
		if errors.Is(err, fs.ErrNotExist) {
			if f.optional {
				continue
			}
			return nil, fmt.Errorf("%w: %s has no %s", ErrNoSwarm, root, f.name)
		} else if err != nil {
			return nil, err
		}
		if f.name == nodeCert {
			if v.label.NodeID, v.label.Swarm, err = manager(data); err != nil {
				return nil, err
			}
		}
		v.parts = append(v.parts, part{name: "swarm/" + f.name, data: data, size: int64(len(data))})
	}
	// Snapshots before the log: the log knows every snapshot that is there.
	var newest uint64
	segments := 0
	var log walState
	for _, name := range names {
		p := part{name: "swarm/" + name, path: filepath.Join(root, filepath.FromSlash(name))}
		f, err := os.Open(p.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errMoved
		} else if err != nil {
			return nil, err
		}
		sum := sha256.New()
		if path.Dir(name) == snapDir {
			counted := &counter{r: io.TeeReader(f, sum)}
			err = readSnapshot(counted)
			p.size = counted.n
			if _, index, ok := numbers(name, ".snap"); ok {
				newest = max(newest, index)
			}
		} else {
			segments++
			p.size, err = log.readSegment(f)
			if errors.Is(err, errTorn) && name == names[len(names)-1] {
				v.tornAt, err = p.size, nil
			}
			if err == nil {
				err = sumOf(f, p.size, sum)
			}
		}
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.path, err)
		}
		sum.Sum(p.sum[:0])
		v.parts = append(v.parts, p)
	}
	switch {
	case segments == 0:
		return nil, fmt.Errorf("%w: %s has no log of raft's", ErrNoSwarm, root)
	case !log.metadata || log.index == 0 && newest == 0:
		return nil, fmt.Errorf("%s: the log is empty: %w", filepath.Join(root, walDir), errTorn)
	case newest > 0 && !log.snapshots[newest]:
		return nil, fmt.Errorf("%s: the log does not know the snapshot at %d: %w", filepath.Join(root, walDir), newest, errTorn)
	}
	v.label.Term, v.label.Index = log.term, max(log.index, newest)
	return v, nil
}

// raftNames lists raft's files, snapshots first, each kind in its order. What is
// still being made (.tmp) and what etcd set aside (.broken) is left out.
func raftNames(root string) ([]string, error) {
	var names []string
	for _, kind := range []struct{ dir, suffix string }{{snapDir, ".snap"}, {walDir, ".wal"}} {
		entries, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(kind.dir)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && strings.HasSuffix(e.Name(), kind.suffix) {
				names = append(names, path.Join(kind.dir, e.Name()))
			}
		}
	}
	return names, nil
}

// numbers reads the two numbers that name a file of raft's.
func numbers(name, suffix string) (a, b uint64, ok bool) {
	first, second, ok := strings.Cut(strings.TrimSuffix(path.Base(name), suffix), "-")
	if !ok {
		return 0, 0, false
	}
	a, err1 := strconv.ParseUint(first, 16, 64)
	b, err2 := strconv.ParseUint(second, 16, 64)
	return a, b, err1 == nil && err2 == nil
}

// same says whether the small files still are what the view saw: the key that
// raft's files are encrypted with is among them. A later snapshot or segment
// changes nothing about what was copied.
func (v *view) same(root string) (bool, error) {
	for _, p := range v.parts {
		rel, ok := strings.CutPrefix(p.name, "swarm/")
		if !ok || p.path != "" {
			continue
		}
		data, err := readSmall(filepath.Join(root, filepath.FromSlash(rel)), maxSmall)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil || !bytes.Equal(data, p.data) {
			return false, err
		}
	}
	return true, nil
}

// manager reads who a swarm certificate belongs to. Only a manager has a
// swarm's state.
func manager(data []byte) (nodeID, swarmID string, err error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return "", "", fmt.Errorf("the swarm's certificate is no PEM: %w", errTorn)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", "", fmt.Errorf("the swarm's certificate: %w", err)
	}
	subject := cert.Subject
	if len(subject.Organization) != 1 || subject.CommonName == "" {
		return "", "", errors.New("the swarm's certificate names no node and no swarm")
	}
	if !slices.Contains(subject.OrganizationalUnit, "swarm-manager") {
		return "", "", fmt.Errorf("%w: it is a worker", ErrNoSwarm)
	}
	return subject.CommonName, subject.Organization[0], nil
}

// stateParts reads the service's own folder. A folder that is not there has
// nothing in it yet.
func stateParts(root string) ([]part, error) {
	var parts []part
	if root == "" {
		return nil, nil
	}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed in between
		} else if err != nil {
			return err
		}
		if !entry.Type().IsRegular() || strings.HasSuffix(file, atomicfile.Suffix) {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		data, err := readSmall(file, maxState)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		parts = append(parts, part{name: "state/" + filepath.ToSlash(rel), data: data, size: int64(len(data))})
		return nil
	})
	return parts, err
}

func readSmall(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes: it does not belong into a backup", file, most)
	}
	return data, err
}

// rawSize is what the swarm's folder takes on the disk, in bytes.
func rawSize(root string) int64 {
	var total int64
	filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}

// sumOf digests the first bytes of a file.
func sumOf(f *os.File, size int64, sum hash.Hash) error {
	n, err := io.Copy(sum, io.NewSectionReader(f, 0, size))
	if err == nil && n != size {
		err = errMoved
	}
	return err
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// settle is how long a record that is being written is given.
const settle = 50 * time.Millisecond
