package keep

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"hatchery/internal/atomicfile"
	"hatchery/internal/sealed"
	"hatchery/internal/swarmbackup"
)

// Reserve is what a backup leaves free on the card, in bytes: a card that is
// full to the brim breaks more than a missing backup.
const Reserve = 64 << 20

var (
	// ErrNoRoom is a card without space for one more backup.
	ErrNoRoom = errors.New("there is no room for the backup on this node")
	// ErrNotIt is content that does not match its id, or is no backup.
	ErrNotIt = errors.New("this is not the backup that was announced")
)

// A Store is the folder with a node's backups, each in a file named after its
// place in the order of arrival and its id: 0000000000000012-<id>.swarm. The
// names make the order, since a node's clock may be anywhere.
type Store struct {
	dir  string
	free func(dir string) (int64, error)
	mu   sync.Mutex // held by whoever changes the folder
}

// Open opens the folder, which is made if it is not there, and clears away
// what a killed process left.
func Open(dir string) (*Store, error) {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = atomicfile.RemoveLeftovers(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep backups: %w", err)
	}
	s := &Store{dir: dir, free: freeSpace}
	kept, err := s.list()
	if err == nil {
		err = s.prune(kept)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep backups: %w", err)
	}
	return s, nil
}

type kept struct {
	number uint64
	id     string
	name   string
	bytes  int64
	swarm  string // whose it is; "" where it is damaged
}

// list gives the kept ones, the latest first.
func (s *Store) list() ([]kept, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var all []kept
	for _, e := range entries {
		number, id, ok := strings.Cut(strings.TrimSuffix(e.Name(), swarmbackup.Suffix), "-")
		n, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || !swarmbackup.ValidID(id) || !strings.HasSuffix(e.Name(), swarmbackup.Suffix) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		all = append(all, kept{n, id, e.Name(), info.Size(), s.swarmOf(e.Name())})
	}
	slices.SortFunc(all, func(a, b kept) int { return cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(b.name, a.name)) })
	return all, nil
}

// swarmOf says which swarm a backup is of, by its label.
func (s *Store) swarmOf(name string) string {
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	header, err := sealed.ReadHeader(f)
	if err != nil {
		return ""
	}
	label, err := swarmbackup.ParseLabel(header.Label)
	if err != nil {
		return ""
	}
	return label.Swarm
}

// prune removes all but the latest of the present swarm, and the latest of the
// one before: a controller that made a new swarm because no node answered it in
// time must not cost the old one.
func (s *Store) prune(all []kept) error {
	present, former := 0, ""
	for i, k := range all {
		keep := !slices.ContainsFunc(all[:i], func(later kept) bool { return later.id == k.id })
		switch {
		case !keep:
		case k.swarm == all[0].swarm:
			present++
			keep = present <= swarmbackup.Kept
		case k.swarm != "" && former == "":
			former = k.swarm
		default:
			keep = false
		}
		if keep {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, k.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// List says what is kept, the latest first.
func (s *Store) List() (*swarmbackup.Listing, error) {
	all, err := s.list()
	if err != nil {
		return nil, fmt.Errorf("cannot list the backups: %w", err)
	}
	listing := &swarmbackup.Listing{Backups: []swarmbackup.Entry{}}
	for _, k := range all {
		f, err := os.Open(filepath.Join(s.dir, k.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("cannot list the backups: %w", err)
		}
		header, err := sealed.ReadHeader(f)
		f.Close()
		if err != nil {
			continue // damaged on the card: as good as not there
		}
		listing.Backups = append(listing.Backups, swarmbackup.Entry{ID: k.id, Bytes: k.bytes, Header: header.Raw})
	}
	return listing, nil
}

// Get opens a kept backup; fs.ErrNotExist where it is not.
func (s *Store) Get(id string) (*os.File, error) {
	all, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if k.id == id {
			return os.Open(filepath.Join(s.dir, k.name))
		}
	}
	return nil, fs.ErrNotExist
}

// Put keeps a backup of size bytes, whole or not at all; then the oldest goes
// if there are more than swarmbackup.Kept of its swarm. It says whether the backup is new
// here. One that is kept already becomes the latest, and the content is not read. The errors: ErrNoRoom,
// ErrNotIt, those of reading and of the disk.
func (s *Store) Put(id string, size int64, content io.Reader) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.list()
	if err != nil {
		return false, err
	}
	number := uint64(1)
	if len(all) > 0 {
		number = all[0].number + 1
	}
	place := filepath.Join(s.dir, fmt.Sprintf("%016d-%s%s", number, id, swarmbackup.Suffix))
	for i, k := range all {
		if k.id != id {
			continue
		}
		// What was damaged on the card since is written anew.
		if got, _, err := swarmbackup.FileID(filepath.Join(s.dir, k.name)); err != nil || got != id {
			if err := os.Remove(filepath.Join(s.dir, k.name)); err != nil {
				return false, err
			}
			all = slices.Delete(all, i, i+1)
			break
		}
		if i > 0 {
			if err := os.Rename(filepath.Join(s.dir, k.name), place); err != nil {
				return false, err
			}
		}
		return false, atomicfile.SyncDir(s.dir)
	}
	if all, err = s.makeRoom(all, size); err != nil {
		return false, err
	}
	if err := s.write(place, id, size, content); err != nil {
		return false, err
	}
	return true, s.prune(append([]kept{{number, id, filepath.Base(place), size, s.swarmOf(filepath.Base(place))}}, all...))
}

// makeRoom sees that there is space. If need be all kept ones go but the latest, which
// stays until a later one is whole.
func (s *Store) makeRoom(all []kept, size int64) ([]kept, error) {
	for {
		free, err := s.free(s.dir)
		if err != nil {
			return nil, err
		}
		if free-size >= Reserve {
			return all, nil
		}
		if len(all) < 2 {
			return nil, fmt.Errorf("%w: %d bytes are free, and it needs %d and %d in reserve", ErrNoRoom, free, size, int64(Reserve))
		}
		last := all[len(all)-1]
		if err := os.Remove(filepath.Join(s.dir, last.name)); err != nil {
			return nil, err
		}
		all = all[:len(all)-1]
	}
}

func (s *Store) write(place, id string, size int64, content io.Reader) error {
	f, err := atomicfile.Create(place, 0o600)
	if err != nil {
		return err
	}
	defer f.Discard()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(content, size+1))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != size || got != id {
		return fmt.Errorf("%w: %d bytes came with the digest %s", ErrNotIt, n, got)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := sealed.ReadHeader(f); err != nil {
		return fmt.Errorf("%w: %w", ErrNotIt, err)
	}
	return f.Commit()
}
