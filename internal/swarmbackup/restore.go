package swarmbackup

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
	"hatchery/internal/sealed"
)

// A Target is where a backup is restored to.
type Target struct {
	Identity   *enrol.Identity // the controller's: another's backup, or another cluster's, is refused
	DockerRoot string          // the engine's folder, /var/lib/docker; the engine must be stopped
	State      string          // the service's folder; "": what the backup has of it is left out
	// KeepState leaves the service's folder alone where it has something in
	// it: on a card that was not flashed anew it is newer than any backup.
	KeepState bool
}

// An OtherClusterError is the backup of another cluster.
type OtherClusterError struct{ Have, Want string }

func (e *OtherClusterError) Error() string {
	return fmt.Sprintf("this is a backup of the cluster %q, not of %q", e.Have, e.Want)
}

// What a backup may hold: more than a swarm of 252 nodes has.
const (
	maxFiles   = 4096
	maxRestore = 4 << 30
)

// Aside ends the names of folders that a restored one took the place of.
const Aside = ".before-restore"

// Check reads a backup to its end and gives its label: it is whole, and this
// cluster's.
func Check(ctx context.Context, r io.Reader, id *enrol.Identity) (*Label, error) {
	return unpack(ctx, r, id, func(string, io.Reader) error { return nil })
}

// Restore puts a backup in its place, whole or not at all: it is unpacked
// beside, synced, and renamed, the service's folder first and the swarm's last.
// Where the swarm's folder holds something, that is kept beside it
// (Aside and a number). Restore may be called again after a power cut at any point.
//
// The errors are sealed.ErrForeign (another key), sealed.ErrDamaged,
// sealed.ErrFormat, *OtherClusterError, and those of the disk.
func Restore(ctx context.Context, r io.Reader, to Target) (*Label, error) {
	swarm := place{dir: filepath.Join(to.DockerRoot, "swarm"), prefix: "swarm/"}
	places := []*place{&swarm}
	if to.State != "" {
		keep := false
		if to.KeepState {
			entries, err := os.ReadDir(to.State)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("cannot restore: %w", err)
			}
			keep = len(entries) > 0
		}
		if !keep {
			places = []*place{{dir: to.State, prefix: "state/"}, &swarm}
		}
	}
	for _, p := range places {
		if err := p.begin(); err != nil {
			return nil, fmt.Errorf("cannot restore: %w", err)
		}
		defer os.RemoveAll(p.fresh())
	}
	label, err := unpack(ctx, r, to.Identity, func(name string, content io.Reader) error {
		for _, p := range places {
			if rel, ok := strings.CutPrefix(name, p.prefix); ok {
				return p.write(rel, content)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	if !swarm.has[nodeKey] || !swarm.has[nodeCert] || !swarm.has["docker-state.json"] {
		return nil, fmt.Errorf("cannot restore: %w: parts of the swarm are missing in it", sealed.ErrDamaged)
	}
	for _, p := range places {
		if err := p.commit(); err != nil {
			return nil, fmt.Errorf("cannot restore: %w", err)
		}
	}
	return label, nil
}

// unpack reads a whole backup and gives its files to f. Nothing that f was
// given is to be trusted before unpack has ended without an error.
func unpack(ctx context.Context, r io.Reader, id *enrol.Identity, f func(name string, content io.Reader) error) (*Label, error) {
	open, err := sealed.NewReader(r, id.Key())
	if err != nil {
		return nil, err
	}
	label, err := ParseLabel(open.Label())
	if err != nil {
		return nil, err
	}
	if label.Cluster != id.Peer.Cluster {
		return nil, &OtherClusterError{label.Cluster, id.Peer.Cluster}
	}
	zip, err := gzip.NewReader(open)
	if err != nil {
		return nil, damaged(err)
	}
	zip.Multistream(false)
	archive := tar.NewReader(zip)
	var total int64
	for files := 0; ; files++ {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		header, err := archive.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, damaged(err)
		}
		total += header.Size
		switch {
		case header.Typeflag != tar.TypeReg || !plain(header.Name):
			return nil, fmt.Errorf("%w: %q is no file of a backup", sealed.ErrDamaged, header.Name)
		case files == maxFiles || header.Size > maxRestore || total > maxRestore:
			return nil, fmt.Errorf("%w: it holds more than a swarm can have", sealed.ErrDamaged)
		}
		if err := f(header.Name, damagedReader{archive}); err != nil {
			return nil, fmt.Errorf("%s: %w", header.Name, err)
		}
	}
	// The sealed stream's own end is what says that this is all.
	if _, err := io.Copy(io.Discard, zip); err != nil {
		return nil, damaged(err)
	}
	if _, err := io.Copy(io.Discard, open); err != nil {
		return nil, damaged(err)
	}
	return label, nil
}

// plain says whether a name is below the archive's root whatever is done with
// it: no dots that lead up, on no system.
func plain(name string) bool {
	return filepath.IsLocal(filepath.FromSlash(name)) && path.Clean(name) == name && !strings.Contains(name, "\\")
}

// damaged gives what an error of unpacking means. Those of the sealed
// stream and of the disk say so themselves.
func damaged(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%w: %v", sealed.ErrDamaged, err)
	}
	return err
}

type damagedReader struct{ r io.Reader }

func (d damagedReader) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && err != io.EOF {
		err = damaged(err)
	}
	return n, err
}

// A place is a folder on its way.
type place struct {
	dir    string
	prefix string
	has    map[string]bool
	dirs   []string
}

// fresh is where the folder is unpacked: beside its place, so that a rename
// is enough.
func (p *place) fresh() string { return p.dir + ".restoring" }

func (p *place) begin() error {
	p.has = make(map[string]bool)
	if err := os.RemoveAll(p.fresh()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.dir), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(p.fresh(), 0o700); err != nil {
		return err
	}
	p.dirs = []string{p.fresh()}
	return nil
}

func (p *place) write(rel string, content io.Reader) error {
	file := filepath.Join(p.fresh(), filepath.FromSlash(rel))
	if err := p.mkdir(filepath.Dir(file)); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	p.has[rel] = true
	return err
}

func (p *place) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case err == nil:
		p.dirs = append(p.dirs, dir)
		return nil
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := p.mkdir(filepath.Dir(dir)); err != nil {
			return err
		}
		return p.mkdir(dir)
	}
	return err
}

// commit syncs the folder and puts it in its place. Another folder's content is set
// aside first.
func (p *place) commit() error {
	for _, dir := range p.dirs {
		if err := atomicfile.SyncDir(dir); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if err := setAside(p.dir); err != nil {
			return err
		}
	} else if err == nil {
		if err := os.Remove(p.dir); err != nil {
			return err
		}
	}
	if err := os.Rename(p.fresh(), p.dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(p.dir))
}

func setAside(dir string) error {
	for n := 1; ; n++ {
		aside := fmt.Sprintf("%s%s-%d", dir, Aside, n)
		if _, err := os.Lstat(aside); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Rename(dir, aside)
	}
}
