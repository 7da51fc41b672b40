package swarmbackup

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
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
	log  *log   // of what is shortened
	size int64
	sum  [sha256.Size]byte // of what is not in data
}

// A log is how much of which segments was whole, and from where on it is
// needed.
type log struct {
	paths []string
	sizes []int64
	from  uint64
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
	snapshots, err := raftNames(root, snapDir, ".snap")
	if err != nil {
		return nil, err
	}
	segments, err := raftNames(root, walDir, ".wal")
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
	// The newest one is what an engine starts from.
	var term, newest uint64
	if n := len(snapshots); n > 0 {
		p, err := snapshotPart(root, snapshots[n-1])
		if err != nil {
			return nil, err
		}
		var ok bool
		if term, newest, ok = numbers(p.name, ".snap"); !ok {
			return nil, fmt.Errorf("%s is no name of a snapshot", p.path)
		}
		v.parts = append(v.parts, *p)
	}
	if len(segments) == 0 {
		return nil, fmt.Errorf("%w: %s has no log of raft's", ErrNoSwarm, root)
	}
	l := &log{from: newest}
	sum := sha256.New()
	counted := &counter{w: sum}
	state := walState{short: &shortLog{w: counted, from: newest}}
	for i, name := range segments {
		path := filepath.Join(root, filepath.FromSlash(name))
		size, err := readFile(path, state.readSegment)
		if errors.Is(err, errTorn) && i == len(segments)-1 {
			v.tornAt, err = size, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		l.paths, l.sizes = append(l.paths, path), append(l.sizes, size)
	}
	if err := state.short.end(); err != nil {
		return nil, err
	}
	switch {
	case !state.metadata || state.index == 0 && newest == 0:
		return nil, fmt.Errorf("%s: the log is empty: %w", filepath.Join(root, walDir), errTorn)
	case newest > 0 && !state.snapshots[newest]:
		return nil, fmt.Errorf("%s: the log does not know the snapshot at %d: %w", filepath.Join(root, walDir), newest, errTorn)
	case state.commit < newest:
		return nil, fmt.Errorf("%s: the log ends before the snapshot at %d: %w", filepath.Join(root, walDir), newest, errTorn)
	}
	p := part{name: "swarm/" + walDir + "/" + firstSegment, log: l, size: counted.n}
	sum.Sum(p.sum[:0])
	v.parts = append(v.parts, p)
	// A log may have no entry after its snapshot.
	v.label.Term, v.label.Index = max(state.term, term), max(state.index, newest)
	return v, nil
}

// firstSegment is the name of a log's first segment: number 0, from entry 0.
const firstSegment = "0000000000000000-0000000000000000.wal"

// readFile reads a file of raft's, which may be gone by now.
func readFile(path string, read func(io.Reader) (int64, error)) (int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errMoved
	} else if err != nil {
		return 0, err
	}
	defer f.Close()
	return read(f)
}

func snapshotPart(root, name string) (*part, error) {
	p := &part{name: "swarm/" + name, path: filepath.Join(root, filepath.FromSlash(name))}
	sum := sha256.New()
	size, err := readFile(p.path, func(r io.Reader) (int64, error) {
		counted := &counter{w: sum}
		err := readSnapshot(io.TeeReader(r, counted))
		return counted.n, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.path, err)
	}
	p.size = size
	sum.Sum(p.sum[:0])
	return p, nil
}

// raftNames lists one kind of raft's files, the newest last. What is still
// being made (.tmp) and what etcd set aside (.broken) is left out.
func raftNames(root, dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(dir)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), suffix) {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// writeTo writes the log again, as it was when it was looked at.
func (l *log) writeTo(w io.Writer) error {
	state := walState{short: &shortLog{w: w, from: l.from}}
	for i, path := range l.paths {
		if _, err := readFile(path, func(r io.Reader) (int64, error) {
			return state.readSegment(io.LimitReader(r, l.sizes[i]))
		}); errors.Is(err, errTorn) {
			return errMoved
		} else if err != nil {
			return err
		}
	}
	return state.short.end()
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
		if !ok || p.data == nil {
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

// A counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// settle is how long a record that is being written is given.
const settle = 50 * time.Millisecond
